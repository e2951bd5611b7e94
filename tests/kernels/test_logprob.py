import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.logprob import kernel, linear_logprob, reference, tiled
from tests.support.device import DEVICE, ON_GPU

FP32, FP64, FP16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
# Triton's interpreter, without a GPU, takes tensors of a CPU.
DEVICES = {"torch": "cpu", "triton": DEVICE}


@pytest.fixture(autouse=True)
def _memory_starts_as_nan():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def large_blocks(monkeypatch):
    """Interpreted, a block costs what it costs, however large it is; a GPU keeps its own."""
    if not ON_GPU:
        monkeypatch.setattr(kernel, "BT", 256)
        monkeypatch.setattr(kernel, "BV", 512)


def inputs(N: int, V: int, C: int = 16, dtype=FP64, impl: str = "torch"):
    torch.manual_seed(N + V)
    hidden = torch.randn(N, C).to(DEVICES[impl], dtype).requires_grad_()
    weight = (torch.randn(V, C) / C**0.5).to(DEVICES[impl], dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (N,)).to(DEVICES[impl])


def results(score, hidden, weight, target, **options):
    """Log-probabilities, entropies and both gradients of a sum that weighs all of them."""
    torch.manual_seed(1)
    a, b = torch.randn(2, len(hidden), dtype=FP64).to(hidden.device)
    logprobs, entropies = score(hidden, weight, target, **options)
    gradients = torch.autograd.grad((a * logprobs + b * entropies).sum(), (hidden, weight))
    return logprobs, entropies, *gradients


def keeps_the_rule(score, tensors, temperature=0.7, **options) -> list[bool]:
    """Whether each result is as near to fp64 as twice the naive one of the same dtype."""
    hidden, weight, target = tensors
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = results(reference, *wide, target, temperature=temperature)
    naive = results(reference, *tensors, temperature=temperature)
    ours = results(score, *tensors, temperature=temperature, **options)
    assert [x.dtype for x in ours] == [x.dtype for x in naive]

    def error(x, y):
        return (x.double() - y).abs().max().item() if x.numel() else 0.0

    # Written so that NaN breaks it.
    return [
        error(x, z) <= 2 * error(y, z) + 1e-6 for x, y, z in zip(ours, naive, exact, strict=True)
    ]


def test_by_hand():
    # Logits 0 and ln 3 at temperature 1: probabilities 1/4 and 3/4.
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    logprob, entropy = linear_logprob(hidden, weight, torch.tensor([1]))
    assert logprob.item() == pytest.approx(math.log(0.75))
    assert entropy.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    # Temperature 1/2 doubles the logits: 1/10 and 9/10.
    logprob, _ = linear_logprob(hidden, weight, torch.tensor([1]), temperature=0.5)
    assert logprob.item() == pytest.approx(math.log(0.9))


@pytest.mark.parametrize(
    ("N", "V"), [(0, 37), (1, 3), (1, 1031), (7, 37), (7, 800), (33, 3), (33, 1031), (1000, 800)]
)
@pytest.mark.parametrize(
    ("impl", "dtype"),
    [("torch", FP32), ("torch", FP16), ("torch", BF16), ("triton", FP32), ("triton", FP16)]
    # The interpreter's products of bf16 are wrong.
    + [("triton", BF16)] * ON_GPU,
)
def test_as_near_to_fp64_as_naive(large_blocks, impl, dtype, N, V):
    tensors = inputs(N, V, dtype=dtype, impl=impl)
    assert keeps_the_rule(linear_logprob, tensors, impl=impl) == [True] * 4
    tiles = {"chunk": N // 3 + 1, "vocab_chunk": V // 3 + 1}
    assert keeps_the_rule(linear_logprob, tensors, impl=impl, **tiles) == [True] * 4


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("chunk", "vocab_chunk"), [(1, 37), (5, 10), (64, 1), (23, 64)])
def test_tiles_change_nothing(large_blocks, impl, chunk, vocab_chunk):
    tensors = inputs(23, 37, impl=impl)
    ours = results(
        linear_logprob, *tensors, temperature=0.7, chunk=chunk, vocab_chunk=vocab_chunk, impl=impl
    )
    naive = results(reference, *tensors, temperature=0.7)
    for mine, theirs in zip(ours, naive, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_blocks_of_the_size_a_gpu_gets():
    tensors = inputs(6, kernel.BV + 7, dtype=FP32, impl="triton")
    assert keeps_the_rule(linear_logprob, tensors, impl="triton") == [True] * 4


def test_a_fold_that_does_not_rescale_breaks_the_rule(monkeypatch):
    fold = tiled.fold

    def forgetful(logits, target, state, scale):
        state[0].copy_(torch.maximum(state[0], logits.amax(1) * scale))
        fold(logits, target, state, scale)

    monkeypatch.setattr(tiled, "fold", forgetful)
    tensors = inputs(33, 800, dtype=FP32)
    assert keeps_the_rule(linear_logprob, tensors) == [True] * 4
    assert keeps_the_rule(linear_logprob, tensors, vocab_chunk=128) == [False] * 4


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_more_rows_than_a_short_grid_axis_holds(monkeypatch, impl):
    if not ON_GPU:
        monkeypatch.setattr(kernel, "BT", 8192)
        monkeypatch.setattr(kernel, "BV", 8)
    tensors = inputs(70_000, 5, C=2, dtype=FP32, impl=impl)
    assert keeps_the_rule(linear_logprob, tensors, chunk=70_000, impl=impl) == [True] * 4


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_gradcheck(large_blocks, impl):
    hidden, weight, target = inputs(2, 3, C=2, impl=impl)
    options = {"temperature": 0.7, "chunk": 1, "vocab_chunk": 2, "impl": impl}
    assert torch.autograd.gradcheck(
        lambda h, w: linear_logprob(h, w, target, **options), (hidden, weight)
    )


def test_tied_embeddings_get_both_gradients():
    _, weight, target = inputs(23, 37)
    ids = target.flip(0)

    def gradient(score):
        return torch.autograd.grad(score(weight[ids], weight, target, 1.0)[0].sum(), weight)[0]

    torch.testing.assert_close(gradient(linear_logprob), gradient(reference), rtol=0, atol=1e-12)


def test_one_of_the_two_may_be_frozen():
    hidden, weight, target = inputs(23, 37)
    both = results(reference, hidden, weight, target, temperature=1.0)[2:]
    torch.manual_seed(1)
    a, b = torch.randn(2, 23, dtype=FP64)
    for i, pair in enumerate([(hidden, weight.detach()), (hidden.detach(), weight)]):
        logprobs, entropies = linear_logprob(*pair, target)
        (only,) = torch.autograd.grad((a * logprobs + b * entropies).sum(), pair[i])
        torch.testing.assert_close(only, both[i], rtol=0, atol=1e-12)
    assert not linear_logprob(hidden.detach(), weight.detach(), target)[0].requires_grad


def test_hidden_may_be_strided_or_expanded():
    hidden, weight, target = inputs(23, 37)
    for strided in (hidden.detach().T.contiguous().T, hidden.detach()[:1].expand(23, -1)):
        strided.requires_grad_()
        ours = results(linear_logprob, strided, weight, target)
        naive = results(reference, strided, weight, target, temperature=1.0)
        for mine, theirs in zip(ours, naive, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["torch"] + ["triton"] * ON_GPU)
def test_autocast_takes_the_products_in_its_dtype_and_keeps_fp32_gradients(impl):
    hidden, weight, target = inputs(33, 800, dtype=FP32, impl=impl)

    def under_autocast(*tensors, **options):
        with torch.autocast(hidden.device.type, BF16):
            return linear_logprob(*tensors, **options)

    ours = results(under_autocast, hidden, weight, target)
    halves = [x.detach().to(BF16).requires_grad_() for x in (hidden, weight)]
    explicit = results(linear_logprob, *halves, target)
    assert [x.dtype for x in ours] == [FP32] * 4
    assert torch.equal(ours[0], explicit[0])
    assert torch.equal(ours[1], explicit[1])
    assert torch.equal(ours[2].to(BF16), explicit[2])
    assert torch.equal(ours[3].to(BF16), explicit[3])


def test_no_tensor_is_larger_than_a_tile():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **kwargs or {})
            sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            self.numel = max([self.numel, *sizes])
            return out

    tensors = inputs(256, 1024, C=4)
    with Largest() as seen:
        results(linear_logprob, *tensors, chunk=32, vocab_chunk=256)
    assert seen.numel == 32 * 256


def test_a_target_outside_the_vocabulary_is_nan():
    for impl in ("torch", "triton"):
        hidden, weight, _ = inputs(3, 5, impl=impl)
        target = torch.tensor([-100, 4, 5], device=hidden.device)
        logprobs, _ = linear_logprob(hidden, weight, target, impl=impl)
        assert logprobs.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(5, 7)}, r"\(3, 8\) does not fit weight \(5, 7\) and target \(3,\)"),
        ({"target": torch.zeros(4, dtype=torch.long)}, r"\(5, 8\) and target \(4,\)"),
        ({"hidden": torch.zeros(3, 8, 1)}, r"hidden \(3, 8, 1\) does not fit"),
        ({"weight": torch.zeros(5, 8, dtype=BF16)}, "float32, weight is torch.bfloat16"),
        ({"target": torch.zeros(3)}, "target is torch.float32, not torch.int64"),
        ({"weight": torch.zeros(5, 8, device="meta")}, "hidden is on cpu, weight on meta"),
        ({"temperature": 0.0}, "temperature 0.0 is not above 0"),
        ({"impl": "cuda"}, "impl 'cuda' is none of"),
    ],
)
def test_what_does_not_belong_together(change, message):
    right = {"hidden": torch.zeros(3, 8), "weight": torch.zeros(5, 8)}
    right["target"] = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        linear_logprob(**right | change)


def test_triton_on_a_cpu_needs_its_interpreter(monkeypatch):
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    with pytest.raises(ValueError, match="needs TRITON_INTERPRET=1"):
        linear_logprob(*inputs(3, 5), impl="triton")
