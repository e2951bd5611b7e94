"""What merging contexts is worth: a training step timed in three layouts of the same calls."""
