"""Benches: whatever prints a table."""
