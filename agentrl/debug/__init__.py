"""Debugging without training: episodes one at a time, and a talk with a checkpoint."""
