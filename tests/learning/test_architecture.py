"""Which models a token tree computes: every kind of layer is equal to rows, or refused by name."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from agentrl.algorithms import GRPO
from agentrl.config import ModelConfig
from agentrl.learning.architecture import check_architecture
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.runs import preflight
from tests.support.sizes import some_of
from tests.support.small_samples import SIZES, conversations
from tests.support.updating import make_config

LONGEST = 100
"""Of a call of these tests, in tokens."""
SMALL = SIZES | {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
NEAR = {"sliding_window": 16}
STRETCHED = {"factor": 4.0, "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **STRETCHED}


def slow(*case) -> Any:
    """Another module of transformers to import."""
    return pytest.param(*case, marks=pytest.mark.slow)


def config_of(kind: str, **settings) -> PreTrainedConfig:
    return CONFIG_MAPPING[kind](**{**SMALL, **settings})


def largest_gap(config: PreTrainedConfig) -> float:
    """Between a tree of conversations and transformers' own forward, call by call."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    lm.eval()
    calls = [sample.call for sample in conversations()]
    rows = []
    with torch.no_grad():
        for call in calls:
            logits = lm(input_ids=torch.tensor([call.ids]), use_cache=False).logits[0]
            start, ids = len(call.prompt_ids), torch.tensor(call.completion_ids)
            rows.append(logits.log_softmax(-1)[start - 1 : -1].gather(-1, ids[:, None])[:, 0])
        (micro,) = pack(conversations(), 10_000)
        tree = Policy(lm).terms(micro).logprobs
    return (tree - torch.cat([rows[i] for i in micro.samples])).abs().max().item()


@pytest.mark.parametrize(
    "config",
    [
        config_of("qwen3"),
        config_of("qwen3", num_attention_heads=2),
        slow(config_of("qwen3_moe", **EXPERTS)),
        slow(config_of("mixtral", num_local_experts=8, num_experts_per_tok=5, sliding_window=None)),
        config_of("gpt2", n_embd=32, n_head=4, n_layer=2),
        slow(config_of("glm4", pad_token_id=0, partial_rotary_factor=0.5)),
        config_of("granite", embedding_multiplier=12.0, residual_multiplier=0.2),
        # Lengths that no call reaches.
        config_of("mistral", sliding_window=LONGEST),
        config_of("llama", rope_parameters=LONG | {"original_max_position_embeddings": LONGEST}),
    ],
    ids=lambda config: config.model_type,
)
def test_what_is_trained_is_equal_to_rows(config):
    check_architecture(config, LONGEST, "off")
    # GPT-2 has a dropout of 0.1, which sampling has not.
    assert largest_gap(config) < 1e-5


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (config_of("mistral", **NEAR), "a sliding_window is shorter than a call"),
        slow(config_of("qwen2", use_sliding_window=True, max_window_layers=1, **NEAR), "sliding_w"),
        (config_of("gemma2", sliding_window=LONGEST), "Gemma2Attention attends with softcap"),
        slow(config_of("gemma3_text", **NEAR), "a sliding_window is shorter than a call"),
        slow(config_of("gpt_oss", sliding_window=LONGEST, num_local_experts=4), "with s_aux"),
        (config_of("qwen3_next", **EXPERTS), "log-probabilities are .* from those of rows"),
        slow(config_of("mamba", state_size=4), "log-probabilities are .* from those of rows"),
        slow(
            config_of("lfm2", layer_types=["conv", "full_attention", "conv"]),
            "log-probabilities are .* from those of rows",
        ),
        slow(config_of("bloom", n_head=4), "has attention of its own"),
        slow(config_of("bert", is_decoder=False), "log-probabilities are .* from those of rows"),
        # Heads that are more than one matrix.
        slow(config_of("cohere", logit_scale=0.06), "log-probabilities are .* from those of rows"),
        (config_of("granite", logits_scaling=8.0), "log-probabilities are .* from those of rows"),
        slow(config_of("phi"), "log-probabilities are .* from those of rows"),
        # The longest call of a micro-batch would rotate the others.
        (
            config_of("llama", rope_parameters=LONG | {"original_max_position_embeddings": 16}),
            "log-probabilities are .* from those of rows",
        ),
        slow(config_of("llama4_text", attention_chunk_size=16, intermediate_size_mlp=32), ""),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_a_tree_does_not_compute_is_refused_by_name(config, cause):
    with pytest.raises(ValueError, match=f"a model of type {config.model_type} has .*{cause}"):
        check_architecture(config, LONGEST, "off")


def test_a_window_says_how_long_calls_may_be():
    with pytest.raises(ValueError, match="get so long, with --model.max-model-len 16$"):
        check_architecture(config_of("mistral", **NEAR), LONGEST, "off")
    check_architecture(config_of("mistral", **NEAR), 16, "off")


def test_dropout_that_recomputing_would_turn_on_is_refused():
    """OPT draws it in the layer that is told to train."""
    config = config_of("opt", word_embed_proj_dim=32, ffn_dim=48, dropout=0.1)
    check_architecture(config, LONGEST, "off")
    with pytest.raises(ValueError, match="a model of type opt"):
        check_architecture(config, LONGEST, "full")
    check_architecture(config_of("gpt2", n_embd=32, n_head=4, n_layer=2), LONGEST, "full")


def test_a_model_is_refused_before_it_is_loaded(tiny_folder, tmp_path):
    """There are no weights in the folder."""
    config_of("mistral", **NEAR).save_pretrained(tmp_path)
    length = ModelConfig(path=str(tiny_folder), max_model_len=LONGEST)
    config = replace(make_config(GRPO()), model=length)
    preflight._check_architectures(config, tiny_folder)
    with pytest.raises(ValueError, match="a model of type mistral has layers"):
        preflight._check_architectures(config, tmp_path)

    class Taught(GRPO):
        reference = str(tmp_path)

    with pytest.raises(ValueError, match="a model of type mistral has layers"):
        preflight._check_architectures(replace(config, algorithm=Taught()), tiny_folder)


NUMBERS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 97, "num_experts_per_tok": 2},
    **{"n_group": 1, "topk_group": 1, "word_embed_proj_dim": 64, "pad_token_id": 0},
}
"""What configurations call their sizes, made small."""


def small(kind: str) -> PreTrainedConfig | None:
    """None: what is no causal language model of that size, such as a part of another."""
    try:
        known = CONFIG_MAPPING[kind]().get_text_config()
        names = {*known.to_dict(), *known.attribute_map}
        config = type(known)(**{n: number for n, number in NUMBERS.items() if n in names})
        with torch.device("meta"):
            weights = sum(w.numel() for w in AutoModelForCausalLM.from_config(config).parameters())
    except Exception:
        return None
    return config if weights < 2e7 else None


@pytest.mark.parametrize(
    "kind",
    some_of(
        [(kind,) for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES],
        in_slow=["qwen3", "gemma3_text", "gpt_oss", "jamba", "qwen3_5_text", "bloom", "opt"],
    ),
)
def test_every_causal_model_of_transformers(kind):
    """Equal to rows, or refused."""
    if (config := small(kind)) is None:
        return
    refused = False
    try:
        check_architecture(config, LONGEST, "off")
    except ValueError:
        refused = True
    assert refused or largest_gap(config) < 1e-5
