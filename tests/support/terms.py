"""Terms of a few tokens, for losses by hand."""

from collections.abc import Sequence

import torch

from agentrl.algorithms import Terms


def make_terms(
    logprobs: torch.Tensor,
    sampler: Sequence[float],
    advantages: Sequence[float],
    proximal: Sequence[float] | None = None,
    call: Sequence[int] | None = None,
    **others: torch.Tensor,
) -> Terms:
    """One call, unless ``call`` says otherwise; proximal: absent, the log-probabilities."""
    floats = {"dtype": logprobs.dtype}
    return Terms(
        logprobs=logprobs,
        entropies=torch.zeros_like(logprobs),
        sampler_logprobs=torch.tensor(sampler, **floats),
        proximal_logprobs=(
            logprobs.detach() if proximal is None else torch.tensor(proximal, **floats)
        ),
        advantages=torch.tensor(advantages, **floats),
        call=torch.tensor([0] * len(logprobs) if call is None else call, dtype=torch.long),
        **others,
    )
