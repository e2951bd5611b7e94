"""Ranks: the processes that train together, one for each device.

Several of them shard the policy by FSDP2, each drives an engine of its own, and each runs its share
of the tasks. Between collectives they meet: see ``rendezvous``.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
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

from agentrl.learning.packing import MicroBatch, MicroBatches
from agentrl.learning.policy import Policy
from agentrl.learning.rendezvous import Rendezvous
from agentrl.learning.variables import drop_overrides
from agentrl.signals import Signals

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """A rank's micro-batches, on its device. Each is made, and its copy queued, when what the one
    before has for the device to do is queued."""

    micro_batches: MicroBatches
    policy: Policy
    ranks: "Ranks"

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[MicroBatch]:
        for i, micro in enumerate(self.micro_batches, 1):
            if self.ranks.reduces_once:
                self.policy.set_requires_gradient_sync(i == len(self))
            yield self.policy.on_device(micro, self.ranks.device, self.ranks.dtype)


class Ranks(Rendezvous):
    """This process and its peers."""

    def __init__(
        self,
        dtype: str,
        signals: Signals,
        rank_timeout_seconds: float = 1800.0,
        ranks_per_engine: int = 1,
    ):
        """dtype: what the policy computes in. rank_timeout_seconds: how long to wait for a peer.

        Raises ValueError where the ranks do not divide into engines, or the environment asks for
        another trainer.
        """
        drop_overrides()
        self.dtype, self._ranks_per_engine = getattr(torch, dtype), ranks_per_engine
        on_gpu = torch.cuda.is_available()
        # Objects go from host to host, not through a GPU's memory.
        backend = "cuda:nccl,cpu:gloo" if on_gpu else "gloo"
        # Every collective follows a wait, so it is short: who is late is late for the wait.
        patience = timedelta(seconds=rank_timeout_seconds)
        is_launched = "LOCAL_RANK" in os.environ
        self.accelerator = Accelerator(
            # Without a GPU it has to be told, or several processes never meet.
            cpu=not on_gpu,
            mixed_precision="bf16" if self.dtype == torch.bfloat16 else "no",
            kwargs_handlers=[InitProcessGroupKwargs(backend, timeout=patience)] * is_launched,
        )
        if self._shards and not dist.is_initialized():
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        super().__init__(
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.accelerator.device,
            signals,
            rank_timeout_seconds,
        )
        self.reduces_once = self.size > 1 and not on_gpu
        """Whether ranks sum their gradients whole, each its own, and reduce them with the last of
        their micro-batches; else with each. On a GPU it is the trial that sees whether they fit."""
        if self.size % ranks_per_engine:
            raise ValueError(
                f"engine.tensor_parallel_size is {ranks_per_engine}, which does not divide the "
                f"{self.size} ranks: launch a multiple of it with --num_processes"
            )

    @property
    def _shards(self) -> bool:
        """Whether FSDP2 holds the policy: it casts the weights, which so are bf16 alike on one rank
        and on several, where autocast would leave fp32 between the layers."""
        return self.accelerator.num_processes > 1 or self.dtype == torch.bfloat16

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

    def prepare(self, policy: Policy, optimizer: torch.optim.AdamW) -> tuple[Any, Any]:
        """The policy on its device, or sharded over all: each layer a unit, the first rank's
        weights everywhere. AdamW's moments are there as well, so that an engine that comes later
        takes no memory from them."""
        if self._shards:
            self._shard_with(_plugin(policy, self.dtype))
        policy, optimizer = self.accelerator.prepare(policy, optimizer)
        if self._shards:
            # Embedding and head too: a forward pass without a backward would leave a copy behind,
            # which the next optimizer step would make stale.
            policy.set_reshard_after_forward(True, recurse=False)
        _make_moments(optimizer.optimizer)
        return policy, optimizer.optimizer

    def freeze(self, policy: Policy) -> Policy:
        """A policy that is never trained, on its device, or sharded over all."""
        policy.requires_grad_(False)
        if not self._shards:
            return self.accelerator.prepare_model(policy, evaluation_mode=True)
        policy = fsdp2_prepare_model(self.accelerator, policy)
        policy.set_reshard_after_forward(True, recurse=False)
        return policy

    def deal(self, micro_batches: MicroBatches, policy: Policy) -> Share:
        """This rank's micro-batches, for a policy; every rank has as many."""
        return Share(micro_batches.deal(self.rank, self.size), policy, self)

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

    def clip(self, policy: Policy, max_norm: float) -> torch.Tensor:
        """Bound the norm of all ranks' gradients together; return what it was."""
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sum(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of numbers of all ranks, on every rank."""
        total = sum(parts, torch.zeros((), device=self.device))
        if self.size > 1:
            dist.all_reduce(total)
        return total

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

    def close(self) -> None:
        """Leave the group; the engines that used it must have been closed."""
        self.accelerator.end_training()


def _make_moments(optimizer: torch.optim.AdamW) -> None:
    """The state that AdamW begins with, which it would make in its first step."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            means = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.tensor(0.0, device=weight.device if group["fused"] else "cpu")
            optimizer.state[weight] = {"step": step, **means}


def _plugin(policy: Policy, dtype: torch.dtype) -> FullyShardedDataParallelPlugin:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(policy.lm._no_split_modules),
        reshard_after_forward=True,
        cpu_ram_efficient_loading=True,
    )
    if dtype != torch.float32:
        # Accelerate's own would round the log-probabilities that come out.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=dtype,
            reduce_dtype=torch.float32,
            output_dtype=None,
            cast_forward_inputs=False,
        )
    return plugin
