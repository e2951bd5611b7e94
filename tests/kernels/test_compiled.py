"""The kernels compiled for a Hopper GPU by Triton's own compiler, which needs none."""

import json
import os
import subprocess
import sys

import pytest
import triton

from agentrl.callables import ROOT
from bench.launches import SWEEP
from tests.support.sizes import sizes

PINNED = f"triton=={triton.__version__}\n" in (ROOT / "requirements-cpu.txt").read_text()
pytestmark = pytest.mark.skipif(not PINNED, reason="what is spilled is of the pinned Triton")


def compiled(*options: str) -> list[dict]:
    """Interpreted here: what compiles them is a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "bench.launches", "--json", *options],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    print(f"Triton {triton.__version__}", *found, sep="\n")
    return found


def spilled(found: list[dict]) -> dict[tuple, int]:
    """Bytes, by kernel and dimensions."""
    return {(made["kernel"], made["D"]): made["spilled"] for made in found}


@pytest.mark.parametrize("others", sizes((), soak=("grad_key_kernel",)), ids=["ours", "others"])
def test_every_launch_in_bf16(others):
    """others: kernels whose other launches do no better."""
    found = compiled("--dtypes", "bfloat16")
    assert {key: n for key, n in spilled(found).items() if n} == {("dK, dV", 256): 104}
    assert [made["wgmma"] > 0 for made in found] == [True] * 15
    for name in others:
        swept = compiled("--sweep", name)
        assert len(swept) == len(SWEEP[name])
        assert min(made["spilled"] for made in swept) == 104


SPILLED_IN_FP32 = {
    **{("forward", 32): 312, ("dK, dV", 32): 320, ("forward", 64): 736},
    **{("forward", 128): 592, ("dK, dV", 128): 608, ("dQ", 256): 2720},
}


@pytest.mark.parametrize("dims", sizes((64,), soak=(32, 64, 128, 256)), ids=str)
def test_launches_in_fp32(dims):
    """Where all is fp32 arithmetic, more than registers hold."""
    found = compiled("--dtypes", "float32", "--dims", *map(str, dims))
    assert len(found) == 3 * len(dims)
    wanted = {key: n for key, n in SPILLED_IN_FP32.items() if key[1] in dims}
    assert {key: n for key, n in spilled(found).items() if n} == wanted


@pytest.mark.slow
def test_the_head_spills_nothing():
    found = compiled("--head")
    assert spilled(found) == {("fold_kernel", ""): 0, ("differentiate_kernel", ""): 0}
