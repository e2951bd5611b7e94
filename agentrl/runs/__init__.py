"""Runs: a run's folder, its metrics, what is checked before it, and what is shown of it."""
