"""The trainer's log-probabilities beside vLLM's, to the bit: which operations come between them.

Each of vLLM's operations is recorded while it scores the probe; the trainer's is given the same
inputs. So a difference is that operation's own, whatever was lost before it. Then the whole: how
far the layers' outputs are apart. Qwen3's operations, as transformers has them.

    python -m bench.gpu.bitwise FOLDER       a deterministic engine; what it found, as JSON
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from agentrl.learning.policy import Policy
from agentrl.runs.session import compute_repeatably
from agentrl.serving.sampling import Sampling
from bench.gpu import DEVICE, ON_GPU
from bench.gpu.engine import gap, load, probe_of, start
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
    """What the modules take and give at the last of their calls that have the most rows."""
    given: dict[str, tuple[Tensor, ...]] = {}

    def tensors(values: Any) -> tuple[Tensor, ...]:
        values = values if isinstance(values, tuple) else (values,)
        return tuple(x.detach().clone() for x in values if isinstance(x, Tensor))

    def before(name: str, module: nn.Module, inputs: tuple) -> None:
        # Kept apart: some of vLLM's operations write their inputs over.
        given[name] = tensors(inputs)

    def after(name: str, module: nn.Module, _: tuple, output: Any) -> None:
        # Logits are made of a few rows, too, when the token after the probe is drawn.
        inputs = given[name]
        if inputs and (name not in seen or len(inputs[-1]) >= len(seen[name][0][-1])):
            seen[name] = inputs, tensors(output)

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(before, name)))
        hooks.append(module.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Operations:
    """The trainer's, each as a method of the name that vLLM's module has, on a layer of
    transformers and what vLLM's was given."""

    def __init__(self, policy: Policy, attention: str, ids: list[int]):
        self._model, self._head = policy.lm.base_model, policy.lm.get_output_embeddings().weight
        self._tree, self._attention = plan(build_tree([ids]), DEVICE), attention

    def input_layernorm(self, layer: nn.Module, *x: Tensor) -> tuple[Tensor, ...]:
        return normed(layer.input_layernorm, *x)

    def qkv_proj(self, layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        own = layer.self_attn
        return joined(x, own.q_proj, own.k_proj, own.v_proj)

    def q_norm(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return normed(layer.self_attn.q_norm, x)

    def k_norm(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return normed(layer.self_attn.k_norm, x)

    def rotary_emb(self, layer: nn.Module, positions: Tensor, *qk: Tensor) -> tuple[Tensor, ...]:
        heads = [x.view(len(x), -1, layer.self_attn.head_dim).transpose(0, 1)[None] for x in qk]
        turned = apply_rotary_pos_emb(*heads, *self._model.rotary_emb(heads[0], positions[None]))
        return tuple(x[0].transpose(0, 1).reshape(y.shape) for x, y in zip(turned, qk))

    def attn(self, layer: nn.Module, *qkv: Tensor) -> tuple[Tensor]:
        own = layer.self_attn
        heads = (x.view(len(x), -1, own.head_dim) for x in qkv)
        out = tree_attention(*heads, self._tree, own.scaling, self._attention)
        return (out.reshape(qkv[0].shape),)

    def o_proj(self, layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        return joined(x, layer.self_attn.o_proj)

    def post_attention_layernorm(self, layer: nn.Module, *x: Tensor) -> tuple[Tensor, ...]:
        return normed(layer.post_attention_layernorm, *x)

    def gate_up_proj(self, layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        return joined(x, layer.mlp.gate_proj, layer.mlp.up_proj)

    def act_fn(self, layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        gate, up = x.chunk(2, -1)
        return (layer.mlp.act_fn(gate) * up,)

    def down_proj(self, layer: nn.Module, x: Tensor) -> tuple[Tensor]:
        return joined(x, layer.mlp.down_proj)

    def norm(self, layer: nn.Module, *x: Tensor) -> tuple[Tensor, ...]:
        return normed(self._model.norm, *x)

    def logits_processor(self, layer: nn.Module, *x: Tensor) -> tuple[Tensor]:
        # The first of them, if there are two, is vLLM's head.
        return (tiled._logits(x[-1], self._head, torch.float32),)


def normed(norm: nn.Module, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, ...]:
    """And the sum of both, where there is a residual."""
    if residual is None:
        return (norm(x),)
    total = x + residual
    return norm(total), total


def joined(x: Tensor, *linears: nn.Module) -> tuple[Tensor]:
    return (torch.cat([linear(x) for linear in linears], -1),)


@torch.no_grad()
def differences(policy: Policy, attention: str, ids: list[int], seen: Recorded) -> dict:
    """Of each operation, over all layers: the share of its numbers whose bits differ, and the
    largest difference over the largest number."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    mine, layers = Operations(policy, attention, ids), policy.lm.base_model.layers
    for name, (given, theirs) in seen.items():
        operation = name.rpartition(".")[2]
        if not hasattr(mine, operation):
            continue
        # The last norm and the head look at no layer.
        number = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        for a, b in zip(getattr(mine, operation)(layers[number], *given), theirs):
            found[operation].append(compared(a[..., : b.shape[-1]], b))
    return {operation: tuple(map(max, zip(*pairs))) for operation, pairs in found.items()}


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
    modules, outputs = policy.lm.base_model.layers, []
    hooks = [m.register_forward_hook(lambda _, __, out: outputs.append(out[0])) for m in modules]
    policy.terms(probe_of(ids))
    for hook in hooks:
        hook.remove()
    streams = [seen[f"model.layers.{i}"][1] for i in range(len(outputs))]
    return [compared(mine, x + residual)[1] for mine, (x, residual) in zip(outputs, streams)]


def drawn(engine: Any) -> list:
    """Ids and log-probabilities of calls that are drawn in lockstep."""
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
