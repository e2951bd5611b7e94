"""The trainer's log-probabilities beside vLLM's, to the bit: which operations come between them.

Each of vLLM's operations is recorded while it scores the probe; the trainer's is given the same
inputs. So a difference is that operation's own, whatever was lost before it. Then the whole: how
far the layers' outputs are apart. Qwen3's operations, as transformers has them.

    python -m bench.gpu.bitwise FOLDER       a deterministic engine; what it found, as JSON
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from agentrl.learning.policy import Policy
from bench.gpu import DEVICE, ON_GPU
from kernels.logprob import tiled
from kernels.tree import build_tree
from kernels.tree.plan import plan
from kernels.tree_attention import tree_attention

EPISODES, TOKENS = 16, 24
"""That are drawn in lockstep, twice."""
Recorded = dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
"""Of each of vLLM's modules, what it was given and what it gave."""


@contextmanager
def recorded(model: nn.Module, seen: Recorded) -> Iterator[None]:
    """What the modules take and give at their last call with as many rows as the largest."""
    given: dict[str, tuple[Tensor, ...]] = {}

    def tensors(values: Any) -> tuple[Tensor, ...]:
        values = values if isinstance(values, tuple) else (values,)
        return tuple(x.detach().clone() for x in values if isinstance(x, Tensor))

    def before(name: str, module: nn.Module, inputs: tuple) -> None:
        # Kept apart: some of vLLM's operations write their inputs over.
        given[name] = tensors(inputs)

    def after(name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        if name not in seen or len(given[name][-1]) >= len(seen[name][0][-1]):
            seen[name] = given[name], tensors(output)

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(before, name)))
        hooks.append(module.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def operations(policy: Policy, attention: str, ids: list[int]) -> dict[str, Callable]:
    """The trainer's, by the end of the name of vLLM's module that does the same, as functions of
    a layer of transformers and what vLLM's was given."""
    model, tree = policy.lm.base_model, plan(build_tree([ids]), DEVICE)

    def norm(module: nn.Module, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, ...]:
        if residual is None:
            return (module(x),)
        total = x + residual
        return module(total), total

    def rotary(layer: nn.Module, positions: Tensor, *qk: Tensor) -> tuple[Tensor, ...]:
        heads = [x.view(len(x), -1, layer.self_attn.head_dim).transpose(0, 1)[None] for x in qk]
        cos_sin = model.rotary_emb(heads[0], positions[None])
        turned = apply_rotary_pos_emb(*heads, *cos_sin)
        return tuple(x[0].transpose(0, 1).reshape(y.shape) for x, y in zip(turned, qk))

    def attend(layer: nn.Module, *qkv: Tensor) -> tuple[Tensor]:
        own = layer.self_attn
        heads = (x.view(len(x), -1, own.head_dim) for x in qkv)
        out = tree_attention(*heads, tree, own.scaling, attention)
        return (out.reshape(qkv[0].shape),)

    def joined(*linears: nn.Module) -> Callable[[Tensor], tuple[Tensor]]:
        return lambda x: (torch.cat([linear(x) for linear in linears], -1),)

    def gated(layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        gate, up = x.chunk(2, -1)
        return (layer.mlp.act_fn(gate) * up,)

    def logits(layer: nn.Module, hidden: Tensor) -> tuple[Tensor]:
        return (tiled._logits(hidden, policy.lm.get_output_embeddings().weight, torch.float32),)

    return {
        "input_layernorm": lambda layer, *x: norm(layer.input_layernorm, *x),
        "qkv_proj": lambda layer, x: joined(
            *(getattr(layer.self_attn, f"{name}_proj") for name in "qkv")
        )(x),
        "q_norm": lambda layer, x: norm(layer.self_attn.q_norm, x),
        "k_norm": lambda layer, x: norm(layer.self_attn.k_norm, x),
        "rotary_emb": rotary,
        "attn": attend,
        "o_proj": lambda layer, x: (layer.self_attn.o_proj(x),),
        "post_attention_layernorm": lambda layer, *x: norm(layer.post_attention_layernorm, *x),
        "gate_up_proj": lambda layer, x: joined(layer.mlp.gate_proj, layer.mlp.up_proj)(x),
        "act_fn": gated,
        "down_proj": lambda layer, x: (layer.mlp.down_proj(x),),
        "model.norm": lambda layer, *x: norm(model.norm, *x),
        "logits_processor": logits,
    }


@torch.no_grad()
def differences(policy: Policy, attention: str, ids: list[int], seen: Recorded) -> dict:
    """Of each operation, over all layers: the share of its numbers whose bits differ, and the
    largest difference over the largest number."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    mine, layers = operations(policy, attention, ids), policy.lm.base_model.layers
    for name, (given, theirs) in seen.items():
        kind = next((k for k in mine if f".{name}".endswith(f".{k}")), None)
        if kind is None:
            continue
        number = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        # Of the head's inputs the weight is the first, and padded.
        given = given[-1:] if kind == "logits_processor" else given
        for a, b in zip(mine[kind](layers[number], *given), theirs):
            found[kind].append(compared(a[..., : b.shape[-1]], b))
    return {kind: tuple(map(max, zip(*pairs))) for kind, pairs in found.items()}


def compared(mine: Tensor, theirs: Tensor) -> tuple[float, float]:
    apart = (mine.double() - theirs.double()).abs()
    largest = apart.max() / theirs.double().abs().max()
    return (apart != 0).double().mean().item(), largest.item()


@torch.no_grad()
def softmax(ids: list[int], scores: list[float], seen: Recorded) -> tuple[float, float]:
    """From the logits that vLLM had, the log-probabilities that the trainer makes of them."""
    logits = seen["logits_processor"][1][0][: len(ids) - 1].float()
    target = torch.tensor(ids[1:], device=logits.device)
    state = torch.zeros(4, len(logits), device=logits.device)
    state[0].fill_(tiled.LOWEST)
    tiled.fold(logits.clone(), target, state, 1.0)
    largest, mass, _, chosen = state
    return compared(chosen - largest - mass.log(), torch.tensor(scores, device=logits.device))


@torch.no_grad()
def layers(policy: Policy, ids: list[int], seen: Recorded) -> list[float]:
    """How far the residual stream is apart after each layer: the largest difference over the
    largest number."""
    from bench.gpu.engine import probe_of

    modules, outputs = policy.lm.base_model.layers, []
    hooks = [m.register_forward_hook(lambda _, __, out: outputs.append(out[0])) for m in modules]
    policy.terms(probe_of(ids))
    for hook in hooks:
        hook.remove()
    streams = [seen[f"model.layers.{i}"][1] for i in range(len(outputs))]
    return [compared(mine, x + residual)[1] for mine, (x, residual) in zip(outputs, streams)]


def drawn(engine: Any) -> list:
    """Ids and log-probabilities of calls that are drawn in lockstep."""
    from agentrl.serving.sampling import Sampling

    keys = [(0, 1, "task", i) for i in range(EPISODES)]
    for key in keys:
        engine.enter(key)
    options = {"temperature": 1.0, "max_tokens": TOKENS, "others": {"ignore_eos": True}}
    calls = [
        engine.submit([20, 7, 9], Sampling(seed=i, rng_key=(key, 0, 0), **options))
        for i, key in enumerate(keys)
    ]
    completions = [call.result(timeout=120) for call in calls]
    for key in keys:
        engine.leave(key)
    return [[c.ids, c.logprobs] for c in completions]


def main(folder: Path) -> None:
    from agentrl.runs.session import compute_repeatably
    from bench.gpu.engine import gap, load, start

    compute_repeatably()
    attention = "flash" if ON_GPU else "auto"
    policy, seen = load(folder, attention), {}
    engine = start(folder, deterministic=True)
    ids = engine.probe
    # First, as in a run.
    engine.sync(policy.weights(engine.dtype))
    found = {"drawn": [drawn(engine), drawn(engine)]}
    (model,) = engine._llm.apply_model(lambda model: model)
    with recorded(model, seen):
        scores = engine.score(ids)
    found["blocks"] = engine._llm.vllm_config.cache_config.num_gpu_blocks
    found["gap"] = gap(engine, policy, scores)
    found["operations"] = differences(policy, attention, ids, seen)
    found["operations"]["softmax"] = softmax(ids, scores, seen)
    found["layers"] = layers(policy, ids, seen)
    print(json.dumps(found), flush=True)
    engine.sleep()
    # What it says there is counted.
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
