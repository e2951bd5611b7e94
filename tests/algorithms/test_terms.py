import torch

from tests.support.terms import make_terms


def test_sums_and_means_are_a_calls_own():
    terms = make_terms(torch.zeros(4), [0.0] * 4, [0.0] * 4, call=[0, 0, 0, 1])
    values = torch.tensor([1.0, 2.0, 6.0, 5.0])
    assert terms.sum_of_call(values).tolist() == [9.0, 9.0, 9.0, 5.0]
    assert terms.mean_of_call(values).tolist() == [3.0, 3.0, 3.0, 5.0]


def test_a_call_with_a_gradient_spreads_it_over_its_tokens():
    terms = make_terms(torch.zeros(3), [0.0] * 3, [0.0] * 3, call=[0, 0, 1])
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    terms.mean_of_call(values).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 1.0]


def test_no_terms_at_all():
    terms = make_terms(torch.zeros(0), [], [])
    assert terms.mean_of_call(torch.zeros(0)).tolist() == []
