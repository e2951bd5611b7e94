"""One engine over two ranks samples what an engine of one rank would."""

import pytest

from tests.support.running import EXPERIMENT, STEPS, TWO_RANKS, Running, metrics, start, the_run


@pytest.mark.slow
def test_two_ranks_hold_one_engine(tmp_path, tiny_folder, left_alone):
    flags = ("--steps", "2", "--deterministic", "--engine.tensor-parallel-size", "2")
    run = start(tmp_path, tiny_folder, *flags, launch=TWO_RANKS)
    assert run.end() == 0, run.said
    together, alone = metrics(the_run(tmp_path)), metrics(left_alone(STEPS))
    assert len(together) == 3
    for mine in together:
        # What the sampler drew from is the trainer's model, put together from both halves.
        assert mine["gap/probe"] < 1e-4
        assert mine["step"] == 0 or mine["gap/max_abs_logprob"] < 1e-4
    # Before the first update, and until rounding draws another token, the same tokens.
    for name in ("reward/mean", "tokens/logical", "tokens/unique", "tokens/trained"):
        assert together[1][name] == alone[1][name]


@pytest.mark.slow
def test_ranks_that_do_not_divide_into_engines_are_refused(tmp_path, tiny_folder):
    flags = ("--exp", EXPERIMENT, "--model.path", tiny_folder, "--engine.tensor-parallel-size", "3")
    run = Running(tmp_path / "log", *flags, launch=TWO_RANKS)
    assert run.end() == 1
    assert (
        "error: engine.tensor_parallel_size is 3, which does not divide the 2 ranks: "
        "launch a multiple of it with --num_processes"
    ) in run.said
