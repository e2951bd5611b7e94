"""Checkpoints: transformers folders, which transformers and vLLM load as they are.

    checkpoints/step-00012/
      config.json, model.safetensors, tokenizer.json, ...
      adapter/           of LoRA: what is merged into those weights, in peft's format
      resume/            what going on from here needs besides: AdamW's moments, each rank's shard
                         (torch.distributed.checkpoint), the random state of each rank, and what
                         the algorithm and the seams remember

A checkpoint appears under its name only when all of it is on the disk: it is written beside,
synced, and renamed. Whatever happens meanwhile, the one before it stays as it was.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedTokenizerBase

from agentrl.learning import lora
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.learning.rendezvous import RankLost

RESUME = "resume"
SEAMS = "seams.json"
FULL_BYTES = 2**16
"""Bytes: a disk that has fewer left was full."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


def save(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
    random_state: dict[str, Any],
    seams: dict[str, Any],
) -> None:
    """Write a checkpoint, all ranks together.

    random_state: what ``get_random_state`` returned when the step ended. seams: what else is
    remembered, the same on every rank. Raises CheckpointError, in one sentence, where it cannot be
    written; nothing of it is left then.
    """
    unfinished = folder.with_name(f".{folder.name}")
    with _cleared_on_failure(unfinished, folder):
        if ranks.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
            (unfinished / RESUME).mkdir(parents=True)
        ranks.wait("checkpoint folder")
        _save_weights(unfinished, policy, tokenizer, ranks)
        dcp.save(
            _state(policy, optimizer),
            checkpoint_id=unfinished / RESUME,
            no_dist=ranks.size == 1,
        )
        torch.save(random_state, unfinished / RESUME / f"rank-{ranks.rank}.pt")
        ranks.wait("checkpoint files")
        if ranks.is_first:
            (unfinished / RESUME / SEAMS).write_text(json.dumps(seams))
            _sync(unfinished)
            unfinished.rename(folder)
            _sync_entry(folder.parent)
        ranks.wait("checkpoint")


def load(
    folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> tuple[dict[str, Any], str | None]:
    """Put back what ``save`` wrote besides the weights, which ``Policy.load`` reads.

    The number of ranks may be another one: the optimizer's shards are dealt anew. Returns what the
    seams remember, and a sentence about what cannot go on as it was then.
    """
    # What a policy has besides the language model is loaded into its own tensors.
    state = _state(policy, optimizer)
    dcp.load(state, checkpoint_id=folder / RESUME, no_dist=ranks.size == 1)
    set_optimizer_state_dict(policy, optimizer, state["optimizer"])
    seams = json.loads((folder / RESUME / SEAMS).read_text())
    saved = len(list((folder / RESUME).glob("rank-*.pt")))
    if saved == ranks.size:
        own = folder / RESUME / f"rank-{ranks.rank}.pt"
        # The states of random and numpy are tuples, which torch's safe loading knows.
        set_random_state(torch.load(own, weights_only=False))
        return seams, None
    return seams, (
        f"the checkpoint is of {saved} ranks and this run has {ranks.size}: random states start "
        "afresh, and sums are rounded in another order"
    )


def _state(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    own = policy.own_state()
    return {
        "optimizer": get_optimizer_state_dict(policy, optimizer),
        **({"own": own} if own else {}),
    }


def get_random_state() -> dict[str, Any]:
    """The state of every generator that a step may draw from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint of the highest step, if there is one."""
    return max(checkpoints.glob("step-*"), default=None)


def step_of(folder: Path) -> int:
    """
    >>> step_of(Path("checkpoints/step-00012"))
    12
    """
    return int(folder.name.removeprefix("step-"))


def prune(checkpoints: Path, keep_last: int, best_step: int | None) -> None:
    """Delete all but the last few, and the best."""
    folders = sorted(checkpoints.glob("step-*"))
    for folder in folders[:-keep_last]:
        if step_of(folder) != best_step:
            shutil.rmtree(folder)


def _save_weights(
    folder: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase, ranks: Ranks
) -> None:
    # Every rank brings its shards of every weight; the first one keeps the whole.
    weights = {name: w.cpu() for name, w in policy.weights() if ranks.is_first}
    adapters = {name: w.cpu() for name, w in policy.adapters() if ranks.is_first}
    if ranks.is_first:
        policy.lm.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
    if adapters:
        lora.save_adapters(folder, policy.lm, adapters)


@contextmanager
def _cleared_on_failure(unfinished: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except RankLost:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    # Each library has an error of its own for a disk that is full.
    except (Exception, dcp.CheckpointException) as error:
        cause = error
        if isinstance(error, dcp.CheckpointException):
            cause = next(failure for failure, _ in error.failures.values())
        # And some do not say it at all.
        if shutil.disk_usage(folder.parent).free < FULL_BYTES:
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(f"{folder} could not be written ({cause})") from error


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
