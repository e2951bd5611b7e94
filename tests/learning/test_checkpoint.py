"""Random states of a checkpoint, on machines with another number of GPUs."""

import random

import numpy as np
import pytest
import torch

from agentrl.learning.checkpoint import get_random_state, set_random_state


class Gpus:
    """A machine of so many GPUs, as torch shows them; this process computes on the last."""

    def __init__(self, monkeypatch, count: int):
        self.states = [torch.full((16,), i, dtype=torch.uint8) for i in range(count)]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        for name in ("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def get_rng_state(self):
        return self.states[-1]

    def set_rng_state(self, state):
        self.states[-1] = state

    def get_rng_state_all(self):
        return list(self.states)

    def set_rng_state_all(self, states):
        for i, state in enumerate(states):
            self.states[i].copy_(state)


@pytest.mark.parametrize(("then", "now"), [(8, 1), (1, 8), (2, 2), (8, 0), (0, 2)])
def test_a_run_goes_on_with_another_number_of_gpus(monkeypatch, then, now):
    Gpus(monkeypatch, then)
    state = get_random_state()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    gpus = Gpus(monkeypatch, now)
    set_random_state(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    # Each rank's own GPU has what its own had.
    untouched = list(range(now))
    expected = [*untouched[:-1], then - 1] if then and now else untouched
    assert [int(state[0]) for state in gpus.states] == expected
