"""Whole runs that something goes wrong with: they end in a sentence, with what was done saved."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.support.checkout import ROOT
from tests.support.running import EXPERIMENT, metrics, start, steps_saved, the_run

SPOILT = """
    import dataclasses, torch
    from agentrl.algorithms import GRPO

    class Spoilt(GRPO):
        seen = []

        def advantages(self, groups):
            self.seen.append(groups)
            return super().advantages(groups)

        def loss(self, terms):
            losses = super().loss(terms)
            broken = torch.nan if len(self.seen) == 2 else 1.0
            return dataclasses.replace(losses, values=losses.values * broken)

    algorithm = Spoilt()
"""


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_a_run_before_the_step(tmp_path, tiny_folder):
    (tmp_path / "spoilt.py").write_text(textwrap.dedent(SPOILT))
    flags = ("--algorithm", tmp_path / "spoilt.py", "--steps", "4", "--eval.every", "None")
    run = start(tmp_path, tiny_folder, *flags)
    assert run.end() == 1
    cause = r"a gradient of norm nan and loss nan is not finite, so no step was made: the loss of"
    assert re.search(rf"error: {cause} \d+ terms is, such as nan in episode \d of task ", run.said)
    assert "after step 1: go on with --resume" in run.said
    assert "Traceback" not in run.said
    folder = the_run(tmp_path)
    assert steps_saved(folder) == [1]
    assert [row["step"] for row in metrics(folder)] == [0, 1]


@pytest.mark.slow
def test_a_reader_that_goes_away_is_like_ctrl_c(tmp_path, tiny_folder):
    """As ``train.py | head`` on a terminal that knows ASCII alone."""
    command = [sys.executable, "train.py", "--exp", EXPERIMENT, "--model.path", str(tiny_folder)]
    flags = ["--runs", str(tmp_path / "runs"), "--eval.every", "None", "--steps", "50"]
    run = subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    for line in run.stdout:
        if line.startswith("step  2/50"):
            break
    run.stdout.close()
    said = run.stderr.read()
    assert run.wait(240) == 130, said
    assert "interrupted: whoever read the output is gone" in said
    assert "Traceback" not in said
    (saved,) = steps_saved(the_run(tmp_path))
    assert 2 <= saved < 50
