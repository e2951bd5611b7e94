"""Training loop, how an episode becomes a gradient, top to bottom. One step of training is

    tasks -> episodes -> groups -> samples -> token trees -> terms -> loss -> gradient -> vLLM

    accelerate launch train.py --exp gsm8k_offline
    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 train.py --exp gsm8k
    python train.py --exp path/to/my_experiment.py --algorithm path/to/my_algorithm.py
    python train.py --exp gsm8k --resume runs/gsm8k/20261121-120000

What makes it GRPO is one small file of pure functions, ``agentrl/algorithms/grpo.py``.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from agentrl.cli import parse
from agentrl.config import Config
from agentrl.serving.process import prepare_process


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with the run in this folder"
    )


DESCRIPTION = "Train the model behind an agent."

if __name__ == "__main__":
    # What is wrong with what was typed is said before the imports below take their seconds.
    parse(sys.argv[1:], DESCRIPTION, add_flags)
    prepare_process()

from agentrl.learning.credit import credit
from agentrl.learning.learner import Learner, adamw
from agentrl.learning.loading import load_policy, load_reference
from agentrl.learning.packing import pack, split, with_gradient
from agentrl.learning.ranks import Ranks
from agentrl.overlap import rollouts
from agentrl.runs.ending import open_session
from agentrl.runs.session import Session
from agentrl.runs.tally import Tally
from agentrl.tasks.batches import find_batches
from agentrl.tasks.splits import find_tasks
from agentrl.types import Chunk
from agentrl.workers.start import serve
from rollout import evaluate


def train(config: Config, run: Session, ranks: Ranks) -> None:
    """Every step from where the run is to its last."""
    tasks, held_out = find_tasks(config)
    batches = find_batches(tasks, config)  # the tasks of every step, the same on every rank
    config = run.check(tasks, held_out, batches)  # what can be known to fail is said here
    with run.phase("load"):
        policy = load_policy(run.model, config, ranks)
        policy, optimizer = ranks.prepare(policy, adamw(policy.trainable(), config.optim))
        reference = load_reference(policy, run.first_model, config, ranks)  # None, where none asks
        serving = serve(config, run)
        first = run.restore(policy, optimizer)  # updates made so far
    learner = Learner(policy, reference, optimizer)
    run.try_step(learner, serving)  # on a GPU, whether the largest micro-batch fits
    stream = rollouts(serving, batches, config, ranks, run, first)
    run.start(first, {"gap/probe": serving.push(policy, version=first)})

    for step in range(first, len(batches)):
        if run.is_evaluated(step):
            run.log(step, evaluate(serving, held_out, config, ranks, run))
        # Episodes: the engine samples, the workflow acts, the judge scores.
        with run.phase("rollout"):
            chunks = next(stream)
        # Gradient: every distinct token of the batch goes through the policy once.
        with serving.asleep(), run.phase("train"):
            metrics = update(learner, chunks, step, config, ranks, run)
        # Push: what is sampled from here on is sampled from these weights; both score one probe.
        with run.phase("sync"):
            metrics["gap/probe"] = serving.push(policy, version=step + 1)
        metrics |= run.after_step(step + 1, metrics, policy, serving)  # the seam, if there is one
        run.end_step(step + 1, metrics)  # log; save where that is due
    if run.is_evaluated(len(batches)):
        run.log(len(batches), evaluate(serving, held_out, config, ranks, run))


def update(
    learner: Learner,
    chunks: Iterable[Chunk],
    step: int,
    config: Config,
    ranks: Ranks,
    run: Session,
) -> dict:
    """One batch into ``updates`` x ``passes`` optimizer steps; returns the step's metrics."""
    algorithm, tally = config.algorithm, Tally(config.algorithm)
    rate = config.optim.rate(step + 1, run.num_steps)
    for chunk in chunks:
        # Credit: an advantage a call or a token; then how much each call's tokens count.
        samples = credit(chunk.groups, learner, config, ranks)
        tally.begin(chunk.groups, samples)
        for part in split(samples, algorithm.updates) * algorithm.passes:
            weights, divisor = algorithm.weigh(part)
            if not algorithm.every_call:
                part, weights = with_gradient(part, weights)
            trees = pack(part, config.micro_batch_tokens, weights, proximal=algorithm.has_proximal)
            tally.weigh(part, divisor)
            for micro in run.progress(ranks.deal(trees, learner.policy)):
                terms = learner.policy.terms(micro, config.sampling.temperature)  # [N]
                losses = algorithm.loss(terms)  # [N], and what is measured of it
                loss = (losses.values * micro.weights).sum()
                ranks.backward(loss / divisor if chunk.is_whole else loss)
                tally.add(part, micro, terms, losses, loss)
            if chunk.is_last:
                norm = learner.clip(ranks, config.optim, None if chunk.is_whole else tally.divisor)
                learner.step(rate, tally.stepped(norm, ranks))
                run.stepped()
    metrics = tally.gather(ranks) | {"lr": rate}
    run.record(step + 1, tally)
    return metrics


def main() -> None:
    config, flags = parse(sys.argv[1:], DESCRIPTION, add_flags)
    # Ranks, signals, trackers, the run's folder; and how it ends: saved, and in a sentence.
    with open_session(config, flags) as (run, ranks):
        train(config, run, ranks)


if __name__ == "__main__":
    main()
