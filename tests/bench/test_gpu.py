"""The command for a GPU, on a CPU: its rows, how it ends, and every check that a CPU can run."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from agentrl.callables import ROOT
from bench.gpu import ON_GPU, report
from bench.gpu import __main__ as command
from bench.gpu.report import Row, right, speed
from bench.gpu.timing import group_of

OPERATIONS = (
    *("input_layernorm", "qkv_proj", "q_norm", "k_norm", "rotary_emb", "attn", "o_proj"),
    *("post_attention_layernorm", "gate_up_proj", "act_fn", "down_proj", "norm"),
    *("logits_processor", "softmax"),
)
"""In the order of a forward pass."""
NOT_CARRIED = (
    *("vllm", "openai", "fastapi", "uvicorn", "httptools", "datasets", "pyarrow", "wandb"),
    *("matplotlib", "tensorboard", "swanlab", "platformdirs", "pandas", "peft"),
)
"""What a bare machine lacks, and ``make gpu-carry`` does not bring."""


def test_a_row_is_met_missed_or_unmeasured():
    rows = [
        right("a", 1.0, most=1),
        right("b", 1.1, most=1),
        right("c", float("nan"), most=1),
        Row(name="d", value=3.0, least=2, most=4),
        Row(name="e", value=1.0, least=2),
        Row(name="f", least=2),
        speed("g", 300.0, least=200),
    ]
    verdicts = ["met", "missed", "missed", "met", "missed", "unmeasured", "unmeasured"]
    assert [row.verdict for row in rows] == verdicts
    # A speed that was missed is not wrong.
    assert [row.name for row in rows if row.has_failed] == ["b", "c"]
    assert rows[3].expectation == ">= 2 <= 4"
    assert report.summary(rows) == "2 met, 3 missed, 2 unmeasured; failed: b, c"


def test_halves_in_their_order():
    names = list(command.CHECKS)
    assert command.chosen(["A"]) == names[:8]
    assert command.chosen(["B"]) == names[8:12]
    assert command.chosen([]) == names
    assert command.chosen(["engine", "machine"]) == ["machine", "engine"]


def test_kernels_by_what_they_do():
    names = ["nvjet_tst_256x128", "grad_key_kernel", "Memcpy DtoD", "fold_kernel", "reduce_kernel"]
    groups = ["GEMM", "attention", "copies", "head", "elementwise"]
    assert [group_of(name) for name in names] == groups


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command with checks of the test's own."""

    def call(out="found.json", **checks) -> tuple[int, dict[str, dict]]:
        made = {name: command.Check("A", rows) for name, rows in checks.items()}
        monkeypatch.setattr(command, "CHECKS", made)
        monkeypatch.setattr(command.argparse.ArgumentParser, "parse_args", lambda *_: options(out))
        with pytest.raises(SystemExit) as ended:
            command.main([])
        rows = json.loads((tmp_path / out).read_text())["rows"]
        return int(ended.value.code), {row["name"]: row for row in rows}

    def options(out):
        return command.argparse.Namespace(only=[], out=tmp_path / out)

    return call


def fine():
    yield right("error", 0.5, most=1)
    yield speed("speed", 7.0, unit="TFLOP/s", least=100)


def raising():
    yield right("error", 0.25, most=1)
    raise RuntimeError("no such kernel\nand more")


def test_what_raises_is_a_row_and_the_others_go_on(run):
    status, rows = run(broken=raising, fine=fine)
    assert status == 1
    assert list(rows) == ["broken: error", "broken", "fine: error", "fine: speed"]
    assert rows["broken"]["error"] == "RuntimeError: no such kernel"
    assert rows["fine: speed"]["value"] is None
    assert rows["fine: error"]["versions"]["torch"] == report.versions()["torch"]


def test_what_is_wrong_ends_with_1_and_halves_make_a_whole(run):
    def wrong():
        yield right("error", 2.0, most=1)

    assert run(fine=fine)[0] == 0
    status, rows = run(mended=wrong)
    assert (status, list(rows)) == (1, ["fine: error", "fine: speed", "mended: error"])
    status, rows = run(mended=fine)
    assert (status, rows["mended: error"]["verdict"]) == (0, "met")


def checked(out, *only: str, missing: tuple[str, ...] = ()) -> list[dict]:
    """The rows of the command in a process that lacks these packages; nothing is wrong there."""
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({missing}))\n"
        f"sys.argv = ['gpu', '--out', {str(out)!r}, '--only', *{only}]\n"
        "runpy.run_module('bench.gpu', run_name='__main__')"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    return json.loads(out.read_text())["rows"]


def names_by_check(rows: list[dict]) -> dict[str, int]:
    """How many rows there are of each check."""
    return Counter(row["name"].partition(":")[0] for row in rows)


@pytest.mark.slow
def test_every_check_that_a_cpu_can_run(tmp_path):
    rows = checked(tmp_path / "found.json", "A", "B", missing=NOT_CARRIED)
    assert list(names_by_check(rows)) == command.chosen(["A", "B"])
    met = [row for row in rows if row["verdict"] == "met"]
    assert all(row["is_needed"] for row in met)
    assert names_by_check(met) == {
        **{"attention": 5, "logprob": 6, "gradients": 8, "sharding": 5},
        **{"attention-speed": 2, "logprob-speed": 1},
    }


@pytest.mark.slow
def test_the_check_of_the_engine(tmp_path):
    rows = checked(tmp_path / "found.json", "engine")
    assert [row["name"].removeprefix("engine: ") for row in rows if row["is_needed"]] == [
        "the stepper is on another stream than vLLM was made on",
        "gap after a push",
        "gap where other weights were not pushed",
        "gap after other weights",
        "gap after sleep and a push, at level 1",
        "gap after sleep and a push, at level 2",
        "calls whose seeds did not repeat",
        "calls left of a cancelled one",
        "calls that differ after it",
        "a second engine works or is refused",
        "deterministic: calls that differ a second time",
        "deterministic: blocks that differ between starts",
        "errors where it is closed while it sleeps",
        *(f"{operation}: difference on the same inputs" for operation in OPERATIONS),
        "gap, by what differs",
    ]
    needed, unmeasured = (
        [row["name"] for row in rows if test(row)]
        for test in (
            lambda row: row["is_needed"] and row["verdict"] != "met",
            lambda row: row["verdict"] == "unmeasured",
        )
    )
    # A CPU has no streams.
    assert needed == ["engine: the stepper is on another stream than vLLM was made on"]
    assert len(rows) == 38
    assert len(unmeasured) == 7
    # Norms, rotary embeddings and the head are vLLM's to the bit; the sums of attention and of the
    # softmax have another order.
    by_name = {row["name"].removeprefix("engine: "): row for row in rows}
    same = by_name["norm: difference on the same inputs"]
    other = by_name["attn: difference on the same inputs"]
    assert (same["value"], same["note"]) == (0.0, "0.00% of its numbers differ")
    assert 0 < other["value"] < 1e-5
    assert "attn, " in by_name["gap, by what differs"]["note"]


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="a GPU's kernels, memory and NCCL")
@pytest.mark.parametrize("name", [name for name in command.CHECKS if "speed" not in name])
def test_a_gpu_does_it_right(name):
    """Parity, gradients, memory, FSDP2 over NCCL; where vLLM is, pushes, sleep, seeds, cancelling,
    and two ranks where there are two GPUs."""
    assert [report.line(row) for row in command.carried_out(name) if row.has_failed] == []
