"""Training step timed in three layouts of the same calls: what merging contexts is worth."""
