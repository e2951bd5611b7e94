"""Checkpoints: transformers folders, which transformers and vLLM load as they are."""

import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from agentrl.learning.model import Policy


def save(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write the policy and its tokenizer; the folder appears only when it is whole."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    policy.lm.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder
