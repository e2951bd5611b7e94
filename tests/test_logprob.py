import math

import pytest
import torch

from kernels.logprob import linear_logprob


def test_by_hand():
    # Logits 0 and ln 3 at temperature 1: probabilities 1/4 and 3/4.
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    logprob, entropy = linear_logprob(hidden, weight, torch.tensor([1]))
    assert logprob.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    # Temperature 1/2 doubles the logits: 1/10 and 9/10.
    logprob, _ = linear_logprob(hidden, weight, torch.tensor([1]), temperature=0.5)
    assert logprob.item() == pytest.approx(math.log(0.9))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_chunks_change_nothing(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(37, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(37, (23,))
    naive = (hidden @ weight.T / 0.7).log_softmax(-1)[torch.arange(23), target]
    logprobs, _ = linear_logprob(hidden, weight, target, temperature=0.7, chunk=chunk)
    torch.testing.assert_close(logprobs, naive, rtol=0, atol=1e-12)
    coefficients = torch.randn(23, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((logprobs * coefficients).sum(), (hidden, weight)),
        torch.autograd.grad((naive * coefficients).sum(), (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match="does not fit weight"):
        linear_logprob(torch.randn(3, 8), torch.randn(5, 7), torch.zeros(3, dtype=torch.long))
