"""The three computations that make merged contexts cheap. Knows torch, triton and numpy alone."""
