"""Published ideas at work: an update each on groups that were made before, what their seams make of
an engine, and whole runs of train.py, resumed."""

import json
import math
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import rollout
from agentrl.learning.learner import Learner, adamw
from agentrl.learning.loading import load_policy, load_reference
from agentrl.runs.seams import Moment
from agentrl.serving.client import Serving
from agentrl.serving.server import Server
from agentrl.types import Chunk
from tests.support import drawn_rewards
from tests.support.device import two_gpus
from tests.support.ideas import LINES, PRESETS, config_of, flags, load
from tests.support.made_groups import made_groups
from tests.support.running import (
    EXPERIMENT,
    TWO_RANKS,
    are_equal,
    metrics,
    start,
    steps_saved,
    the_run,
    weights,
)
from tests.support.sizes import some_of
from tests.support.spy import make_handler
from tests.support.updating import Watched, one_rank
from train import update

STEPS = 3
SMALL = (
    *("--tasks-per-step", "2", "--group-size", "4", "--sampling.max-tokens", "24"),
    *("--eval.every", "3", "--eval.num-tasks", "4"),
)
HAS_ITS_OWN_REWARDS = ("self_play",)


@pytest.fixture(scope="module")
def recorded(tiny_folder):
    return made_groups(tiny_folder)


# An update each.


@pytest.mark.slow
@pytest.mark.parametrize("idea", [idea for idea in LINES if idea not in PRESETS])
def test_one_update(idea, tiny_folder, recorded):
    config, ranks, run = config_of(idea, tiny_folder), one_rank(), Watched()
    policy = load_policy(tiny_folder, config, ranks)
    policy, optimizer = ranks.prepare(policy, adamw(policy.trainable(), config.optim))
    reference = load_reference(policy, tiny_folder, config, ranks)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    learner = Learner(policy, reference, optimizer)
    found = update(learner, [Chunk(recorded)], 0, config, ranks, run)
    algorithm = config.algorithm
    assert run.num_updates == algorithm.updates * algorithm.passes
    still = {n for n, w in policy.named_parameters() if torch.equal(w.detach(), before[n])}
    assert still == {n for n, w in policy.named_parameters() if not w.requires_grad}
    assert bool(still) == (idea == "lora")
    assert not found["degenerate"]
    assert found["grad_norm"] > 0
    assert math.isfinite(found["loss"])
    if config.after_step and idea != "self_play":
        moment = Moment(1, run.tally.groups, run.tally.samples, found, policy, None)
        extra = config.after_step(moment) or {}
        assert sorted(extra) == (["pass@1", "pass@4"] if idea == "pass_at_k" else [])


# What needs an engine.


def collected(config, serving, num_tasks: int = 2):
    """A step's groups, as train.py collects them."""
    tasks, _ = rollout.find_tasks(config)
    run = Namespace(report=lambda share, note: None)
    collect = rollout.find_collect(config)
    return collect(tasks[:num_tasks], config, serving, one_rank(), run, 1)


@pytest.mark.slow
def test_top_p_is_corrected_by_the_mass_of_its_nucleus(tiny_folder, serving):
    """The trainer's log-prob less the sampler's is log Z of each token, by transformers' logits."""
    config = replace(config_of("top_p", tiny_folder), group_size=2)
    lm = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    gaps, masses = [], []
    for call in (c for g in collected(config, serving) for e in g.episodes for c in e.calls):
        with torch.no_grad():
            logits = lm(torch.tensor([call.ids])).logits[0, len(call.prompt_ids) - 1 : -1]
        ids = torch.tensor(call.completion_ids)
        probs, order = logits.softmax(-1).sort(descending=True)
        is_kept = probs.cumsum(-1) - probs < load("top_p").TOP_P
        # What was drawn is in the nucleus.
        assert (is_kept & (order == ids[:, None])).any(-1).all()
        masses.append((probs * is_kept).sum(-1))
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        gaps.append(logprobs - torch.tensor(call.logprobs))
    gaps, masses = torch.cat(gaps), torch.cat(masses)
    assert torch.allclose(gaps.exp(), masses, atol=2e-4)
    assert len(gaps) > 40
    # And it is no formality: from the whole distribution the gap would be 0.
    assert (masses >= 0.9 - 1e-4).all()
    assert masses.mean() < 0.97
    plain = replace(config, collect=None)
    (call, *_) = collected(plain, serving)[0].episodes[0].calls
    with torch.no_grad():
        logits = lm(torch.tensor([call.ids])).logits[0, len(call.prompt_ids) - 1 : -1]
    ids = torch.tensor(call.completion_ids)
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    assert torch.allclose(logprobs, torch.tensor(call.logprobs), atol=2e-4)


@pytest.mark.slow
def test_dapo_fills_a_batch_with_groups_that_differ(tiny_folder, serving):
    config = config_of("dapo", tiny_folder)
    config = replace(config, group_size=3, judge=drawn_rewards.judge)
    groups = collected(config, serving, num_tasks=4)
    assert len({group.task["id"] for group in groups}) == 4
    assert [len({e.reward for e in group.scored}) > 1 for group in groups] == [True] * 4


@pytest.mark.slow
def test_self_play_records_the_policys_calls_alone(tiny_folder, engine, tokenizer):
    limits = {"max_tokens": 16, "max_model_len": 512}
    policy, opponent = (
        make_handler(name, engine, tokenizer, "hermes", **limits) for name in ("policy", "opponent")
    )
    serving = Serving(Server(), policy, {"opponent": opponent}, seed=0)
    groups = collected(replace(config_of("self_play", tiny_folder), group_size=2), serving)
    serving.server.close()
    episodes = [episode for group in groups for episode in group.episodes]
    assert [episode.agents for episode in episodes] == [("agent",)] * 4
    assert {episode.reward for episode in episodes} <= {-1.0, 0.0, 1.0}
    assert opponent.num_tokens > 0


@pytest.mark.slow
def test_an_opponent_is_the_model_that_the_run_starts_from_and_can_be_renewed(tiny_folder):
    """The second engine of a run: what ``after_step`` gives it is what it samples from."""
    from agentrl.serving.start import serve

    config = config_of("self_play", tiny_folder)
    serving = serve(config, tiny_folder)
    mine, theirs = serving.engine, serving.auxiliary["opponent"].engine
    assert theirs.score(mine.probe) == pytest.approx(mine.score(mine.probe), abs=1e-5)
    policy = load_policy(tiny_folder, config, one_rank())
    policy.lm.get_input_embeddings().weight.data.mul_(1.5)
    before = theirs.score(mine.probe)
    for step in (1, 2):
        config.after_step(Moment(step, [], [], {}, policy, serving))
        is_renewed = theirs.score(mine.probe) != pytest.approx(before, abs=1e-3)
        assert is_renewed == (step == 2)
    assert policy.probe_gap(mine.probe, theirs.score(mine.probe)) < 1e-3
    serving.close()


# Whole runs.


@pytest.fixture(scope="session")
def demo_folder():
    """The demo's own model, from the cache where it has been made."""
    from experiments.gsm8k_offline import make_model

    return make_model(lambda share, note: None)


def started(folder: Path, idea: str, request, *more: str | Path, **options):
    """A run of train.py: of the demo in the soak; of a small model and drawn rewards in slow."""
    is_small = request.node.get_closest_marker("slow") is not None
    model = request.getfixturevalue("tiny_folder" if is_small else "demo_folder")
    teacher = request.getfixturevalue("tiny_folder")
    _, experiment, *algorithm = flags(idea, teacher, EXPERIMENT if is_small else "gsm8k_offline")
    own = SMALL if is_small else ("--eval.every", str(STEPS), "--eval.num-tasks", "32")
    if is_small and not algorithm and idea not in HAS_ITS_OWN_REWARDS:
        own = (*own, "--judge", f"{drawn_rewards.__file__}:judge")
    repeats = () if idea == "self_play" else ("--deterministic",)
    every = ("--save-every", "1", *repeats, *own, *algorithm, *more)
    return start(folder, model, *every, experiment=experiment, **options)


CASES = list(LINES.items())
"""An idea and its lines, which so stand in the soak's table."""


@pytest.mark.parametrize(("idea", "lines"), some_of(CASES, in_slow=["critic"]))
def test_three_steps_resumed_once(tmp_path, request, idea, lines):
    """Gone on from its second step, it ends as it did the first time, to the bit."""
    steps = ("--steps", str(STEPS))
    run = started(tmp_path / "whole", idea, request, *steps)
    assert run.end(1200) == 0, run.said
    whole = the_run(tmp_path / "whole")
    assert steps_saved(whole) == [1, 2, 3]
    (tmp_path / "again").mkdir()
    shutil.copytree(whole.parents[1], tmp_path / "again" / "runs")
    again = the_run(tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "step-00003")
    resumed = started(tmp_path / "again", idea, request, *steps, "--resume", again)
    assert resumed.end(1200) == 0, resumed.said
    assert "after step 2" in resumed.said
    assert steps_saved(again) == [1, 2, 3]
    if idea != "self_play":
        assert are_equal(weights(again), weights(whole))
        assert metrics(again) == metrics(whole)
    rows = metrics(again)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(math.isfinite(row["loss"]) for row in rows[1:] if "loss" in row)
    check_what_is_remembered(idea, whole)


def check_what_is_remembered(idea: str, run: Path) -> None:
    resume = run / "checkpoints" / "step-00003" / "resume"
    remembered = json.loads((resume / "seams.json").read_text())
    assert set(remembered) == {"curriculum": {"batches"}, "rae": {"algorithm"}}.get(idea, set())
    if idea == "curriculum":
        tried = [counts[1] for counts in remembered["batches"].values()]
        rows = metrics(run)[1:]
        assert sum(tried) == sum(row["episodes/ok"] + row["episodes/truncated"] for row in rows)


@two_gpus
@pytest.mark.parametrize(("idea", "lines"), some_of(CASES, in_slow=["critic"]))
def test_three_steps_on_two_ranks(tmp_path, request, idea, lines):
    run = started(tmp_path, idea, request, "--steps", str(STEPS), launch=TWO_RANKS)
    assert run.end(1800) == 0, run.said
    rows = metrics(the_run(tmp_path))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(math.isfinite(row["loss"]) for row in rows[1:] if "loss" in row)
