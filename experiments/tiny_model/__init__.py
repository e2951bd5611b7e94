"""Tiny real model, made on the spot: Qwen3's architecture, about a million weights.

``warm_start`` makes it. The folder is cached by a hash of all that went into it, and loads in
transformers and vLLM like any other.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from agentrl.types import Message, Report


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a tiny model is made; a change of anything here makes another model."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocabulary: int = 800
    max_model_len: int = 2048
    transcripts: int = 7400
    steps: int = 230
    batch: int = 32
    """Transcripts a step."""
    matrix_lr: float = 0.01
    """Muon's rate, for the matrices of the layers."""
    lr: float = 8e-3
    """AdamW's rate, for embeddings and norms."""
    warmup_steps: int = 20
    prompt_weight: float = 0.1
    """Advantage of the first prompt's own tokens: what reads well also answers well."""
    micro_batch_tokens: int = 2048
    seed: int = 0


def make_tiny_model(
    recipe: Recipe, transcripts: Sequence[list[Message]], tools: list[dict], report: Report
) -> Path:
    """Return the folder of the model that the recipe and the transcripts make, from the cache if
    it was made before."""
    folder = (
        platformdirs.user_cache_path("agentrl") / f"tiny-{_fingerprint(recipe, transcripts, tools)}"
    )
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder.parent).close()
    except OSError as error:
        raise ValueError(
            f"cannot keep a model in {folder.parent} ({error.strerror}): name a folder that can be "
            "written with the variable XDG_CACHE_HOME, or a model with --model.path"
        ) from error
    # Slow to import, and only needed the first time.
    from experiments.tiny_model.warm_start import make_and_save

    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    make_and_save(unfinished, recipe, transcripts, tools, report)
    # Another process may have made the same model meanwhile.
    shutil.rmtree(unfinished) if folder.is_dir() else unfinished.rename(folder)
    return folder


def _fingerprint(recipe: Recipe, transcripts: Sequence[list[Message]], tools: list[dict]) -> str:
    """Changes with the recipe, with what is learned from, and with the code of this room."""
    code = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(
        json.dumps([asdict(recipe), transcripts, tools, code]).encode()
    ).hexdigest()[:12]
