"""Learning: samples become a gradient."""
