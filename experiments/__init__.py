"""Experiments, a file or a package each: config, tasks, workflow, judge. A copy is a fork."""
