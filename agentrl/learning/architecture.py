"""Architecture of a model: whether a token tree computes what its layers do, found by trying.

A model of the same configuration, with random weights that share one memory, scores a few calls
as a tree and as rows, which are transformers' own. No list of models can know of a window, a cap,
a recurrence, a bias of the head or a dropout that the next one brings; the log-probabilities do.
Lengths from which a layer computes something else, such as windows, are cut to a few tokens where
a call can be longer than they are.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, Sample

ROUNDING = 1e-5
"""Between log-probabilities: equal models are 2e-6 apart."""
LENGTHS = re.compile("window|chunk|local_att|max_position|floor_scale")
FEW, VOCABULARY = 4, 64
LAYERS = 8
"""Enough for what alternates by number; of what is listed, the first of each kind is there, too."""
CALLS = [
    Call(prompt_ids=prompt, completion_ids=completion, logprobs=[0.0] * len(completion))
    for prompt, completion in (
        ([3, 7], [11, 2]),
        ([3, 7, 11, 2, 9], [1, 4, 8, 15, 16, 23, 42, 5]),
        ([3, 7, 11, 2, 9], [1, 4, 9, 30, 31, 32]),
        ([5], [6, 7, 8]),
    )
]
"""Some fork; the shortest ends within a few tokens, the others are longer."""


def check_architecture(config: PreTrainedConfig, max_model_len: int, recompute: str) -> None:
    """Raise ValueError, with the model's name, where it cannot be trained exactly."""
    # Seconds for most models, where the whole one takes minutes.
    if _fault(_with_few_layers(config), max_model_len, recompute) is None:
        return
    if (fault := _fault(config, max_model_len, recompute)) is None:
        return
    remedy = "train another with --model.path"
    shortest = min(_lengths(config, max_model_len).values(), default=max_model_len)
    if shortest < max_model_len and _fault(config, shortest, recompute) is None:
        remedy += f", or calls that never get so long, with --model.max-model-len {shortest}"
    raise ValueError(
        f"a model of type {config.model_type} has layers that a token tree does not compute "
        f"({fault}): {remedy}"
    )


def _fault(config: PreTrainedConfig, max_model_len: int, recompute: str) -> str | None:
    try:
        gap = gap_of_tree(config, max_model_len, recompute)
    # Whatever a model of another build raises, it would raise in training.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if gap < ROUNDING else f"log-probabilities are {gap:.0e} from those of rows"


@torch.no_grad()
def gap_of_tree(config: PreTrainedConfig, max_model_len: int, recompute: str) -> float:
    """The largest difference of log-probabilities between a tree and rows, of random weights."""
    lm = _random_model(_shortened(config, max_model_len))
    rows = [_of_row(lm, call) for call in CALLS]
    (micro,) = pack([Sample(call, 1.0) for call in CALLS], budget=10 * FEW)
    tree = Policy(lm, attention="reference", recompute=recompute).terms(micro).logprobs
    return (tree - torch.cat([rows[i] for i in micro.samples])).abs().max().item()


def _of_row(lm: PreTrainedModel, call: Call) -> Tensor:
    ids, start = torch.tensor([call.ids]), len(call.prompt_ids)
    logprobs = lm(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    return logprobs[start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]


def _with_few_layers(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with some layers of each kind, and narrow MLPs."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    count = text.num_hidden_layers
    by_layer = {
        name: values
        for name, values in vars(text).items()
        if "layer" in name and isinstance(values, list) and len(values) == count
    }
    kept = [
        i for i in range(count) if i < LAYERS or any(v[i] not in v[:i] for v in by_layer.values())
    ]
    for name, values in by_layer.items():
        setattr(text, name, [values[i] for i in kept])
    text.num_hidden_layers = len(kept)
    if type(width := getattr(text, "intermediate_size", None)) is int:
        text.intermediate_size = min(width, 256)
    return config


def _shortened(config: PreTrainedConfig, max_model_len: int) -> PreTrainedConfig:
    """The configuration with few tokens, and lengths that calls exceed cut to a few."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.vocab_size, text.pad_token_id = VOCABULARY, 0
    for settings in _settings(vars(text)):
        settings |= dict.fromkeys(_lengths_in(settings, max_model_len), FEW)
    return config


def _lengths(config: PreTrainedConfig, below: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for settings in _settings(vars(config.get_text_config())):
        found |= _lengths_in(settings, below)
    return found


def _lengths_in(settings: dict[Any, Any], below: int) -> dict[str, int]:
    return {
        name: value
        for name, value in settings.items()
        if LENGTHS.search(str(name)) and type(value) is int and FEW < value < below
    }


def _settings(settings: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """These, and those within, such as a rotation's."""
    yield settings
    for value in settings.values():
        if isinstance(value, dict):
            yield from _settings(value)


def _random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """In no more memory than its largest weight; of vectors, the mean is 1, as of norms."""
    with init_empty_weights(include_buffers=False):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
    generator = torch.Generator().manual_seed(0)
    longest = max(weight.numel() for weight in lm.parameters())
    matrices = torch.randn(longest, generator=generator)
    vectors = 1 + 0.1 * matrices
    # What comes out of a layer is as large as what went in, so that all of it counts.
    matrices *= lm.config.get_text_config().hidden_size ** -0.5
    for module in lm.modules():
        for name, weight in module.named_parameters(recurse=False):
            values = matrices if weight.ndim > 1 else vectors
            values = values[: weight.numel()].view(weight.shape)
            module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    lm.tie_weights()
    return lm.eval()
