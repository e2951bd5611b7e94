"""How an episode becomes a gradient: GRPO over merged multi-turn contexts.

    accelerate launch train.py --exp gsm8k_offline
    accelerate launch train.py --exp gsm8k --steps 200 --optim.lr 2e-6
    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 train.py --exp gsm8k
    python train.py --exp path/to/my_experiment.py
    python train.py --exp gsm8k --resume runs/gsm8k/20261121-120000

Differences from GRPO as published (arXiv 2402.03300): no reference model and no KL term; the loss
is the mean over all trained tokens of the batch, not of each episode; one optimizer step per batch,
so that it is strictly on-policy; all calls of a batch are merged into token trees, and each token
is computed once.
"""

import argparse
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.config import Config, parse, to_json


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with the run in this folder"
    )


DESCRIPTION = "Train the model behind an agent."

if __name__ == "__main__":
    # What is wrong with what was typed is said before the imports below take their seconds.
    parse(sys.argv[1:], DESCRIPTION, add_flags)

import torch
from transformers import AutoTokenizer

from agentrl.learning import checkpoint
from agentrl.learning.advantages import trainable
from agentrl.learning.checkpoint import CheckpointError
from agentrl.learning.loss import policy_loss
from agentrl.learning.packing import deal, pack
from agentrl.learning.policy import Policy
from agentrl.learning.probe import probe_gap
from agentrl.learning.ranks import RankLost, Ranks
from agentrl.records.recorder import Recorder, RecordsFailed
from agentrl.records.writer import Scores
from agentrl.runs import preflight, summary
from agentrl.runs.metrics import Clock, Tally, episode_metrics, token_metrics
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.runs.run import Run
from agentrl.runs.trackers import Trackers
from agentrl.signals import Interrupted, Signals
from agentrl.types import EngineStopped, Group, Report, Sample, Task
from kernels.tree_attention import choose
from rollout import (
    TooManyFailed,
    check_failures,
    collect,
    compute_dtype,
    evaluate,
    evaluation_metrics,
    find_model,
    find_tasks,
    serve,
)


def main() -> None:
    _, config, flags = parse(sys.argv[1:], DESCRIPTION, add_flags)
    signals = Signals()
    signals.listen()
    try:
        ranks = Ranks(
            compute_dtype(config),
            signals,
            config.rank_timeout_seconds,
            config.engine.tensor_parallel_size,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    names = config.trackers if ranks.is_first else ()
    with exit_messages(ranks), Trackers(names) as trackers:
        train(flags.exp, config, flags.resume, ranks, trackers)


def train(exp: str, config: Config, resume: Path | None, ranks: Ranks, trackers: Trackers) -> None:
    """Every step from where the run is to its last. Interrupted, it saves where it came to."""
    display, whole = Display(silent=not ranks.is_first), Clock()
    with user_errors():
        train_tasks, held_out = find_tasks(config)
        batches = task_batches(train_tasks, config)
        kernels = choose(config.kernels, ranks.device)
        preflight.check_surroundings(
            config, train_tasks, held_out, ranks=ranks.num_engines, display=display
        )
        run = Run.reopen(resume, Path(exp).stem, writes=ranks.is_first) if resume else None
        resumed = checkpoint.newest(run.checkpoints) if run else None
        if config.deterministic:
            compute_repeatably()
        with whole("model"):
            model_folder = resumed or find_model_once(config, ranks, display)
            preflight.check_model(
                config,
                model_folder,
                train_tasks,
                num_steps=len(batches),
                ranks=ranks.size,
                ranks_here=ranks.size_here,
                dtype=compute_dtype(config),
                kernels=kernels,
                device=ranks.device,
                display=display,
            )
        run = begin(run, resumed, exp, config, ranks, display)

    with whole("load"), display.phase("loading"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        if ranks.is_first:
            tokenizer.save_pretrained(run.tokenizer)
        policy, optimizer = load(model_folder, kernels, config, ranks)
        serving = serve(config, model_folder)
        # Last: vLLM seeds every generator when it starts.
        lost = checkpoint.load(resumed, policy, optimizer, ranks) if resumed else None
    display.line(f"kernels: {kernels}")
    if lost:
        display.line(f"warning: {lost}")
    engine = serving.engine
    done = checkpoint.step_of(resumed) if resumed else -1
    random_state = checkpoint.get_random_state()
    # A step whose evaluation was interrupted has only that left to do.
    unfinished = {}
    if resumed and is_evaluated(done, len(batches), config) and "eval/failure" not in run.rows[-1]:
        unfinished = run.rows[-1]
    with user_errors():
        for line in trackers.follow(run, run.rows[:-1] if unfinished else run.rows):
            display.line(line)

    recorder = Recorder(run.rollouts, writes=ranks.is_first)

    def save() -> None:
        # Whoever goes on from a checkpoint finds the records of what led to it.
        recorder.flush()
        folder = run.checkpoints / f"step-{done:05d}"
        if done >= 0 and not folder.exists():
            with whole("save"), quiet():
                checkpoint.save(folder, policy, optimizer, tokenizer, ranks, random_state)
            if config.keep_last and ranks.is_first:
                checkpoint.prune(run.checkpoints, config.keep_last, run.best_step)

    ranks.signals.postpone()
    try:
        for step in range(done if unfinished else done + 1, len(batches) + 1):
            clock = Clock()
            metrics = {"step": step} | unfinished
            if step > 0 and not unfinished:
                # Episodes: the engine samples, the workflow acts, the judge scores.
                with clock("rollout"), display.phase("episodes") as progress:
                    own_groups = collect(
                        ranks.shard(batches[step - 1]),
                        config,
                        serving,
                        step=step,
                        group_size=config.group_size,
                        summary=progress,
                        check=ranks.check,
                    )
                    groups = ranks.gather(without_payloads(own_groups), "episodes")
                metrics |= episode_metrics(groups)
                with recorder.keeping(step, groups):
                    check_failures(groups, config.max_failed)
                    if step == 1:
                        check_trained_agents(groups, config.trained_agents, display)
                        preflight.check_prompts_fit(groups, config.model.max_model_len)
                    engine.sleep()

                    with clock("train"), display.phase("training") as progress:
                        rate = config.optim.rate(step, len(batches))
                        samples, scores, of_update = update(
                            policy, optimizer, groups, config, ranks, rate, progress
                        )
                done, random_state = step, checkpoint.get_random_state()
                metrics |= of_update
                recorder.add(step, groups, samples, scores)

            # Push: the engine samples the next batch from exactly these weights.
            with clock("sync"):
                engine.wake()
                sampler_probe = engine.sync(policy.weights())
                metrics["gap/probe"] = probe_gap(policy, engine.probe, sampler_probe)

            if is_evaluated(step, len(batches), config):
                with clock("eval"), display.phase("evaluation") as progress:
                    share = ranks.shard(held_out)
                    own_groups = evaluate(share, config, serving, progress, ranks.check)
                    groups = ranks.gather(without_payloads(own_groups), "evaluation")
                recorder.add(step, groups, held_out=True)
                metrics |= evaluation_metrics(groups)
                if step == 0 and "eval/success" not in metrics:
                    sys.exit(f"error: no episode could be scored: {metrics['eval/failure']}")
            metrics |= clock.metrics()
            run.log(metrics)
            unfinished, done, random_state = {}, step, checkpoint.get_random_state()
            if step == len(batches) or (
                config.save_every and step and step % config.save_every == 0
            ):
                save()
            if "eval/success" in metrics:
                run.draw_curve()
            display.line(summary.step_line(run.rows, len(batches)))
    except (Interrupted, TooManyFailed) as cause:
        if done == metrics["step"]:
            run.log(metrics | clock.metrics())
        save()
        what = f"after step {done}" if done >= 0 else "before the first step was done"
        display.line(f"{cause} {what}: go on with --resume {run.folder}")
        raise
    finally:
        recorder.close()
    run.draw_curve()
    summary.summary(display, Path(exp).stem, run, whole)


def load(
    folder: str | Path, kernels: str, config: Config, ranks: Ranks
) -> tuple[Policy, torch.optim.Optimizer]:
    """The model to train, and AdamW, sharded over the ranks."""
    policy = Policy.load(folder, kernels=kernels, recompute=config.model.recompute)
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=config.optim.lr,
        betas=config.optim.betas,
        weight_decay=config.optim.weight_decay,
    )
    return ranks.prepare(policy, optimizer)


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    config: Config,
    ranks: Ranks,
    rate: float,
    summary: Report,
) -> tuple[list[Sample], list[Scores], dict[str, Any]]:
    """One optimizer step: every call of the batch, merged into trees, and one loss term for each
    sampled token. Returns what was trained on, what the policy made of it, and the step's metrics.
    """
    samples = trainable(config.advantages(groups), config.trained_agents)
    micro_batches = pack(samples, config.micro_batch_tokens)
    num_terms = sum(len(micro.term) for micro in micro_batches)
    own_micro_batches = deal(micro_batches, ranks.rank, ranks.size)
    tally, own_scores = Tally(), []
    for i, micro in enumerate(own_micro_batches):
        ranks.check_in_step()
        micro = micro.to(ranks.device)
        trained_logprobs, entropies = policy(micro, config.sampling.temperature)  # (M,)
        logprobs = trained_logprobs[micro.term]  # (N,)
        terms = policy_loss(
            logprobs,
            micro.sampler_logprobs,
            micro.advantages,
            clip_low=config.loss.clip_low,
            clip_high=config.loss.clip_high,
            importance_sampling_cap=config.loss.importance_sampling_cap,
        )
        ranks.backward(terms.loss.sum() / num_terms)
        entropies = entropies[micro.term]  # (N,)
        tally.add(terms, logprobs, micro.sampler_logprobs, entropies)
        own_scores.append(Scores.of(micro.samples, logprobs, entropies, terms.weight))
        summary((i + 1) / len(own_micro_batches), f"{len(micro_batches)} trees")
    of_ranks = ranks.gather([(tally, own_scores)], "gradients")
    grad_norm = ranks.clip(policy, config.optim.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    # Without a difference in rewards there is nothing to learn, and AdamW would still move.
    degenerate = all(sample.advantage == 0 for sample in samples)
    if not degenerate:
        optimizer.step()
    optimizer.zero_grad()
    computed = sum(len(micro.ids) for micro in micro_batches)
    scores = [one for _, own_scores in of_ranks for one in own_scores]
    return (
        samples,
        scores,
        {
            **token_metrics(groups, samples, computed),
            **Tally.metrics([tally for tally, _ in of_ranks]),
            "grad_norm": grad_norm,
            "lr": rate,
            "degenerate": degenerate,
        },
    )


@contextmanager
def exit_messages(ranks: Ranks) -> Iterator[None]:
    """What a person caused is told without a traceback; peers, who may wait, hear of any end."""
    go_on = "the last checkpoint is whole: go on from it with --resume and the run's folder"
    try:
        yield
    except Interrupted as signal:
        ranks.fail(f"it was interrupted by {signal}")
        sys.exit(128 + signal.number)
    except CannotStart as error:
        ranks.fail(str(error))
        sys.exit(f"error: {error}")
    except TooManyFailed as error:
        sys.exit(f"error: {error}")
    except (CheckpointError, EngineStopped, RankLost, RecordsFailed) as error:
        ranks.fail(str(error))
        sys.exit(f"error: {error}; {go_on}")
    except BaseException as error:
        ranks.fail(f"{type(error).__name__}: {error}")
        raise


class CannotStart(Exception):
    """Something that was typed, or that it names, cannot be used."""


@contextmanager
def user_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise CannotStart(str(error)) from error


def begin(
    run: Run | None,
    resumed: Path | None,
    exp: str,
    config: Config,
    ranks: Ranks,
    display: Display,
) -> Run:
    """A new run's folder, or the old one, cut back to its checkpoint; the same on every rank."""
    if run is None:
        made = []
        if ranks.is_first:
            made = [Run.create(config.runs, exp, to_json(config)).folder]
        run = Run(ranks.gather(made, "run's folder")[0], writes=ranks.is_first)
        display.line(f"run: {run.folder}")
        return run
    step = checkpoint.step_of(resumed) if resumed else None
    ranks.wait("resume")
    changed = run.go_on(step, to_json(config))
    display.line(f"run: {run.folder}, {f'after step {step}' if resumed else 'from the start'}")
    for name, (before, now) in changed.items():
        display.line(f"warning: {name} was {before} and is {now} from here on")
    return run


def is_evaluated(step: int, num_steps: int, config: Config) -> bool:
    every = config.eval.every
    return every is not None and (step % every == 0 or step == num_steps)


def find_model_once(config: Config, ranks: Ranks, display: Display) -> str | Path:
    """Where the model has to be made, one process of a host does it, and the others wait."""
    if ranks.is_first_of_host:
        folder = find_model(config, None, display)
    ranks.wait("model")
    return folder if ranks.is_first_of_host else find_model(config, None, display)


def compute_repeatably() -> None:
    """One thread, and no kernel whose result depends on timing."""
    torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def without_payloads(groups: Sequence[Group]) -> list[Group]:
    """Without what may be anything and stays on its rank: responses and metadata.

    Only judges read them.
    """
    return [
        replace(g, episodes=tuple(replace(e, response=None, metadata={}) for e in g.episodes))
        for g in groups
    ]


def check_trained_agents(
    groups: Sequence[Group], trained_agents: Sequence[str] | None, display: Display
) -> None:
    """Say which trained agents made no call in the first batch; exit where nothing is trained."""
    callers = {agent for group in groups for e in group.episodes for agent in e.agents}
    silent = set(trained_agents or ()) - callers
    # Where nobody called, the episodes failed, and their cause is on the screen.
    if not silent or not callers:
        return
    sentence = (
        f"trained_agents names {', '.join(sorted(silent))}, but the first batch has no such call: "
        f"its agents are {', '.join(sorted(callers))}"
    )
    if silent == set(trained_agents):
        sys.exit(f"error: {sentence}. Choose of them with --trained-agents")
    display.line(f"warning: {sentence}")


def task_batches(tasks: Sequence[Task], config: Config) -> list[list[Task]]:
    """The tasks of every step: each epoch in an order of its own, whole batches only."""
    size = config.tasks_per_step
    if len(tasks) < size:
        raise ValueError(f"tasks_per_step is {size}, but there are only {len(tasks)} train tasks")
    per_epoch = len(tasks) // size
    epochs = config.epochs or math.ceil((config.steps or 1) / per_epoch)
    batches = []
    for epoch in range(epochs):
        order = random.Random(f"{config.seed}-{epoch}").sample(tasks, len(tasks))
        batches += [order[i * size : (i + 1) * size] for i in range(per_epoch)]
    return batches[: config.steps]


if __name__ == "__main__":
    main()
