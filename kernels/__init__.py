"""Kernels that make merged contexts cheap. They know torch, triton and numpy alone."""
