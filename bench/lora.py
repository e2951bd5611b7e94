"""LoRA beside full training: what is held, a step, a push in two ways, and what is sampled after.

    python -m bench.lora                          the demo's tiny model
    python -m bench.lora --hidden 512 --layers 8  random weights, 25 million in the layers

    full      every weight is trained; all are pushed
    merged    adapters are trained; all weights are pushed, with the adapters in them
    adapters  the same, but vLLM computes with adapters beside its weights (``enable_lora``), and is
              given them from memory; ``disk`` as peft's files, which is the way that vLLM has

CPU seconds, medians of rounds. ``held``: what is trained, its gradient and two moments. ``step``:
forward and backward over 64 calls and AdamW. ``sample``: 64 calls at once. ``gap``: of the policy's
log-probabilities to vLLM's after the push, over the probe.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from agentrl.config import EngineConfig, LoraConfig, ModelConfig
from agentrl.learning import lora
from agentrl.learning.learner import Learner, adamw
from agentrl.learning.loading import load_policy
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.serving import vllm_args
from agentrl.serving.process import prepare_process
from agentrl.signals import Signals
from agentrl.types import Call, Sample
from experiments import gsm8k_offline

NAMED = 1
"""vLLM's number of the adapter."""


@dataclass(frozen=True)
class Options:
    rank: int = 8
    rounds: int = 7
    tokens: int = 32
    """Of every completion."""
    hidden: int | None = None
    """Of a model with random weights; absent: the demo's."""
    layers: int = 4


def make_folder(options: Options, out: Path) -> Path:
    folder = gsm8k_offline.make_model(lambda share, note: None)
    if options.hidden is None:
        return folder
    config = AutoConfig.from_pretrained(folder)
    sizes = {"hidden_size": options.hidden, "intermediate_size": 3 * options.hidden}
    sizes |= {"num_hidden_layers": options.layers, "layer_types": None}
    config = type(config)(**{**config.to_dict(), **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


def median_cpu(work: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    # What is compiled and allocated once is in the first.
    return statistics.median(seconds[1:])


def calls(options: Options, vocabulary: int) -> list[Sample]:
    """Eight groups of eight, which share a prompt."""
    rng, found = np.random.default_rng(0), []
    for _ in range(8):
        prompt = rng.integers(3, vocabulary, 64).tolist()
        for _ in range(8):
            ids = rng.integers(3, vocabulary, options.tokens).tolist()
            call = Call(prompt_ids=prompt, completion_ids=ids, logprobs=[-1.0] * options.tokens)
            found.append(Sample(call, rng.normal()))
    return found


def step(learner: Learner, ranks: Ranks, config: Any, samples: list[Sample]) -> None:
    for micro in ranks.deal(pack(samples, 2048), learner.policy):
        ranks.backward(-(learner.policy.terms(micro).logprobs * micro.advantages).mean())
    learner.clip(ranks, config.optim)
    learner.step(1e-3)


def start(folder: Path, options: Options, *, beside: bool) -> Any:
    """vLLM as a run starts it; beside: with room for an adapter."""
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    vllm_args._compile_nothing_on_cpu()
    own = {"enable_lora": True, "max_loras": 1, "max_lora_rank": options.rank} if beside else {}
    args = vllm_args.arguments(folder, max_model_len=256, dtype="float32", config=EngineConfig())
    return LLMEngine.from_engine_args(EngineArgs(**args, **own), enable_multiprocessing=False)


def give(policy: Policy, worker: Any) -> None:
    """Put a policy's adapters in a worker, by the methods that its own request would call."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    manager = worker.model_runner.lora_manager._adapter_manager
    config = PEFTHelper.from_dict(policy.lm.peft_config[lora.NAME].to_dict())
    # vLLM multiplies them by alpha / rank where they lie.
    tensors = {
        f"base_model.model.{name.replace(f'.{lora.NAME}', '')}": weight.clone()
        for name, weight in policy.adapters()
    }
    model = LoRAModel.from_lora_tensors(
        NAMED, tensors, config, device="cpu", dtype=worker.lora_config.lora_dtype
    )
    manager.remove_adapter(NAMED)
    manager.add_adapter(model)
    manager.activate_adapter(NAMED)


def request(folder: Path, *, again: bool = False) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", NAMED, str(folder), load_inplace=again)


def push_adapters(llm: Any, policy: Policy) -> None:
    llm.collective_rpc(partial(give, policy))
    assert llm.reset_prefix_cache()


def push_files(llm: Any, policy: Policy, folder: Path) -> None:
    for file in folder.glob(f"{lora.FOLDER}/*"):
        file.unlink()
    if (folder / lora.FOLDER).exists():
        (folder / lora.FOLDER).rmdir()
    lora.save_adapters(folder, policy.lm, dict(policy.adapters()))
    llm.add_lora(request(folder / lora.FOLDER, again=True))
    assert llm.reset_prefix_cache()


def sample(llm: Any, prompts: Iterable[list[int]], adapter: Any, **params: Any) -> list[Any]:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False, **params)
    for number, ids in enumerate(prompts):
        llm.add_request(str(number), tokens_input(ids), params, lora_request=adapter)
    done = []
    while llm.has_unfinished_requests():
        done += llm.step()
    return done


def gap(policy: Policy, llm: Any, adapter: Any) -> float:
    vocabulary = policy.lm.config.vocab_size
    probe = np.random.default_rng(1).integers(0, vocabulary, 64).tolist()
    (output,) = sample(llm, [probe], adapter, max_tokens=1, prompt_logprobs=0)
    scores = [by[i].logprob for i, by in zip(probe[1:], output.prompt_logprobs[1:], strict=True)]
    return policy.probe_gap(probe, scores)


def make_learners(folder: Path, options: Options, ranks: Ranks) -> dict[int | None, Learner]:
    """By rank; None: every weight."""
    found = {}
    for rank in (None, options.rank):
        model = ModelConfig(path="m", lora=LoraConfig(rank=rank))
        config = replace(gsm8k_offline.config, model=model)
        policy = load_policy(folder, config, ranks)
        policy, optimizer = ranks.prepare(policy, adamw(policy.trainable(), config.optim))
        found[rank] = Learner(policy, None, optimizer)
    return found


def row(
    policy: Policy, llm: Any, push: Callable[[], Any], adapter: Any, prompts: list, options: Options
) -> list[str]:
    trained = sum(weight.numel() for weight in policy.trainable())
    pushed = median_cpu(push, options.rounds)
    drawn = {"temperature": 1.0, "max_tokens": options.tokens, "ignore_eos": True}

    def draw() -> None:
        # Each round computes its prompts, as after a push.
        assert llm.reset_prefix_cache()
        sample(llm, prompts, adapter, **drawn)

    return [
        f"{trained:,}",
        f"{16 * trained / 2**20:.1f} MiB",
        f"{1000 * pushed:.1f} ms",
        f"{1000 * median_cpu(draw, options.rounds):.0f} ms",
        f"{gap(policy, llm, adapter):.0e}",
    ]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    prepare_process()
    torch.set_num_threads(1)
    ranks, console = Ranks("float32", Signals()), Console()
    table = Table("", "step", "trained", "held", "push", "sample", "gap")
    with tempfile.TemporaryDirectory() as out:
        folder, files = make_folder(options, Path(out) / "model"), Path(out) / "pushed"
        files.mkdir()
        plain, wide = (start(folder, options, beside=beside) for beside in (False, True))
        learners = make_learners(folder, options, ranks)
        whole, adapted = (learners[rank].policy for rank in (None, options.rank))
        samples = calls(options, whole.lm.config.vocab_size)
        prompts = [one.call.prompt_ids for one in samples]
        steps = {
            learner.policy: median_cpu(
                partial(step, learner, ranks, gsm8k_offline.config, samples), options.rounds
            )
            for learner in learners.values()
        }
        named = request(files)
        ways = {
            "full": (whole, plain, lambda: vllm_args.load(plain, whole.weights()), None),
            "merged": (adapted, plain, lambda: vllm_args.load(plain, adapted.weights()), None),
            "adapters": (adapted, wide, lambda: push_adapters(wide, adapted), named),
            "disk": (adapted, wide, lambda: push_files(wide, adapted, files), named),
        }
        for name, (policy, *way) in ways.items():
            cells = row(policy, *way, prompts, options)
            table.add_row(name, f"{1000 * steps[policy]:.0f} ms", *cells)
        console.print(asdict(options), table)
        for llm in (plain, wide):
            llm.engine_core.shutdown()
        ranks.close()


if __name__ == "__main__":
    main()
