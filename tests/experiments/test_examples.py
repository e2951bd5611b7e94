"""Every example takes two steps: with a tiny model that knows nothing, and in its real size."""

import dataclasses
import textwrap
from importlib import import_module

import pytest

from agentrl.cli import experiment_names
from tests.support.real_size import make_shrunken
from tests.support.running import metrics, start, the_run

GPU = [name for name in experiment_names() if name.endswith("_gpu")]
EXAMPLES = [name.removesuffix("_gpu") for name in GPU]
EXPERIMENT = """
import dataclasses

from experiments import {name} as example
from tests.support.drawn_rewards import Noisy

config = dataclasses.replace(example.config, algorithm=Noisy(), steps=2)
"""
SHORT = (
    *("--tasks-per-step", "2", "--group-size", "2", "--sampling.max-tokens", "8"),
    *("--eval.num-tasks", "2", "--eval.every", "2"),
)


def test_these_are_the_examples():
    assert [
        *("bfcl", "countdown", "documents_qa", "frozen_lake", "learning_to_ask"),
        *("self_play", "werewolves"),
    ] == EXAMPLES


@pytest.fixture(scope="module")
def untaught(tmp_path_factory):
    """The folder of an example's model before it has learned anything."""
    folders = {}

    def make(name: str):
        if name not in folders:
            example = import_module(f"experiments.{name}")
            nothing = {"transcripts": 200, "steps": 1, "batch": 1, "matrix_lr": 0.0, "lr": 0.0}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp(name)))
                patch.setattr(
                    example, "RECIPE", dataclasses.replace(example.RECIPE, hidden=64, **nothing)
                )
                folders[name] = example.config.make_model(lambda share, note: None)
        return folders[name]

    return make


def two_steps(tmp_path, model, name) -> list[dict]:
    experiment = tmp_path / "example.py"
    experiment.write_text(textwrap.dedent(EXPERIMENT).format(name=name))
    run = start(tmp_path, model, *SHORT, experiment=str(experiment))
    assert run.end() == 0, run.said
    return metrics(the_run(tmp_path))


def check(rows: list[dict]) -> None:
    _, first, second = rows
    assert min(first["grad_norm"], second["grad_norm"]) > 0
    assert (first["episodes/error"], second["episodes/error"]) == (0, 0)
    assert max(row["gap/max_abs_logprob"] for row in (first, second)) < 1e-4
    assert "eval/success" in second


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_two_steps_of_a_model_that_knows_nothing(tmp_path, untaught, name):
    check(two_steps(tmp_path, untaught(name), name))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_two_steps_in_real_size(tmp_path, untaught, name):
    path = import_module(f"experiments.{name}_gpu").config.model.path
    model = make_shrunken(path, untaught(name), tmp_path / "model")
    check(two_steps(tmp_path, model, f"{name}_gpu"))
