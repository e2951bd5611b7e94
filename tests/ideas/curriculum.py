"""A curriculum: tasks are drawn in proportion to p * (1 - p), p the success of their kind so far:
most often what half of the episodes solve (learnability, arXiv 2408.15099).
"""

from dataclasses import replace
from random import Random

from experiments import gsm8k_offline

seen = {}
"""[solved, tried] of each kind of task, by its number of steps; half of two to begin with."""


def counts(task):
    return seen.setdefault(f"{task['answer'].count('<<')} steps", [1, 2])


class Curriculum:
    state, load_state = seen.copy, seen.update

    def __init__(self, tasks, config):
        self.tasks, self.config = tasks, config

    def __len__(self):
        return self.config.steps

    def __getitem__(self, step):
        rng, of_task = Random(f"{self.config.seed}-{step}"), enumerate(map(counts, self.tasks))
        # Weighted draws without replacement: the largest of u ** (1 / weight).
        keys = sorted((rng.random() ** (n * n / (s * (n - s))), i) for i, (s, n) in of_task)
        return [self.tasks[i] for _, i in keys[-self.config.tasks_per_step :]]


def learn(moment):
    for group in moment.groups:
        counts(group.task)[0] += sum(bool(episode.success) for episode in group.scored)
        counts(group.task)[1] += len(group.scored)


config = replace(gsm8k_offline.config, batches=Curriculum, after_step=learn)
