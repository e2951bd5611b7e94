"""One file an experiment: config, tasks, workflow, judge. A copy is a fork."""
