"""Folders of models that have a real one's architecture and number of tokens, and small widths."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

ARCHITECTURES = {"Qwen2.5": Qwen2Config, "Qwen3": Qwen3Config}
TOKENS, ROWS = 151_669, 151_936
"""Of Qwen's tokenizers, and of the embeddings, which have some more."""
WIDTHS = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40_960},
}


def make_shrunken(name: str, tiny: Path, folder: Path) -> Path:
    """The named model in small, with random weights; its tokenizer is the tiny one's, filled up."""
    family = name.rpartition("/")[2].partition("-")[0]
    torch.manual_seed(0)
    config = ARCHITECTURES[family](vocab_size=ROWS, tie_word_embeddings=True, **WIDTHS)
    of_tiny = json.loads((tiny / "config.json").read_text())
    config.eos_token_id, config.pad_token_id = of_tiny["eos_token_id"], of_tiny["pad_token_id"]
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in (*tiny.glob("tokenizer*"), *tiny.glob("*.jinja")):
        (folder / file.name).write_text(file.read_text())
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"~{number}": number for number in range(len(vocabulary), TOKENS)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
