"""Weights of a folder, for an engine that was started on another one's."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Those of a transformers folder, one by one."""
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def description(folder: Path) -> dict[str, bytes]:
    """What its files say besides: architecture, tokenizer, template; nothing without weights."""
    kinds = (".json", ".jinja", ".model", ".txt")
    files = folder.glob("*.*") if any(folder.glob("model*.safetensors")) else ()
    return {path.name: path.read_bytes() for path in files if path.suffix in kinds}
