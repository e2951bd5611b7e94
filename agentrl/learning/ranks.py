"""The processes that train together, one for each device: who they are, and how they wait.

Several of them shard the policy by FSDP2, each drives an engine of its own, and each runs its share
of the tasks. Between collectives they meet at named waits: whoever waits knows what for, and says
who has not come.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from agentrl.learning.packing import MicroBatch, deal
from agentrl.learning.policy import Policy
from agentrl.signals import Interrupted, Signals

POLL_SECONDS = 0.02
LOOK_SECONDS = 0.5
"""How often working ranks look whether another has failed or was interrupted."""
HURRY_SECONDS = 15.0
"""How long an interrupted rank waits for others. Launchers kill what has not ended in 30."""

Item = TypeVar("Item")


class RankLost(RuntimeError):
    """Another rank has failed or did not come; in a sentence that says which."""


class Ranks:
    """This process and its peers. With one process, every wait is over at once."""

    def __init__(
        self,
        dtype: str,
        signals: Signals,
        rank_timeout_seconds: float = 1800.0,
        ranks_per_engine: int = 1,
    ):
        """dtype: what the policy computes in. rank_timeout_seconds: how long to wait for a peer.

        Raises ValueError where the ranks do not divide into engines.
        """
        self._dtype, self.signals, self._wait_seconds = dtype, signals, rank_timeout_seconds
        self._ranks_per_engine = ranks_per_engine
        # Every collective follows a wait, so it is short: who is late is late for the wait.
        patience = InitProcessGroupKwargs(timeout=timedelta(seconds=rank_timeout_seconds))
        precision = "bf16" if dtype == "bfloat16" else "no"
        self.accelerator = Accelerator(
            # Without a GPU it has to be told, or several processes never meet.
            cpu=not torch.cuda.is_available(),
            mixed_precision=precision,
            kwargs_handlers=[patience],
        )
        self._waits, self._looked = 0, 0.0
        if self.size % ranks_per_engine:
            raise ValueError(
                f"engine.tensor_parallel_size is {ranks_per_engine}, which does not divide the "
                f"{self.size} ranks: launch a multiple of it with --num_processes"
            )

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def size(self) -> int:
        return self.accelerator.num_processes

    @property
    def size_here(self) -> int:
        """How many ranks there are on this host."""
        return int(os.environ["LOCAL_WORLD_SIZE"]) if self.size > 1 else 1

    @property
    def num_engines(self) -> int:
        return self.size // self._ranks_per_engine

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_first_of_host(self) -> bool:
        return self.accelerator.is_local_main_process

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @cached_property
    def _store(self) -> dist.Store:
        return dist.PrefixStore("agentrl", dist.distributed_c10d._get_default_store())

    def prepare(self, policy: Policy, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """The policy on its device, or sharded over all: each layer a unit, the first rank's
        weights everywhere."""
        if self.size > 1:
            self._shard_with(_plugin(policy, self._dtype))
        policy, optimizer = self.accelerator.prepare(policy, optimizer)
        if self.size > 1:
            # Embedding and head too: a forward pass without a backward would leave a copy behind,
            # which the next optimizer step would make stale.
            policy.set_reshard_after_forward(True, recurse=False)
        return policy, optimizer.optimizer

    def freeze(self, policy: Policy) -> Policy:
        """A policy that is never trained, on its device, or sharded over all."""
        policy.requires_grad_(False)
        if self.size == 1:
            return self.accelerator.prepare_model(policy, evaluation_mode=True)
        policy = fsdp2_prepare_model(self.accelerator, policy)
        policy.set_reshard_after_forward(True, recurse=False)
        return policy

    def deal(self, micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
        """This rank's micro-batches; every rank has as many."""
        return deal(micro_batches, self.rank, self.size)

    def _shard_with(self, plugin: FullyShardedDataParallelPlugin) -> None:
        """Accelerate takes DDP for several processes on CPUs, whatever is asked for."""
        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = plugin

    def backward(self, part: torch.Tensor) -> None:
        """Gradients of a loss that is the sum of every rank's part."""
        # FSDP takes the mean over the ranks.
        self.accelerator.backward(part * self.size)

    def clip(self, policy: Policy, max_norm: float) -> float:
        """Bound the norm of all ranks' gradients together; return what it was."""
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """This rank's part of what there is to sample; of an engine's ranks, the first has it."""
        engine, place = divmod(self.rank, self._ranks_per_engine)
        return [] if place else list(items[engine :: self.num_engines])

    def gather(self, share: Sequence[Item], what: str) -> list[Item]:
        """The items of all ranks, in the order that ``shard`` deals them; on every rank."""
        if self.size == 1:
            return list(share)
        self.wait(what)
        shares: list[Any] = [None] * self.size
        dist.all_gather_object(shares, list(share))
        missing = object()
        dealt = chain.from_iterable(zip_longest(*shares, fillvalue=missing))
        return [item for item in dealt if item is not missing]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of each value; all ranks bring the same names."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def wait(self, what: str) -> None:
        """Return when every rank has come here.

        Raises RankLost, naming them, where some do not come in time or have failed; and Interrupted
        where one was interrupted on its way here.
        """
        if self.size == 1:
            return
        self._waits += 1
        self._store.set(f"waits/{self.rank}", str(self._waits))
        started = time.monotonic()
        while missing := self._missing():
            self._raise_if_failed()
            # Whoever ends us has no patience, and a rank that was killed never comes.
            patience = self._wait_seconds if self.signals.signal is None else HURRY_SECONDS
            if time.monotonic() - started > patience:
                raise RankLost(
                    f"rank {', '.join(map(str, missing))} did not come to {what!r} "
                    f"within {patience:g} s"
                )
            time.sleep(POLL_SECONDS)
        if self._waits == self._interrupted_at():
            raise Interrupted(self.signals.signal or signal.SIGTERM)

    def check(self) -> None:
        """For work that a rank does by itself, often: raise Interrupted where this process or a
        peer was interrupted, RankLost where a peer has failed.

        Ranks that were interrupted meet in the next wait, wherever each of them was, and all of
        them raise there.
        """
        if self.size == 1:
            self._raise_if_interrupted()
        elif time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._raise_if_failed()
            if self.signals.signal is not None:
                self._store.set("interrupted", str(self._waits + 1))
            if self._interrupted_at() == self._waits + 1:
                self.wait("interruption")

    def check_in_step(self) -> None:
        """The same for work that all ranks do in step: all of them raise, or none."""
        if self.size > 1:
            asked = self.sum({"signal": float(self.signals.signal is not None)})
            if asked["signal"] and self.signals.signal is None:
                raise Interrupted(signal.SIGTERM)
        self._raise_if_interrupted()

    def fail(self, sentence: str) -> None:
        """Tell the peers, who may be waiting, that this rank ends here."""
        if self.size > 1:
            # The first rank keeps the store, and may be gone.
            with suppress(dist.DistError):
                self._store.set("failed", f"rank {self.rank}: {sentence}")

    def close(self) -> None:
        """Leave the group; the engines that used it must have been closed."""
        self.accelerator.end_training()

    def _missing(self) -> list[int]:
        """Ranks that have come to fewer waits than this one."""
        came = [r for r in range(self.size) if self._store.check([f"waits/{r}"])]
        counts = self._store.multi_get([f"waits/{r}" for r in came])
        arrived = {r for r, n in zip(came, counts, strict=True) if int(n) >= self._waits}
        return [rank for rank in range(self.size) if rank not in arrived]

    def _interrupted_at(self) -> int | None:
        """The number of the wait in which all ranks raise Interrupted."""
        key = "interrupted"
        return int(self._store.get(key)) if self._store.check([key]) else None

    def _raise_if_interrupted(self) -> None:
        if self.signals.signal is not None:
            raise Interrupted(self.signals.signal)

    def _raise_if_failed(self) -> None:
        if self._store.check(["failed"]):
            raise RankLost(self._store.get("failed").decode())


def _plugin(policy: Policy, dtype: str) -> FullyShardedDataParallelPlugin:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(policy.lm._no_split_modules),
        reshard_after_forward=True,
        cpu_ram_efficient_loading=True,
    )
    if dtype == "bfloat16":
        # Accelerate's own would round the log-probabilities that come out.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=None,
            cast_forward_inputs=False,
        )
    return plugin
