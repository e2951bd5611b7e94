"""One file an experiment, or a package: config, tasks, workflow, judge. A copy is a fork."""
