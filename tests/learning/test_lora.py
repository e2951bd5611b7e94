"""LoRA: what is trained, what is pushed and saved, and what it is compared with."""

import copy
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from agentrl.algorithms import GRPO
from agentrl.cli import to_json
from agentrl.config import LoraConfig, ModelConfig
from agentrl.learning.loading import WithoutAdapters, load_policy, load_reference
from agentrl.learning.lora import add_adapters, merged_weights, save_adapters, without_adapters
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.runs.run import Run
from agentrl.runs.session import Session
from agentrl.runs.trackers import Trackers
from tests.support.small_samples import SIZES, conversations, groups
from tests.support.updating import (
    gradient_by_hand,
    language_model,
    largest_difference,
    make_config,
    one_rank,
    updated,
)

LORA = LoraConfig(rank=4)


def perturb(lm: nn.Module) -> nn.Module:
    """Adapters that add something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in lm.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.02)
    return lm


def adapted(lm: nn.Module | None = None, config: LoraConfig = LORA) -> nn.Module:
    lm = lm or language_model()
    add_adapters(lm, config)
    return perturb(lm)


def by_peft(lm: nn.Module, alpha: int = 32) -> nn.Module:
    """The same adapters on the same model, as peft alone has them."""
    config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules="all-linear")
    return perturb(peft.get_peft_model(lm, config).get_base_model())


class Squared(GRPO):
    """Of every call's log-probabilities, whatever its advantage."""

    every_call = True

    def loss(self, terms):
        return replace(super().loss(terms), values=terms.logprobs**2)


def test_gradients_are_pefts_on_plain_rows():
    """Only adapters have one; another scale would be noticed."""
    policy = Policy(adapted())
    found = updated(policy, Squared(), groups()[:1]).moved
    trained = [w.requires_grad for w in policy.parameters()]
    moved = [gradient for gradient, is_trained in zip(found, trained, strict=True) if is_trained]
    assert (len(policy.trainable()), sum(trained)) == (3 * 7 * 2, 3 * 7 * 2)
    frozen = [g for g, is_trained in zip(found, trained, strict=True) if not is_trained]
    assert not any(gradient.any() for gradient in frozen)
    calls = [call for episode in groups()[0].episodes for call in episode.calls]
    count = sum(len(call.completion_ids) for call in calls)
    for alpha, is_equal in ((32, True), (31, False)):
        theirs = gradient_by_hand(
            calls, lambda call, p, _: (p**2).sum() / count, by_peft(language_model(), alpha)
        )
        difference = largest_difference(moved, theirs)
        assert difference < 1e-6 if is_equal else difference > 1e-3


@pytest.mark.parametrize("tied", [True, False])
def test_merged_weights_are_pefts_under_the_names_of_the_model(tied):
    """With biases, too; a head of its own stays as it was, and one that is tied is no weight."""
    torch.manual_seed(0)
    lm = Qwen2ForCausalLM(Qwen2Config(**{**SIZES, "tie_word_embeddings": tied}))
    before = {name: weight.clone() for name, weight in lm.named_parameters()}
    merged = dict(merged_weights(adapted(copy.deepcopy(lm))))
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules="all-linear")
    theirs = peft.get_peft_model(copy.deepcopy(lm), config)
    perturb(theirs)
    theirs = dict(theirs.merge_and_unload().named_parameters())
    assert list(merged) == list(before) == list(theirs)
    assert all(torch.allclose(merged[name], theirs[name], atol=1e-6) for name in theirs)
    changed = {name for name in before if not torch.equal(merged[name], before[name])}
    assert changed == {name for name in before if "_proj.weight" in name}
    assert dict(merged_weights(lm)).keys() == before.keys()
    # The layers' own are as they were.
    again = adapted(lm)
    list(merged_weights(again))
    with without_adapters(again):
        assert torch.equal(again.get_input_embeddings().weight, before["model.embed_tokens.weight"])


def test_the_frozen_part_may_be_bf16():
    """Adapters are fp32, and are added before it is rounded."""
    lm = adapted(language_model().bfloat16())
    assert {w.dtype for w in lm.parameters() if w.requires_grad} == {torch.float32}
    assert {w.dtype for w in lm.parameters() if not w.requires_grad} == {torch.bfloat16}
    layer = lm.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    by_hand = (layer.base_layer.weight.float() + 8 * b @ a).bfloat16()
    merged = dict(merged_weights(lm))["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(merged, by_hand)
    rounded = layer.base_layer.weight + (8 * b @ a).bfloat16()
    assert not torch.equal(merged, rounded)


class ToReference(GRPO):
    reference = True


def config_of(rank: int | None, algorithm: GRPO, **fields):
    model = ModelConfig(path="m", lora=LoraConfig(rank=rank))
    return replace(make_config(algorithm, **fields), model=model)


def test_the_reference_is_the_start_model_to_the_bit_and_no_copy(tiny_folder):
    config, ranks = config_of(4, ToReference()), one_rank()
    policy = load_policy(tiny_folder, config, ranks)
    reference = load_reference(policy, "not looked at", config, ranks)
    start = load_reference(policy, tiny_folder, config_of(None, Taught(tiny_folder)), ranks)
    (micro,) = pack(conversations()[:4], 1000)
    perturb(policy.lm)
    grads = [weight.requires_grad for weight in policy.parameters()]
    with torch.no_grad():
        with_them, without, its = (m.terms(micro).logprobs for m in (policy, reference, start))
        again = policy.terms(micro).logprobs
    assert torch.equal(without, its)
    assert (with_them - its).abs().max() > 0.001
    assert torch.equal(again, with_them)
    assert [weight.requires_grad for weight in policy.parameters()] == grads
    assert isinstance(reference, WithoutAdapters)
    assert isinstance(start, Policy)
    assert load_reference(policy, tiny_folder, config_of(4, GRPO()), ranks) is None


class Taught(GRPO):
    def __init__(self, teacher):
        object.__setattr__(self, "reference", str(teacher))


def test_a_checkpoint_is_merged_and_in_pefts_format(tiny_folder, tmp_path):
    """Plain transformers and plain peft compute the same; without the adapter, something else."""
    policy = load_policy(tiny_folder, config_of(4, GRPO()), one_rank())
    perturb(policy.lm)
    policy.lm.save_pretrained(tmp_path, state_dict=dict(policy.weights()))
    save_adapters(tmp_path, policy.lm, dict(policy.adapters()))
    merged, base = (
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32)
        for f in (tmp_path, tiny_folder)
    )
    ids = torch.tensor([conversations()[0].call.ids])
    with torch.no_grad():
        expected, before = merged(ids).logits, base(ids).logits
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
    assert (theirs - expected).abs().max() < 1e-4
    assert (before - expected).abs().max() > 0.01
    named = peft.PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path
    assert named == str(tiny_folder)


def test_a_seams_policy_gets_adapters_too(tiny_folder):
    """A head of its own stays trained, and what a checkpoint holds of both is loaded."""

    class WithHead(Policy):
        def __init__(self, lm, **options):
            super().__init__(lm, **options)
            self.head = nn.Linear(lm.config.hidden_size, 1)

    def load(folder, config, ranks):
        return WithHead.load(folder)

    policy = load_policy(tiny_folder, config_of(4, GRPO(), load_policy=load), one_rank())
    names = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert names == policy.own_state().keys()
    assert {name for name in names if not name.startswith("lm.")} == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("targets", "rank", "said"),
    [
        (("q_proj", "lm_head", "foo"), 4, "names foo, lm_head, .* are q_proj, k_proj, v_proj, o_"),
        (None, 17, "rank is 17, but k_proj has a side of 16: give at most that, or name other"),
    ],
)
def test_layers_and_ranks_that_there_are_not(targets, rank, said):
    with pytest.raises(ValueError, match=said):
        add_adapters(language_model(), LoraConfig(rank=rank, targets=targets))


def test_weights_that_are_quantised_are_refused():
    lm = language_model()
    lm.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ValueError, match=r"is quantised, and adapters beside .*QLoRA.* are not"):
        add_adapters(lm, LORA)


def test_named_layers_alone_and_ranks_that_fit_them():
    lm = adapted(config=LoraConfig(rank=32, targets=("up_proj",)))
    assert sum(weight.requires_grad for weight in lm.parameters()) == 3 * 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"targets": ("q_proj",)},
            "lora.rank is None: give at least 1, or leave all of model.lora",
        ),
        ({"alpha": 16}, "lora.rank is None: give at least 1, or leave all of model.lora out"),
        ({"rank": 0}, "lora.rank is 0: give at least 1, or leave all of model.lora out"),
        ({"rank": 8, "alpha": 0}, "lora.alpha is 0: give at least 1"),
    ],
)
def test_settings_that_cannot_be(fields, said):
    with pytest.raises(ValueError, match=said):
        LoraConfig(**fields)


def test_a_run_goes_on_beside_the_model_that_it_began_with(tiny_folder, tmp_path):
    """Not from what was merged; where that is gone, or all would be trained, a sentence says so."""
    folder = shutil.copytree(tiny_folder, tmp_path / "began")
    config = config_of(4, GRPO())
    run = Run.create(tmp_path, "mine", to_json(config), model=folder)
    newest = run.checkpoints / "step-00002"
    (newest / "adapter").mkdir(parents=True)

    def session(config) -> Session:
        return Session(config, Namespace(exp="mine", resume=run.folder), one_rank(), Trackers(()))

    assert Path(session(config).model) == folder
    with pytest.raises(ValueError, match="lora.rank was 4 when the run began, and is None: give"):
        session(config_of(None, GRPO())).check([], [], [])
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="began is neither a transformers folder nor a hub model"):
        assert session(config).model
