"""The trial of a run's largest micro-batch: how large it is, that nothing stays of it, and what is
said where memory does not suffice. What it measures, a GPU alone shows."""

import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.config import Config, ModelConfig
from agentrl.learning.checkpoint import get_random_state
from agentrl.learning.learner import Learner, adamw
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.runs import trial
from agentrl.signals import Signals
from agentrl.types import CannotStart
from kernels.tree_attention.segments import PIECE
from tests.support.small_samples import SIZES, conversations

MB = 10**6


async def solve(task, model):
    return 1.0


CONFIG = Config(
    workflow=solve,
    tasks=lambda data: ([], []),
    model=ModelConfig(path="m", max_model_len=200),
    micro_batch_tokens=700,
)


class Drawing(Policy):
    """Draws from every generator that a policy may draw from."""

    def forward(self, *args, **kwargs):
        random.random(), np.random.rand(), torch.rand(1)
        return super().forward(*args, **kwargs)


@pytest.fixture
def ranks():
    return Ranks("float32", Signals())


def make_learner(ranks: Ranks) -> Learner:
    torch.manual_seed(0)
    policy = Drawing(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)))
    weight = policy.trainable()[0]
    # What arithmetic would lose: a zero with a sign.
    weight.data.view(-1)[0] = -0.0
    config = replace(CONFIG.optim, lr=0.01, weight_decay=0.1)
    policy, optimizer = ranks.prepare(policy, adamw(policy.trainable(), config))
    return Learner(policy, None, optimizer)


def step(learner: Learner, ranks: Ranks) -> None:
    """A real one: its gradients are summed over several micro-batches."""
    for micro in pack(conversations(), 60):
        ranks.backward(learner.policy.terms(micro.to(ranks.device)).logprobs.sum())
    learner.clip(ranks, CONFIG.optim)
    learner.step(0.01)


def state_of(learner: Learner) -> dict[str, bytes]:
    """Weights, gradients, moments and rates, to the bit."""
    weights = dict(learner.policy.named_parameters())
    found = {name: weight.detach().cpu().numpy().tobytes() for name, weight in weights.items()}
    for name, weight in weights.items():
        found[f"{name}, gradient"] = weight.grad if weight.grad is None else "there is one"
        for key, value in learner.optimizer.state.get(weight, {}).items():
            found[f"{name}, {key}"] = value.cpu().numpy().tobytes()
    return found | {"rates": [group["lr"] for group in learner.optimizer.param_groups]}


@pytest.fixture
def random_states(monkeypatch) -> list:
    """Of every generator, when a trial began. Types that are checked draw from one of them, too."""
    states = []

    def get_state():
        states.append(generators())
        return get_random_state()

    monkeypatch.setattr(trial, "get_random_state", get_state)
    return states


def generators() -> list:
    _, keys, position, *_ = np.random.get_state()
    return [random.getstate(), (keys.tolist(), position), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("steps", [0, 1], ids=["before the first step", "after a resume"])
def test_nothing_stays_of_it(ranks, random_states, steps):
    tried, left_alone = make_learner(ranks), make_learner(ranks)
    for learner in (tried, left_alone):
        for _ in range(steps):
            step(learner, ranks)
    before = state_of(tried)
    trial.trial_step(tried, CONFIG, ranks)
    assert [generators()] == random_states
    assert state_of(tried) == before
    assert sum(", exp_avg" in name for name in before) == 2 * len(tried.policy.trainable())
    # And the next step goes where it would have gone.
    step(tried, ranks), step(left_alone, ranks)
    assert state_of(tried) == state_of(left_alone)


def test_moments_that_are_there_from_the_start_are_adamws_own(ranks):
    early, late = make_learner(ranks), make_learner(ranks)
    late.optimizer.state.clear()
    for learner in (early, late):
        step(learner, ranks), step(learner, ranks)
    assert state_of(early) == state_of(late)


def test_what_would_stay_is_noticed(ranks, monkeypatch):
    """The control: where nothing is put back, all that the test above looks at is another."""
    learner = make_learner(ranks)
    monkeypatch.setattr(trial, "set_random_state", lambda state: None)
    monkeypatch.setattr(learner.optimizer, "zero_grad", lambda: None)
    before, random_state = state_of(learner), generators()
    trial.trial_step(learner, CONFIG, ranks)
    assert all(a != b for a, b in zip(generators(), random_state, strict=True))
    after = state_of(learner)
    assert {name for name in after if after[name] != before[name]} == {
        name for name in after if name.endswith(", gradient")
    }


@pytest.mark.parametrize(
    ("budget", "longest", "branches"),
    [
        (700, 200, [128, 128, 128, 116]),
        (328, 200, [128]),
        (200, 200, []),
        (60, 200, []),
        (90, 40, [39, 11]),
    ],
)
def test_the_largest_micro_batch(budget, longest, branches):
    config = replace(
        CONFIG, micro_batch_tokens=budget, model=ModelConfig(path="m", max_model_len=longest)
    )
    micro = trial.largest_micro_batch(config, SIZES["vocab_size"])
    assert len(micro.ids) == max(budget, longest)
    assert micro.depth.max() == longest - 1
    # All but the root, which nothing was drawn from, has one term.
    assert len(micro.trained) == len(micro.term) == len(micro.ids) - 1
    lengths = torch.bincount(micro.call).tolist()
    order = list(micro.samples)
    assert [lengths[order.index(s)] for s in range(len(order))] == [longest - 1, *branches]


def test_it_gathers_more_keys_than_a_group_does():
    """Of as many tokens: a prompt and seven answers, each as long as the context allows."""
    model = ModelConfig(path="m", max_model_len=1024)
    config = replace(CONFIG, micro_batch_tokens=4096, model=model)
    rng = np.random.default_rng(0)
    prompt, *answers = rng.integers(0, 97, (8, 512)).tolist()
    (group,) = pack([trial._sample(prompt, answer) for answer in answers], 4096)
    largest = trial.largest_micro_batch(config, 97)
    assert len(group.ids) == len(largest.ids) == 4096
    # By pieces of queries on a CPU, by whole runs in flash attention.
    assert gathered(largest, PIECE) > 1.15 * gathered(group, PIECE)
    assert gathered(largest, 4096) > 3 * gathered(group, 4096)


def gathered(micro, piece: int) -> int:
    """Keys of all pieces of queries."""
    return sum(
        sum(b - a for a, b in run.above) + min(start + piece, run.stop) - run.start
        for run in micro.plan.runs
        for start in range(run.start, run.stop, piece)
    )


def test_a_micro_batch_that_does_not_fit(ranks, random_states, monkeypatch):
    learner = make_learner(ranks)
    before = state_of(learner)

    def fail(part):
        part.backward()
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(ranks, "backward", fail)
    with pytest.raises(CannotStart) as error:
        trial.trial_step(learner, CONFIG, ranks)
    assert [generators()] == random_states
    assert str(error.value) == (
        "a micro-batch of 700 tokens does not fit on the GPU beside weights, gradients and "
        "AdamW's moments: lower --micro-batch-tokens (a call of --model.max-model-len is one, "
        "too), recompute activations with --model.recompute full, or launch more ranks"
    )
    assert state_of(learner) == before
    monkeypatch.setattr(ranks, "backward", lambda part: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial.trial_step(learner, CONFIG, ranks)


class Gpu:
    """The numbers that torch gives of one: 100 MB, of which vLLM gives 40 back when it sleeps."""

    def __init__(self, monkeypatch):
        self.free = 30
        for name, number in {
            "mem_get_info": lambda: (self.free * MB, 100 * MB),
            "memory_allocated": lambda: 50 * MB,
            "max_memory_allocated": lambda: 95 * MB,
            "reset_peak_memory_stats": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, number)

    @contextmanager
    def asleep(self):
        self.free += 40
        yield


def test_what_is_said_of_a_gpu(ranks, monkeypatch):
    line = trial.try_step(make_learner(ranks), Gpu(monkeypatch), CONFIG, ranks)
    assert line == "a step with the largest micro-batch: 75.0 MB of 100.0 MB at most"
    assert not ranks.reduces_once


@pytest.mark.parametrize(("left", "once"), [(5.1, False), (5.2, True), (40, True)])
def test_where_a_whole_gradient_fits_on_every_rank_it_is_reduced_once(
    ranks, monkeypatch, left, once
):
    """Of 31 thousand weights, beside a twentieth of 100 MB; another rank has so much left."""
    monkeypatch.setattr(ranks, "size", 2)
    monkeypatch.setattr(ranks, "gather", lambda own, what: [*own, int(left * MB)])
    learner = make_learner(ranks)
    trial.try_step(learner, Gpu(monkeypatch), CONFIG, ranks)
    assert sum(weight.numel() for weight in learner.policy.trainable()) == 31_024
    assert ranks.reduces_once == once
