"""What each of two ranks does in ``test_ranks``, and then one alone: every case, its results into
a file.

python -m tests.support.ranks_worker OUT
"""

import copy
import ctypes
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.algorithms import GRPO
from agentrl.config import Config, LoraConfig, ModelConfig
from agentrl.learning import checkpoint
from agentrl.learning.learner import Learner
from agentrl.learning.lora import add_adapters, without_adapters
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.learning.rendezvous import RankLost
from agentrl.runs.trial import trial_step
from agentrl.signals import PR_SET_PDEATHSIG, Interrupted, Signals
from agentrl.types import Chunk, NotFinite
from tests.support.small_samples import SIZES, TEMPERATURE, conversations, groups, loss_sum
from tests.support.updating import Watched, make_config
from train import update


def language_model(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "qwen2, untied":
        return Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "tie_word_embeddings": False}))
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))


def prepared(ranks: Ranks, lm: torch.nn.Module, **options):
    policy = Policy(copy.deepcopy(lm), **options)
    return ranks.prepare(policy, torch.optim.AdamW(policy.trainable(), lr=0.01))


def backward(ranks: Ranks, policy, budget: int, send) -> int:
    """Gradients of the conversations on every rank; returns this rank's number of micro-batches."""
    micro_batches = pack(conversations(), budget)
    num_terms = sum(len(micro.term) for micro in micro_batches)
    own = ranks.deal(micro_batches, policy)
    for micro in own:
        logprobs = policy(micro, TEMPERATURE)[0][micro.term]
        send(loss_sum(logprobs, micro.sampler_logprobs, micro.advantages) / num_terms)
    return len(own)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def gradients_of(policy) -> dict[str, torch.Tensor]:
    named = policy.named_parameters()
    return {name: whole(weight.grad) for name, weight in named if weight.requires_grad}


def gradients(ranks: Ranks, out: Path) -> dict:
    found = {}
    for family in ("qwen2, untied", "qwen3, tied"):
        for recompute in ("off", "selective"):
            # 60 tokens make an even number of micro-batches, 80 an odd one.
            for budget in (60, 80):
                policy, _ = prepared(ranks, language_model(family), recompute=recompute)
                found["dealt", budget] = backward(ranks, policy, budget, ranks.backward)
                found[family, recompute, budget] = gradients_of(policy)
    policy, _ = prepared(ranks, language_model("qwen3, tied"))
    backward(ranks, policy, 60, ranks.accelerator.backward)
    found["unscaled"] = gradients_of(policy)
    found["clipped from"] = ranks.clip(policy, 1e-3).item()
    return found


def reductions(ranks: Ranks, out: Path) -> dict:
    """Gradients that are reduced with the last micro-batch, and with each; and how often."""
    found, usual = {}, ranks.reduces_once
    for once in (True, False) if ranks.size > 1 else ():
        ranks.reduces_once = once
        policy, _ = prepared(ranks, language_model("qwen3, tied"))
        with CountReductions() as counted:
            num_micro_batches = backward(ranks, policy, 60, ranks.backward)
        found[once] = num_micro_batches, counted.times, gradients_of(policy)
    ranks.reduces_once = usual
    return found | {"usual": usual}


class CountReductions(TorchDispatchMode):
    times = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.times += "reduce_scatter" in operator.name()
        return operator(*args, **(kwargs or {}))


def in_bf16(ranks: Ranks, out: Path) -> dict:
    """Log-probabilities and gradients of bf16 weights with fp32 masters; and by autocast, as one
    rank that does not shard would compute."""
    found = {"masters": set()}
    for family in ("qwen2, untied", "qwen3, tied"):
        lm = language_model(family)
        policy, _ = prepared(ranks, lm)
        backward(ranks, policy, 60, ranks.backward)
        found[family, "gradients"] = gradients_of(policy)
        found[family, "logprobs"] = logprobs_of(policy)
        found["masters"] |= {weight.dtype for weight in policy.parameters()}
        with torch.autocast("cpu", torch.bfloat16):
            found[family, "by autocast"] = logprobs_of(Policy(lm))
    lm = language_model("qwen3, tied").bfloat16()
    add_adapters(lm, LoraConfig(rank=4))
    policy, _ = prepared(ranks, lm)
    backward(ranks, policy, 60, ranks.backward)
    found["lora"] = logprobs_of(policy), gradients_of(policy)
    found["dtypes"] = {(w.requires_grad, w.dtype) for w in policy.parameters()}
    return found


@torch.no_grad()
def logprobs_of(policy) -> list[torch.Tensor]:
    return [policy(micro, TEMPERATURE)[0].clone() for micro in pack(conversations(), 60)]


def dealing(ranks: Ranks, out: Path) -> dict:
    return {
        "share": ranks.shard(range(7)),
        "gathered": ranks.gather(ranks.shard(range(7)), "numbers"),
        "nothing": ranks.gather([], "nothing"),
    }


def checkpoints(ranks: Ranks, out: Path) -> dict:
    """Three steps; three with a checkpoint after the second, gone on from by a fresh policy."""
    lm, tokenizer = language_model("qwen3, tied"), Tokenizer()
    elsewhere = seeded(100)
    random_state = seeded(ranks.rank)
    left_alone, optimizer = prepared(ranks, lm)
    folder = out / f"of-{ranks.size}" / "step-00002"
    for step in range(3):
        if step == 2:
            checkpoint.save(folder, left_alone, optimizer, tokenizer, ranks, random_state, {})
        one_step(ranks, left_alone, optimizer)
    found = {"left alone": dict(weights(left_alone))}
    for name in (folder, *(f for f in out.glob("of-*/step-00002") if f != folder)):
        policy, optimizer = prepared(ranks, Policy.load(name).lm)
        checkpoint.set_random_state(elsewhere)
        _, lost = checkpoint.load(name, policy, optimizer, ranks)
        found[f"sentence of {name.parent.name}"] = lost
        found[f"draws of {name.parent.name}"] = draws()
        one_step(ranks, policy, optimizer)
        found[f"resumed from {name.parent.name}"] = dict(weights(policy))
    for name, state in (("draws", random_state), ("draws elsewhere", elsewhere)):
        checkpoint.set_random_state(state)
        found[name] = draws()
    # The moments count: without them the same step leads elsewhere.
    policy, optimizer = prepared(ranks, Policy.load(folder).lm)
    one_step(ranks, policy, optimizer)
    found["without moments"] = dict(weights(policy))
    return found


def adapters(ranks: Ranks, out: Path) -> dict:
    """LoRA: gradients, the reference, what is pushed; three steps, and one gone on from two."""

    def begin():
        lm = language_model("qwen3, tied")
        add_adapters(lm, LoraConfig(rank=4))
        for weight in lm.parameters():
            if weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.02)
        return prepared(ranks, lm)

    policy, optimizer = begin()
    backward(ranks, policy, 60, ranks.backward)
    found = {"gradients": gradients_of(policy), "pushed": dict(weights(policy))}
    optimizer.zero_grad()
    start = logprobs_of(Policy(language_model("qwen3, tied")))
    folder = out / f"lora-of-{ranks.size}" / "step-00002"
    for step in range(3):
        if step == 2:
            checkpoint.save(folder, policy, optimizer, Tokenizer(), ranks, seeded(0), {})
        one_step(ranks, policy, optimizer)
    again, moments = begin()
    checkpoint.load(folder, again, moments, ranks)
    one_step(ranks, again, moments)
    with without_adapters(policy.lm):
        found["without"] = logprobs_of(policy)
    return found | {
        "start": start,
        "with": logprobs_of(policy),
        "adapters": dict(policy.adapters()),
        "gone on": dict(again.adapters()),
        "moments": len(optimizer.state),
        "saved": sorted(path.name for path in (folder / "adapter").iterdir()),
    }


def seeded(seed: int) -> dict:
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    return checkpoint.get_random_state()


def draws() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(1).item()]


class Tokenizer:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def one_step(ranks: Ranks, policy, optimizer) -> None:
    backward(ranks, policy, 60, ranks.backward)
    optimizer.step()
    optimizer.zero_grad()


def weights(policy):
    return ((name, weight.clone()) for name, weight in policy.weights())


def trials(ranks: Ranks, out: Path) -> dict:
    """The largest micro-batch goes through on every rank, before a step and after it."""
    config = Config(
        workflow=solve,
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m", max_model_len=60),
        micro_batch_tokens=200,
    )
    found, calls = {}, []
    policy, optimizer = prepared(ranks, language_model("qwen3, tied"))
    policy.register_forward_pre_hook(lambda module, args: calls.append(len(args[0].ids)))
    for when in ("before a step", "after it"):
        before = state_of(policy, optimizer)
        trial_step(Learner(policy, None, optimizer), config, ranks)
        found[when] = before == state_of(policy, optimizer)
        one_step(ranks, policy, optimizer)
    return found | {"tokens": calls[0]}


async def solve(task, model):
    return 1.0


def state_of(policy, optimizer) -> list[bytes]:
    """Own shards of weights and moments; gradients."""
    moments = [v for state in optimizer.state.values() for v in state.values()]
    tensors = [local(t).detach().numpy().tobytes() for t in (*policy.parameters(), *moments)]
    return tensors + [weight.grad for weight in policy.parameters()]


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def failing_to_save(ranks: Ranks, out: Path) -> dict:
    """The last rank cannot write any more."""
    policy, optimizer = prepared(ranks, language_model("qwen3, tied"))
    folder = out / f"full-{ranks.size}" / "step-00001"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == ranks.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        checkpoint.save(folder, policy, optimizer, Tokenizer(), ranks, {}, {})
    except checkpoint.CheckpointError as error:
        said = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    ranks.wait("all have failed")
    return {"said": said, "left": [path.name for path in folder.parent.iterdir()]}


class SpoiltOnce(GRPO):
    """A NaN in the loss of one micro-batch, which one of the ranks has."""

    def loss(self, terms):
        losses = super().loss(terms)
        is_of_it = terms.sampler_logprobs[0] == conversations()[5].call.logprobs[0]
        return replace(losses, values=losses.values * (torch.nan if is_of_it else 1.0))


def not_finite(ranks: Ranks, out: Path) -> dict:
    policy, optimizer = prepared(ranks, language_model("qwen3, tied"))
    before = state_of(policy, optimizer)[: len(list(policy.parameters()))]
    config = make_config(SpoiltOnce())
    try:
        update(Learner(policy, None, optimizer), [Chunk(groups())], 0, config, ranks, Watched())
    except NotFinite as error:
        said = str(error)
    after = state_of(policy, optimizer)[: len(before)]
    return {"said": said, "weights stayed": before == after}


def waits(ranks: Ranks, out: Path) -> dict:
    """The last rank is late once."""
    if ranks.size == 1:
        return {}
    ranks._timeout_seconds, said = 1.0, None
    if ranks.rank == ranks.size - 1:
        time.sleep(3)
    try:
        ranks.wait("episodes")
    except RankLost as error:
        said = str(error)
    ranks._timeout_seconds = 60.0
    ranks.wait("after")
    return {"said": said}


def interruptions(ranks: Ranks, out: Path) -> dict:
    """The last rank is interrupted at work: the others wait for it, then work, then are in step."""
    found, is_last = {}, ranks.rank == ranks.size - 1
    for where in ("others wait", "others work"):
        started = time.monotonic()
        try:
            if is_last:
                ranks.signals.signal = signal.SIGTERM
            if is_last or where == "others work":
                while time.monotonic() - started < 20:
                    ranks.check()
                    time.sleep(0.05)
            ranks.wait("episodes")
            found[where] = "not noticed"
        except Interrupted as error:
            found[where] = str(error)
        ranks.signals.signal = None
        # All are where they can meet again.
        found[f"{where}, then"] = ranks.gather([ranks.rank], "then")
    if is_last:
        ranks.signals.signal = signal.SIGTERM
    try:
        ranks.check_in_step()
    except Interrupted as error:
        found["in step"] = str(error)
    ranks.signals.signal = None
    return found


CASES = (
    gradients,
    reductions,
    dealing,
    checkpoints,
    adapters,
    waits,
    interruptions,
    trials,
    failing_to_save,
    not_finite,
)


def all_cases(out: Path) -> None:
    ranks = Ranks("float32", Signals(), 60.0)
    results = {case.__name__: case(ranks, out) for case in CASES}
    # One process computes in one precision; the group of processes stays.
    AcceleratorState._reset_state()
    results["in_bf16"] = in_bf16(Ranks("bfloat16", Signals(), 60.0), out)
    torch.save(results, out / f"rank-{ranks.rank}-of-{ranks.size}.pt")
    ranks.close()


def launched(rank: int, port: int) -> dict[str, str]:
    """What the launcher gives one of two."""
    given = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    # What it would fill in by itself.
    given += ["--num_machines", "1", "--num_cpu_threads_per_process", "1"]
    given += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    fsdp = prepare_multi_gpu_env(launch_command_parser().parse_args([*given, "train.py"]))
    return fsdp | {name: str(value) for name, value in place.items()}


def forked(rank: int, port: int, out: Path) -> int:
    """A child that is one of two ranks, by its process id."""
    if child := os.fork():
        return child
    # It ends with the one that waits for it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.environ |= launched(rank, port)
        all_cases(out)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not survive the fork"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = [forked(rank, port, out) for rank in (0, 1)]
    ended = [os.waitpid(child, 0)[1] for child in children]
    assert ended == [0, 0], ended
    # One needs no launcher.
    all_cases(out)


if __name__ == "__main__":
    main()
