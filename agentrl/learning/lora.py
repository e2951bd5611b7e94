"""LoRA (arXiv 2106.09685): beside a frozen weight W an adapter of two thin ones, B and A.

    W + alpha / rank * B A        is what a layer computes with, and what is pushed

peft makes the adapters, in the transformers model itself. The algorithm knows nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from transformers import PreTrainedModel

from agentrl.config import LoraConfig

FOLDER, NAME = "adapter", "default"
"""Of a checkpoint's adapters, in peft's format; and peft's of the one that each layer has."""


def add_adapters(lm: PreTrainedModel, config: LoraConfig) -> None:
    """Freeze the model, and put adapters in: all that is trained of it from then on.

    Raises ValueError where they cannot be.
    """
    # Slow to import, and only needed here.
    import peft.functional

    if hasattr(lm.config, "quantization_config"):
        raise ValueError(
            f"{lm.name_or_path} is quantised, and adapters beside such weights (QLoRA) are not "
            "trained: give the model that it was made of with --model.path"
        )
    sizes = _linear_layers(lm)
    targets = config.targets or tuple(sizes)
    if (unknown := set(targets) - set(sizes)) or not sizes:
        raise ValueError(
            f"model.lora.targets names {', '.join(sorted(unknown)) or 'none'}, but the linear "
            f"layers of {type(lm).__name__} are {', '.join(sizes) or 'none'}: choose of those"
        )
    smallest = min(targets, key=sizes.__getitem__)
    if config.rank > sizes[smallest]:
        raise ValueError(
            f"model.lora.rank is {config.rank}, but {smallest} has a side of {sizes[smallest]}: "
            "give at most that, or name other layers with --model.lora.targets"
        )
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=sorted(targets),
        task_type=peft.TaskType.CAUSAL_LM,
        base_model_name_or_path=lm.name_or_path,
    )
    peft.inject_adapter_in_model(adapters, lm, NAME)
    # What is trained is fp32, whatever it is beside.
    peft.functional.cast_adapter_dtype(lm, NAME)


def _linear_layers(lm: PreTrainedModel) -> dict[str, int]:
    """Of the decoder's layers: by the last part of its name, a linear layer's smaller side."""
    found: dict[str, int] = {}
    for layer in lm.modules():
        if type(layer).__name__ in lm._no_split_modules:
            for name, linear in layer.named_modules():
                if isinstance(linear, nn.Linear):
                    name = name.rpartition(".")[2]
                    sides = linear.in_features, linear.out_features
                    found[name] = min(*sides, found.get(name, max(sides)))
    return found


def is_adapter(name: str) -> bool:
    """Whether a parameter is an adapter's, by its name in the model."""
    return ".lora_" in name


def trains_adapters_alone(lm: PreTrainedModel) -> bool:
    """Whether the model without its adapters is the one that was loaded."""
    trained = [name for name, weight in lm.named_parameters() if weight.requires_grad]
    return bool(trained) and all(map(is_adapter, trained))


def merged_weights(lm: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of the model without adapters that computes the same, by its names; what is
    sharded stays so."""
    for name, weight in lm.named_parameters():
        layer, is_base, own = name.partition(".base_layer.")
        if is_adapter(name):
            continue
        if own == "weight":
            weight = _merged(lm.get_submodule(layer), weight)
        yield f"{layer}.{own}" if is_base else name, weight.detach()


@torch.no_grad()
def _merged(layer: nn.Module, weight: Tensor) -> Tensor:
    """In the base's dtype, rounded once."""
    assert not layer.lora_variant, f"{layer.lora_variant} adds something else than B A"
    a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    if isinstance(a, DTensor):
        # Each rank makes its own rows.
        a = a.redistribute(placements=[Replicate()])
    return (weight + layer.scaling[NAME] * (b @ a)).to(weight.dtype)


@contextmanager
def without_adapters(lm: PreTrainedModel) -> Iterator[None]:
    """Compute as the model that was loaded, to the bit."""
    layers = [module for module in lm.modules() if hasattr(module, "lora_A")]
    # peft's own switch would freeze the adapters, and then train all of them.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_adapters(folder: Path, lm: PreTrainedModel, adapters: dict[str, Tensor]) -> None:
    """Write a checkpoint's adapters, whole, as ``PeftModel.from_pretrained`` reads them."""
    (folder / FOLDER).mkdir()
    named = {f"base_model.model.{name.replace(f'.{NAME}', '')}": w for name, w in adapters.items()}
    save_file(named, folder / FOLDER / "adapter_model.safetensors", {"format": "pt"})
    lm.peft_config[NAME].save_pretrained(folder / FOLDER)
