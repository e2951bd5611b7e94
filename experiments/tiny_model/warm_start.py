"""Warm start of a tiny model: how it is made and learns to talk.

Its tokenizer is a byte-level BPE trained on the transcripts, lossless on any text, with every digit
a token. Its chat template is ChatML with tools. It is warm-started on the transcripts through the
same packing and policy as reinforcement learning: an advantage is how much a token counts in the
likelihood.
"""

import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, Message, Report, Sample
from experiments.tiny_model import Recipe
from experiments.tiny_model.muon import Muon

SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<tool_call>", "</tool_call>", "<tools>", "</tools>"),
]

CHAT_TEMPLATE = r"""
{%- macro turn(role, content) -%}
{{ "<|im_start|>" ~ role ~ "\n" ~ content ~ "<|im_end|>\n" }}
{%- endmacro -%}
{%- if tools and messages[0].role != "system" -%}
{{ turn("system", "<tools>" ~ (tools | map("tojson") | join("\n")) ~ "</tools>") }}
{%- endif -%}
{%- for message in messages -%}
{%- set said = namespace(text=message.content or "") -%}
{%- if loop.first and tools and message.role == "system" -%}
{%- set said.text = said.text ~ "\n<tools>" ~ (tools | map("tojson") | join("\n")) ~ "</tools>" -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
{%- set said.text = said.text ~ "<tool_call>" ~ (call.function | tojson) ~ "</tool_call>" -%}
{%- endfor -%}
{{ turn(message.role, said.text) }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ "<|im_start|>assistant\n" }}
{%- endif -%}
"""


def make_and_save(
    folder: Path,
    recipe: Recipe,
    transcripts: Sequence[list[Message]],
    tools: list[dict],
    report: Report,
) -> None:
    """Make the tokenizer and the model, teach it the transcripts, and save both to the folder."""
    report(0.0, "tokenizer")
    tokenizer = _make_tokenizer(recipe, transcripts, tools)
    lm = _make_model(recipe, tokenizer)
    _warm_start(recipe, lm, _samples(recipe, transcripts, tools, tokenizer), report)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _make_tokenizer(
    recipe: Recipe, transcripts: Sequence[list[Message]], tools: list[dict]
) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    words = Regex(r"\d| ?[^\s\d]+|\s")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Rendering needs no vocabulary. What the special tokens separate is learned from apart.
    texts = _with_template(bpe).apply_chat_template(
        list(transcripts[:2000]), tools=tools, tokenize=False
    )
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    bpe.train_from_iterator((part for text in texts for part in special.split(text)), trainer)
    return _with_template(bpe)


def _with_template(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def _make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(recipe.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=3 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.head_dim,
            max_position_embeddings=recipe.max_model_len,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _samples(
    recipe: Recipe,
    transcripts: Sequence[list[Message]],
    tools: list[dict],
    tokenizer: PreTrainedTokenizerFast,
) -> list[list[Sample]]:
    """Each transcript as the calls that would have produced it, and its first prompt as reading."""
    texts = tokenizer.apply_chat_template(list(transcripts), tools=tools, tokenize=False)
    opening = tokenizer.encode("<|im_start|>assistant\n")
    return [
        _calls(recipe, ids, opening, tokenizer.eos_token_id)
        for ids in tokenizer(texts)["input_ids"]
    ]


def _calls(recipe: Recipe, ids: list[int], opening: list[int], end: int) -> list[Sample]:
    samples = []
    for i in range(len(ids)):
        start = i + len(opening)
        if ids[i:start] == opening:
            stop = ids.index(end, start) + 1
            samples.append(Sample(_call(ids[:start], ids[start:stop]), 1.0))
    prompt = samples[0].call.prompt_ids
    return [*samples, Sample(_call(prompt[:1], prompt[1:]), recipe.prompt_weight)]


def _call(prompt_ids: list[int], completion_ids: list[int]) -> Call:
    # No sampler drew these tokens; the warm start puts the policy's own log-probs in its place.
    unknown = [0.0] * len(completion_ids)
    return Call(prompt_ids=prompt_ids, completion_ids=completion_ids, logprobs=unknown)


def _warm_start(
    recipe: Recipe, lm: Qwen3ForCausalLM, transcripts: list[list[Sample]], report: Report
) -> None:
    policy = Policy(lm)
    matrices = [weight for weight in lm.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in lm.parameters() if all(weight is not m for m in matrices)]
    optimizers = [
        Muon(matrices, recipe.matrix_lr),
        torch.optim.AdamW(others, recipe.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [LambdaLR(optimizer, partial(_schedule, recipe)) for optimizer in optimizers]
    rng = random.Random(recipe.seed)
    for step in range(recipe.steps):
        batch = [sample for samples in rng.sample(transcripts, recipe.batch) for sample in samples]
        total = sum(sample.advantage * len(sample.call.completion_ids) for sample in batch)
        loss = 0.0
        for micro in pack(batch, recipe.micro_batch_tokens):
            terms = policy.terms(micro)
            # The gradient of the negative log-likelihood.
            (-(terms.logprobs * terms.advantages).sum() / total).backward()
            loss -= (terms.logprobs.detach() * terms.advantages).sum().item() / total
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        report((step + 1) / recipe.steps, f"negative log-likelihood {loss:.2f}")


def _schedule(recipe: Recipe, step: int) -> float:
    return min(1.0, (step + 1) / recipe.warmup_steps) * max(0.05, 1 - step / recipe.steps)
