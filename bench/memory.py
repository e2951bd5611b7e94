"""How much memory a training step really takes, and what ``agentrl.runs.memory`` expects of it.

    export MALLOC_MMAP_THRESHOLD_=262144
    python -m bench.memory --hidden 512 --layers 8 --tokens 4096 --recompute full

The process's highest resident size over two micro-batches and AdamW's steps, less what it held
before the model was made; so it wants a process of its own. With malloc's threshold fixed it is
what tensors take, and the same every time; without, what glibc keeps comes on top, more or less.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.runs import memory
from agentrl.types import Call, Sample

VOCABULARY = 4000


def resident(field: str) -> int:
    """VmRSS, or its highest so far, VmHWM, in bytes."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) * 1024


def model_config(hidden: int, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )


def group(rng: np.random.Generator, tokens: int, episodes: int) -> list[Sample]:
    """Episodes of a group: half of the tree's tokens are the prompt that they share."""
    prompt = rng.integers(0, VOCABULARY, tokens // 2).tolist()
    length = tokens // 2 // episodes
    answers = [rng.integers(0, VOCABULARY, length).tolist() for _ in range(episodes)]
    calls = [Call(prompt_ids=prompt, completion_ids=a, logprobs=[0.0] * length) for a in answers]
    return [Sample(call, 1.0) for call in calls]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("hidden", "layers", "tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--recompute", default="off")
    parser.add_argument("--dtype", default="float32")
    flags = parser.parse_args()
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    config = model_config(flags.hidden, flags.layers)
    micro_batches = pack(
        [sample for _ in range(2) for sample in group(rng, flags.tokens, flags.episodes)],
        flags.tokens,
    )
    assert [len(micro.ids) for micro in micro_batches] == [flags.tokens] * 2
    before = resident("VmRSS")
    policy = Policy(Qwen3ForCausalLM(config), recompute=flags.recompute)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
    # The second meets the moments, and the gradients of a first.
    for micro in micro_batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=flags.dtype == "bfloat16"):
            logprobs, _ = policy(micro)
        (-logprobs.mean()).backward()
        optimizer.step()
    measured = resident("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        config.architectures = ["Qwen3ForCausalLM"]
        config.save_pretrained(folder)
        shape = memory.shape_of(folder)
    assert shape.parameters == sum(weight.numel() for weight in policy.parameters())
    state = memory.state_bytes(shape, ranks=1)
    expected = state + memory.activation_bytes(
        shape,
        tokens=flags.tokens,
        longest=flags.tokens // 2 + flags.tokens // 2 // flags.episodes,
        dtype=flags.dtype,
        recompute=flags.recompute,
        kernels="segments",
    )
    numbers = {"measured": measured, "expected": expected, "state": state}
    print(json.dumps({**vars(flags), **numbers, "ratio": expected / measured}))


if __name__ == "__main__":
    main()
