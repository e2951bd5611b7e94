"""vLLM's EngineArgs, its reload of weights, and the lock of the engines of one process."""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agentrl.config import MAX_NUM_BATCHED_TOKENS, EngineConfig
from agentrl.types import CannotStart

Use = Literal["training", "auxiliary", "alone"]
"""Of an engine: it samples for a trainer, which has its memory meanwhile; it stands beside such a
one; or there is nothing else."""
_NEXT, _STEPPING = threading.Lock(), threading.Lock()
_OPEN: list[Any] = []
_CLOSED: list[Any] = []


def start_vllm(
    folder: str | Path, *, config: EngineConfig, reasoning_parser: str | None = None, **options: Any
) -> Any:
    """vLLM's LLMEngine on a model folder; of several ranks, in the process group that is there.

    options: those of ``arguments``. Raises CannotStart where vLLM refuses it.
    """
    # Slow to import, and only needed where an engine is.
    from vllm import EngineArgs

    _compile_nothing_on_cpu()
    from vllm.v1.engine.llm_engine import LLMEngine

    several_ranks = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    if several_ranks and not torch.cuda.is_available():
        _share_memory_within_a_run()
    args = EngineArgs(
        **arguments(folder, config=config, **options),
        # A grammar binds what comes after the reasoning.
        reasoning_parser=reasoning_parser or "",
        tensor_parallel_size=config.tensor_parallel_size,
        **({"distributed_executor_backend": "external_launcher"} if several_ranks else {}),
    )
    try:
        llm = LLMEngine.from_engine_args(args, enable_multiprocessing=False)
    except ValueError as error:
        # A KV cache that one call overflows, and whatever else of it vLLM cannot serve.
        raise CannotStart(f"vLLM cannot serve {folder}: {error}") from error
    for name in Path("/dev/shm").glob(f"{os.environ.get('MASTER_PORT')}-*cpushm_*"):
        # All ranks have it by now; with its last rank it goes, however that ends.
        name.unlink(missing_ok=True)
    _OPEN.append(llm)
    return llm


def _share_memory_within_a_run() -> None:
    """Name the memory that ranks on CPUs share by the port of their launcher.

    vLLM's name for it is the same for whatever was launched from outside: of two runs on one
    machine, the second would fail, or read the first one's sums.
    """
    from vllm.distributed.device_communicators import cpu_communicator

    shared = cpu_communicator._CPUSHMDistributed
    if not hasattr(shared, "vllm_name"):
        shared.vllm_name = staticmethod(shared.make_group_name)
        shared.make_group_name = staticmethod(
            lambda ranks: f"/{os.environ['MASTER_PORT']}{shared.vllm_name(ranks).lstrip('/')}"
        )


def _compile_nothing_on_cpu() -> None:
    """vLLM's compiler of small functions, set to none before what it would compile is imported.

    With its own, the first log-probs of a prompt wait for a compiler, half a minute on a new
    machine and seconds in every process, for one line that counts how many tokens are likelier.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).simple_compile_backend = "eager"


def arguments(
    folder: str | Path,
    *,
    max_model_len: int,
    dtype: str,
    config: EngineConfig,
    use: Use = "alone",
    deterministic: bool = False,
) -> dict[str, Any]:
    """vLLM's, for an engine of ours; the bench gives them to a plain one."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_cache_gib)
    os.environ["VLLM_FLOAT32_MATMUL_PRECISION"] = "highest"
    if dtype == "float32":
        # Else vLLM's attention multiplies in tf32, cut off.
        os.environ["TRITON_F32_DEFAULT"] = "ieee"
    on_gpu = torch.cuda.is_available()
    share = config.gpu_memory_utilization or (0.9 if use == "alone" else 0.4)
    return {
        "model": str(folder),
        "dtype": dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "gpu_memory_utilization": share,
        # CUDA graphs of two engines would be in one pool; and what is compiled for them is what
        # was fastest at this start.
        "enforce_eager": not on_gpu or use == "auxiliary" or deterministic,
        # One engine of a process can.
        "enable_sleep_mode": on_gpu and use == "training",
        "sleep_mode_offload_cudagraph": on_gpu and use == "training",
        "enable_prefix_caching": True,
        # Log-probs of the distribution that was drawn from, temperature included.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "async_scheduling": config.async_scheduling,
        "use_tqdm_on_load": False,
        **(
            _on_gpu(share, deterministic) if on_gpu else _on_cpu(max_model_len, config.max_num_seqs)
        ),
    }


def _on_gpu(share: float, deterministic: bool) -> dict[str, Any]:
    return {
        # vLLM's default for an engine is 2,048: a prompt of 16k would take eight steps.
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        # The trainer's head computes in fp32, too. bf16 logits of 16 to 32 are an eighth apart.
        "hf_overrides": {"head_dtype": "float32"},
        # Of what is free vLLM would make as many blocks as it finds room for at this start, and on
        # them depends what is found in the cache, and what is computed again.
        "kv_cache_memory_bytes": (
            int(share * torch.cuda.mem_get_info()[1] / 2) if deterministic else None
        ),
    }


def _on_cpu(max_model_len: int, max_num_seqs: int) -> dict[str, Any]:
    return {
        # vLLM rewinds a seeded generator when it splits a prompt, which a CPU's cannot do.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_model_len, 4096, 8 * max_num_seqs),
        # Prompts are shared by whole blocks: vLLM's 128 would leave most of ours unshared, and
        # cost as much. A GPU's are of 16.
        "block_size": 32,
    }


def load(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Replace the weights, by their transformers names, and forget what was cached under the old.

    Raises RuntimeError while calls are running.
    """
    if llm.has_unfinished_requests():
        raise RuntimeError("weights cannot change while calls are running")
    llm.collective_rpc(
        "reload_weights",
        kwargs={"weights_iterator": iter(weights), "is_checkpoint_format": True},
    )
    llm.apply_model(_refresh_head)
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM kept its prefix cache, which belongs to the old weights")


def _refresh_head(model: torch.nn.Module) -> None:
    """vLLM's CPU build packs the head; a tied one would keep its old copy without a word."""
    head = getattr(model, "lm_head", None)
    if head is None or torch.cuda.is_available():
        return
    if getattr(model.config, "tie_word_embeddings", False):
        head.weight = model.model.embed_tokens.weight
    head.quant_method.process_weights_after_loading(head)


@contextmanager
def engine_lock() -> Iterator[None]:
    """One engine of the process at a time, and no engine twice while another waits.

    vLLM keeps the context of the forward pass that is running, and its CPU kernels their scratch
    memory, in globals: engines that step at once draw nonsense or die.
    """
    with _NEXT:
        _STEPPING.acquire()
    try:
        yield
    finally:
        _STEPPING.release()


def shut_down(llm: Any) -> None:
    """Shut an engine down, as soon as it is the process's last.

    What vLLM tears down with one engine, process groups, is the others' too.
    """
    if llm in _OPEN:
        _OPEN.remove(llm)
        _CLOSED.append(llm)
    while _CLOSED and not _OPEN:
        _CLOSED.pop().engine_core.shutdown()
