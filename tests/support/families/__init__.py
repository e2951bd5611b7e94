"""Six model families in small: chat template, tokenizer, and how a model of the family writes.

The tokenizers are byte-level BPEs trained on the spot, without words or digits kept apart: tokens
cross newlines, spaces and punctuation, and so would cross the border of two turns if text were
tokenised a second time. They are lossless on any text, and know nothing of the families' languages.
"""

# DeepSeek's marks are made of look-alikes.
# ruff: noqa: RUF001

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Family:
    """What sets a family of models apart for a conversation."""

    name: str
    template: str
    special_tokens: tuple[str, ...]
    """Left out of a text that is decoded without special tokens; the end of a turn among them."""
    markup: tuple[str, ...] = ()
    """Tokens of their own in the vocabulary that are text all the same, as the family has it."""
    begin: str | None = None
    """What a conversation begins with; the template writes it."""
    end_of_turn: str
    tool_parser: str | None
    """vLLM's name, as reasoning_parser."""
    reasoning_parser: str | None
    writes: Callable[[str | None, str, list[dict]], str]
    """Reasoning, content and calls as the model's text, from after the prompt to before the end."""


def write(family: Family, reasoning: str | None, content: str, calls: list[dict]) -> str:
    """A turn as the model writes it; a call is {"name": ..., "arguments": {...}}.

    >>> write(LLAMA3, None, "", [{"name": "add", "arguments": {"a": 1}}])
    '{"name": "add", "parameters": {"a": 1}}'
    """
    return family.writes(reasoning, content, calls)


@cache
def tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """The family's tokenizer with its chat template; the same object at every call."""
    bpe = Tokenizer.from_str(_bpe())
    bpe.add_tokens([AddedToken(mark, normalized=False) for mark in family.markup])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=family.begin,
        eos_token=family.end_of_turn,
        additional_special_tokens=list(family.special_tokens),
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


@cache
def _bpe() -> str:
    """A vocabulary of 800 without special tokens, as JSON."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(_reading(random.Random(0)), trainer)
    return bpe.to_str()


def _reading(rng: random.Random) -> list[str]:
    """Words, numbers and JSON with anything between them, newlines above all."""
    words = ["user", "assistant", "system", "tool", "model", "call", "name", "result", "hello"]
    words += ["the", "and", "you", "are", "is", "not", "Ja", "naïve", "日本", "🙂", "<", ">", "</"]
    words += ['{"name": "', '", "arguments": {"', '"}}']
    joints = [" ", " ", "\n", "\n\n", ".\n", " \n", ". ", ", ", ': "', "}\n", "\n{", "\n<", ">\n"]

    def piece() -> str:
        return rng.choice(words) if rng.random() < 0.8 else str(rng.randrange(2000))

    return ["".join(piece() + rng.choice(joints) for _ in range(12)) for _ in range(1500)]


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _hermes(content: str, calls: list[dict]) -> str:
    blocks = [f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls]
    return "\n".join([content, *blocks] if content else blocks)


def _write_qwen25(reasoning: str | None, content: str, calls: list[dict]) -> str:
    _no_reasoning(reasoning)
    return _hermes(content, calls)


def _write_qwen3(reasoning: str | None, content: str, calls: list[dict]) -> str:
    thought = "" if reasoning is None else f"<think>\n{reasoning}\n</think>\n\n"
    return thought + _hermes(content, calls)


def _write_llama(reasoning: str | None, content: str, calls: list[dict]) -> str:
    _no_reasoning(reasoning)
    texts = [_json({"name": call["name"], "parameters": call["arguments"]}) for call in calls]
    return content + "; ".join(texts)


def _write_mistral(reasoning: str | None, content: str, calls: list[dict]) -> str:
    # A space follows [/INST], and it is the model that writes it.
    _no_reasoning(reasoning)
    text = f" {content}" if content or not calls else ""
    return text + (f"[TOOL_CALLS] {_json(calls)}" if calls else "")


def _write_gemma(reasoning: str | None, content: str, calls: list[dict]) -> str:
    _no_reasoning(reasoning)
    assert not calls, f"{calls}"
    return content


def _write_deepseek(reasoning: str | None, content: str, calls: list[dict]) -> str:
    # The prompt has opened the thinking, except after a tool's result, where none is expected.
    text = content if reasoning is None else f"{reasoning}\n</think>\n\n{content}"
    if not calls:
        return text
    blocks = [
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call['name']}\n"
        f"```json\n{_json(call['arguments'])}\n```<｜tool▁call▁end｜>"
        for call in calls
    ]
    return f"{text}<｜tool▁calls▁begin｜>" + "\n".join(blocks) + "<｜tool▁calls▁end｜>"


def _no_reasoning(reasoning: str | None) -> None:
    assert reasoning is None, f"{reasoning!r}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


QWEN25 = Family(
    name="qwen2.5",
    template=_template("qwen2.5"),
    special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    markup=("<tool_call>", "</tool_call>"),
    end_of_turn="<|im_end|>",
    tool_parser="hermes",
    reasoning_parser=None,
    writes=_write_qwen25,
)
QWEN3 = Family(
    name="qwen3",
    template=_template("qwen3"),
    special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    markup=(
        *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        *("<think>", "</think>"),
    ),
    end_of_turn="<|im_end|>",
    tool_parser="hermes",
    reasoning_parser="qwen3",
    writes=_write_qwen3,
)
LLAMA3 = Family(
    name="llama3",
    template=_template("llama3"),
    special_tokens=(
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
    ),
    begin="<|begin_of_text|>",
    end_of_turn="<|eot_id|>",
    tool_parser="llama3_json",
    reasoning_parser=None,
    writes=_write_llama,
)
MISTRAL = Family(
    name="mistral",
    template=_template("mistral"),
    special_tokens=(
        *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    begin="<s>",
    end_of_turn="</s>",
    tool_parser="mistral",
    reasoning_parser=None,
    writes=_write_mistral,
)
GEMMA = Family(
    name="gemma",
    template=_template("gemma"),
    special_tokens=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    begin="<bos>",
    end_of_turn="<end_of_turn>",
    tool_parser=None,
    reasoning_parser=None,
    writes=_write_gemma,
)
DEEPSEEK_R1 = Family(
    name="deepseek_r1",
    template=_template("deepseek_r1"),
    special_tokens=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    markup=(
        *("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁sep｜>"),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
        *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
        *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    ),
    begin="<｜begin▁of▁sentence｜>",
    end_of_turn="<｜end▁of▁sentence｜>",
    tool_parser="deepseek_v3",
    reasoning_parser="deepseek_r1",
    writes=_write_deepseek,
)
FAMILIES = (QWEN25, QWEN3, LLAMA3, MISTRAL, GEMMA, DEEPSEEK_R1)
