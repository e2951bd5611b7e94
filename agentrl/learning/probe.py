"""Probe of the engine's weights: engine and trainer score one fixed sequence."""

import torch

from agentrl.learning.packing import pack
from agentrl.types import Call, Sample


@torch.no_grad()
def probe_gap(policy: torch.nn.Module, ids: list[int], sampler_logprobs: list[float]) -> float:
    """The largest difference of log-probabilities, at temperature 1, over ``ids[1:]``.

    It is rounding in fp32. A weight that was not pushed, or a packed copy of one that was not
    refreshed, shows here even where no episode happens to notice.
    """
    call = Call(prompt_ids=ids[:1], completion_ids=ids[1:], logprobs=sampler_logprobs)
    (micro,) = pack([Sample(call, advantage=0.0)], budget=len(ids))
    micro = micro.to(next(policy.parameters()).device)
    return (policy.terms(micro).logprobs - micro.sampler_logprobs).abs().max().item()
