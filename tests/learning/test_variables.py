"""The environment decides nothing that the config decides: gradients and settings stay."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest

from agentrl.learning.variables import drop_overrides
from agentrl.serving.process import prepare_process
from tests.support.checkout import ROOT

OF_ACCELERATE = re.compile(
    r"\b(?:ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_[A-Z0-9_]*[A-Z0-9]\b"
)
NOT_SET = {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"}
OTHERS = {
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "VLLM_CPU_KVCACHE_SPACE": "7",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_FLOAT32_MATMUL_PRECISION": "medium",
    "TRITON_F32_DEFAULT": "tf32",
    **dict.fromkeys(("TORCH_COMPILE_DISABLE", "PYTORCH_JIT_DISABLE"), "1"),
    **dict.fromkeys(("TORCHINDUCTOR_FREEZING", "TORCHINDUCTOR_EMULATE_PRECISION_CASTS"), "1"),
    **dict.fromkeys(("PYTORCH_NO_CUDA_MEMORY_CACHING", "XLA_USE_BF16", "XLA_DOWNCAST_BF16"), "1"),
}
"""Of torch, oneDNN and vLLM, those that change how numbers are computed or memory is shared."""
VALUES = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
    "ACCELERATE_LOG_LEVEL": "info",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "FSDP_VERSION": "1",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def variables() -> dict[str, str]:
    """All that Accelerate reads, by the names in its source, and the others."""
    names: set[str] = set()
    for file in Path(accelerate.__file__).parent.rglob("*.py"):
        if "test_utils" not in file.parts:
            names |= set(OF_ACCELERATE.findall(file.read_text()))
    size = re.compile("(SIZE|STEPS|STAGE|LENGTH|NUM_.*|THRESHOLD|DEGREE|PARAMS)$")
    own = {n: VALUES.get(n, "4" if size.search(n) else "true") for n in names - NOT_SET}
    return own | {"FSDP_OFFLOAD_PARAMS": "true"} | OTHERS


def found_in(environment: dict[str, str]) -> dict | str:
    worker = [sys.executable, "-m", "tests.support.variables_worker"]
    clean = {n: v for n, v in os.environ.items() if n not in variables()}
    done = subprocess.run(
        worker, cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-2000:]


def culprits(names: list[str], plain: dict) -> list[str]:
    """Those of the names that make a difference by themselves, found by halving."""
    values = variables()
    if not names or found_in({name: values[name] for name in names}) == plain:
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return culprits(names[:half], plain) + culprits(names[half:], plain)


@pytest.mark.slow
def test_no_variable_changes_a_gradient_or_a_setting():
    plain = found_in({})
    assert plain["vllm"]["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert plain["norm"] > 1
    assert len(variables()) >= 80
    assert culprits(sorted(variables()), plain) == []


def test_what_would_be_read_is_gone(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "2")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    drop_overrides()
    prepare_process()
    left = {n for n in os.environ if re.match("(ACCELERATE|PARALLELISM_CONFIG|FSDP)_", n)}
    assert left == {"ACCELERATE_USE_FSDP"}
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize(
    ("name", "trainer"),
    [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")],
)
def test_another_trainer_is_refused(monkeypatch, name, trainer):
    monkeypatch.setenv(name, "true")
    with pytest.raises(
        ValueError, match=f"{name} is set, .* FSDP2 alone, not by {trainer}: launch"
    ):
        drop_overrides()
