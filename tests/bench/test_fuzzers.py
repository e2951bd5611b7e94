"""Fuzzers find nothing in what reads a model's text or flags, and what is there elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.sizes import sizes

KINDS = ("text", "reply", "template")
SLOW = """
def read(text):
    return sum(len(text[i:]) for i in range(0, len(text), 20)) if "<tool_call>" in text else 0
"""


def fuzz(seconds: int, folder: Path, *kinds: str) -> tuple[int, str]:
    """Its status, and what it said; its inputs are in the folder."""
    command = [sys.executable, "-m", "bench.fuzz", *kinds, "--seconds", str(seconds)]
    own = os.environ | {"TMPDIR": str(folder)}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=own)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("seconds", sizes(5, soak=300))
def test_fuzzers_find_nothing(seconds, tmp_path):
    status, said = fuzz(seconds, tmp_path, *KINDS)
    assert status == 0, said[-3000:]
    made = [int(number) for number in re.findall(r"executed_units: (\d+)", said)]
    assert len(made) == len(KINDS)
    assert min(made) > seconds


@pytest.mark.slow
def test_what_is_there_is_found(tmp_path):
    (tmp_path / "parser.py").write_text(SLOW)
    status, said = fuzz(120, tmp_path, f"{tmp_path}/parser.py:read")
    assert status != 0
    assert "is not linear in" in said
