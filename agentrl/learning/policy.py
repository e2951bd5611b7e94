"""Policy: one module, token tree in, log-probabilities and entropies out.

It is a transformers causal LM whose attention is ``kernels.tree_attention`` and whose head is
``kernels.logprob``. It does not generate: vLLM does. It is one module with one forward, so that
sharding hooks on its root see every use of every weight.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from agentrl.algorithms import Terms
from agentrl.learning.lora import is_adapter, merged_weights
from agentrl.learning.packing import MicroBatch, pack
from agentrl.types import Call, Sample
from kernels.logprob import linear_logprob
from kernels.tree_attention import choose, prepare, tree_attention

ATTENTION = {
    "agentrl::tree_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "flash_attn::_flash_attn_varlen_forward",
    "torch_attn::_varlen_attn",
}
"""What selective checkpointing keeps: the output of whichever operator attends."""


# A graph of its own on each side: selective checkpointing sees the operator, whichever it is.
@torch.compiler.disable
def _attend(module, query, key, value, attention_mask, *, scaling, plan, attention, **others):
    """What transformers calls in every layer; heads come first there, tokens first here.

    Raises ValueError for a keyword that would change what is computed.
    """
    window = others.pop("sliding_window", None)
    if window is not None and plan.longest > window:
        raise ValueError("a sliding_window is shorter than a call")
    for name, given in others.items():
        if name not in WITHOUT_EFFECT and given is not None and given is not False:
            raise ValueError(
                f"{type(module).__name__} attends with {name}, which trees do not have"
            )
    # Under autocast rotary embeddings leave fp32 behind.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # (T, H or K, D)
    return tree_attention(q, k, v, plan, scaling, attention)[None], None


AttentionInterface.register("agentrl_tree", _attend)
WITHOUT_EFFECT = {"dropout", "is_causal", "position_ids", "use_cache"}
"""Of the keywords of attention: dropout is off, and the plan knows the rest."""


class Policy(nn.Module):
    """A causal LM that scores token trees."""

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        attention: str = "auto",
        recompute: str = "off",
        compile: bool = False,
    ):
        """attention: see ``kernels.tree_attention``. recompute: off, full, or selective, which
        computes all but attention again. compile: the layers, for trees of any size."""
        super().__init__()
        lm.set_attn_implementation("agentrl_tree")
        if lm.config.get_text_config()._attn_implementation != "agentrl_tree":
            raise ValueError(f"{type(lm).__name__} has attention of its own, not a tree's")
        # What is sampled has no dropout, no noise of routers: nor has what is trained.
        self.lm, self.attention = lm.eval(), attention
        if recompute != "off":
            keep = partial(create_selective_checkpoint_contexts, _keep_attention)
            how = {"context_fn": keep} if recompute == "selective" else {}
            lm.gradient_checkpointing_enable({"use_reentrant": False, **how})
            for module in lm.modules():
                # They recompute where they are told that they train; what is in them is not told.
                module.training = isinstance(module, GradientCheckpointingLayer)
        for layer in lm.base_model.layers if compile else ():
            # Inside of what checkpointing and FSDP wrap around the module.
            layer.forward = torch.compile(layer.forward, dynamic=True)

    @classmethod
    def load(cls, folder: str | Path, dtype: Any = torch.float32, **options: Any) -> "Policy":
        """Load a transformers folder or hub name. dtype: of weights that are not trained."""
        return cls(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), **options)

    def forward(
        self, batch: MicroBatch, temperature: float = 1.0
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"], dict[str, Float[Tensor, " M"]]]:
        """Return the log-probability of each trained token, the entropy where it was drawn, and
        what ``others`` has of it."""
        hidden = self.lm.base_model(
            input_ids=batch.ids[None],
            position_ids=batch.depth[None],
            use_cache=False,
            plan=batch.plan,
            attention=self.attention,
        ).last_hidden_state[0]  # (T, C)
        # A token was drawn from the state of the token before it.
        drawn_from = hidden[batch.parent[batch.trained]]  # (M, C)
        weight = self.lm.get_output_embeddings().weight
        logprobs, entropies = linear_logprob(
            drawn_from, weight, batch.ids[batch.trained], temperature
        )
        return logprobs, entropies, self.others(drawn_from)

    def others(self, drawn_from: Float[Tensor, "M C"]) -> dict[str, Float[Tensor, " M"]]:
        """What a policy of one's own computes besides, such as values, from the hidden state that
        each trained token was drawn from."""
        return {}

    def terms(self, micro: MicroBatch, temperature: float = 1.0) -> Terms:
        """The loss terms of a micro-batch: from its tree tokens to a row a sampled token."""
        logprobs, entropies, others = self(micro, temperature)
        logprobs = logprobs[micro.term]  # (N,)
        others = {name: values[micro.term] for name, values in others.items()}
        proximal = micro.proximal_logprobs
        detached = {name: values.detach() for name, values in others.items()}
        return Terms(
            logprobs=logprobs,
            entropies=entropies[micro.term],
            sampler_logprobs=micro.sampler_logprobs,
            proximal_logprobs=logprobs.detach() if proximal is None else proximal,
            ref_logprobs=micro.ref_logprobs,
            advantages=micro.advantages,
            call=micro.call,
            others=others,
            proximal_others=micro.proximal_others or detached,
        )

    @torch.no_grad()
    def probe_gap(self, ids: list[int], sampler_logprobs: list[float]) -> float:
        """The largest difference of log-probabilities to the engine's, at temperature 1, over
        ``ids[1:]``, the probe.

        It is rounding in fp32. A weight that was not pushed, or a packed copy of one that was not
        refreshed, shows here even where no episode happens to notice.
        """
        call = Call(prompt_ids=ids[:1], completion_ids=ids[1:], logprobs=sampler_logprobs)
        (micro,) = pack([Sample(call, advantage=0.0)], budget=len(ids))
        micro = micro.to(next(self.parameters()).device)
        return (self.terms(micro).logprobs - micro.sampler_logprobs).abs().max().item()

    def on_device(self, micro: MicroBatch, device: torch.device, dtype: torch.dtype) -> MicroBatch:
        """A micro-batch where the policy is, with all that its attention reads in this dtype."""
        sizes = self.lm.config.get_text_config()
        dim = getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads
        prepare(micro.plan, choose(self.attention, device, dtype), dim, dtype)
        return micro.to(device)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that an optimizer gets."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def own_state(self) -> dict[str, Tensor]:
        """What there is besides the language model: a policy of one's own, and adapters. Every
        checkpoint holds it."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if not name.startswith("lm.") or is_adapter(name)
        }

    def tie_weights(self) -> None:
        """Accelerate looks for this when it shards; without it tied embeddings come apart."""
        self.lm.tie_weights()

    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every weight, whole, under its name in a transformers checkpoint; tied ones once, and
        adapters merged.

        Each is made when it is asked for, and not kept. Where the weights are sharded, all ranks
        iterate together. dtype: None leaves the weights' own.
        """
        for name, weight in merged_weights(self.lm):
            # What is gathered is as small as it can be.
            yield name, _whole(weight.to(dtype or weight.dtype))

    def adapters(self) -> Iterator[tuple[str, Tensor]]:
        """LoRA's weights, whole, where there are any; all ranks iterate together."""
        for name, weight in self.lm.named_parameters():
            if is_adapter(name):
                yield name, _whole(weight.detach())


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def _keep_attention(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_attention = operator.name() in ATTENTION
    return CheckpointPolicy.MUST_SAVE if is_attention else CheckpointPolicy.PREFER_RECOMPUTE
