"""How an episode becomes a gradient: GRPO over merged multi-turn contexts.

    accelerate launch train.py --exp gsm8k_offline
    accelerate launch train.py --exp gsm8k --steps 200 --optim.lr 2e-6
    python train.py --exp path/to/my_experiment.py

Differences from GRPO as published (arXiv 2402.03300): no reference model and no KL term; the loss
is the mean over all trained tokens of the batch, not of each episode; one optimizer step per batch,
so that it is strictly on-policy; all calls of a batch are merged into token trees, and each token
is computed once.
"""

import math
import random
import sys
from collections.abc import Sequence

import torch
from transformers import AutoTokenizer

from agentrl.agents.workflow import check_signatures
from agentrl.config import Config, parse, to_json
from agentrl.learning import checkpoint
from agentrl.learning.advantages import trainable
from agentrl.learning.distributed import make_accelerator
from agentrl.learning.loss import policy_loss
from agentrl.learning.model import Policy
from agentrl.learning.packing import pack
from agentrl.learning.probe import probe_gap
from agentrl.types import Group, Task
from agentrl.watch import report, rollouts
from agentrl.watch.metrics import Clock, Tally, episode_metrics, token_metrics
from agentrl.watch.progress import Display
from agentrl.watch.quiet import quiet
from agentrl.watch.run import Run
from kernels.tree_attention import choose
from rollout import check_failures, collect, compute_dtype, evaluate, find_model, find_tasks, serve


def main() -> None:
    name, config, flags = parse(sys.argv[1:], "Train the model behind an agent.")
    display, startup = Display(), Clock()
    try:
        check_signatures(config.workflow, config.judge)
        train_tasks, held_out = find_tasks(config)
        batches = task_batches(train_tasks, config)
        accelerator = make_accelerator(compute_dtype(config))
        kernels = choose(config.kernels, accelerator.device)
        with startup("model"):
            model_folder = find_model(config, None, display)
    except ValueError as error:
        sys.exit(f"error: {error}")

    run = Run(config.runs, name, to_json(config))
    display.line(f"run: {run.folder}")
    with startup("load"), display.phase("loading"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        policy = Policy.load(
            model_folder, kernels=kernels, checkpointing=config.model.checkpointing
        )
        optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=config.optim.lr,
            betas=config.optim.betas,
            weight_decay=config.optim.weight_decay,
        )
        policy, optimizer = accelerator.prepare(policy, optimizer)
        serving = serve(config, model_folder)
    display.line(f"kernels: {kernels}")
    engine, temperature = serving.engine, config.sampling.temperature

    for step in range(len(batches) + 1):
        clock = Clock()
        metrics = {"step": step}
        if step > 0:
            # Episodes: the engine samples, the workflow acts, the judge scores.
            with clock("rollout"), display.phase("episodes") as progress:
                groups = collect(
                    batches[step - 1],
                    config,
                    serving,
                    step=step,
                    group_size=config.group_size,
                    report=progress,
                )
            metrics |= episode_metrics(groups)
            check_failures(groups, config.max_failed)
            if step == 1:
                check_trained_agents(groups, config.trained_agents, display)
            engine.sleep()

            # Gradient: every call of the batch, merged into trees, and one loss term a sampled
            # token.
            with clock("train"), display.phase("training") as progress:
                samples = trainable(config.advantages(groups), config.trained_agents)
                micro_batches = pack(samples, config.micro_batch_tokens)
                num_terms = sum(len(micro.term) for micro in micro_batches)
                tally = Tally(num_terms)
                for i, micro in enumerate(micro_batches):
                    micro = micro.to(accelerator.device)
                    trained_logprobs, entropies = policy(micro, temperature)  # (M,)
                    logprobs = trained_logprobs[micro.term]  # (N,)
                    terms = policy_loss(
                        logprobs,
                        micro.sampler_logprobs,
                        micro.advantages,
                        clip_low=config.loss.clip_low,
                        clip_high=config.loss.clip_high,
                        correction_cap=config.loss.correction_cap,
                    )
                    accelerator.backward(terms.loss.sum() / num_terms)
                    tally.add(terms, logprobs, micro.sampler_logprobs, entropies[micro.term])
                    progress((i + 1) / len(micro_batches), f"{len(micro_batches)} trees")
                grad_norm = accelerator.clip_grad_norm_(
                    policy.parameters(), config.optim.max_grad_norm
                )
                for group in optimizer.param_groups:
                    group["lr"] = config.optim.rate(step, len(batches))
                # Without a difference in rewards there is nothing to learn, and AdamW would still
                # move.
                degenerate = all(sample.advantage == 0 for sample in samples)
                if not degenerate:
                    optimizer.step()
                optimizer.zero_grad()
            metrics |= token_metrics(groups, samples, sum(len(m.ids) for m in micro_batches))
            metrics |= tally.metrics()
            metrics |= {"grad_norm": grad_norm.item(), "lr": group["lr"], "degenerate": degenerate}
            rollouts.save(run.rollouts, step, groups, samples)

        # Push: the engine samples the next batch from exactly these weights.
        with clock("sync"):
            engine.wake()
            sampler_probe = engine.sync(accelerator.unwrap_model(policy).weights())
            metrics["gap/probe"] = probe_gap(policy, engine.probe, sampler_probe)

        is_last = step == len(batches)
        if config.eval.every and (step % config.eval.every == 0 or is_last):
            with clock("eval"), display.phase("evaluation") as progress:
                metrics |= evaluate(held_out, config, serving, progress)
            if step == 0 and "eval/success" not in metrics:
                sys.exit(f"error: no episode could be scored: {metrics['eval/failure']}")
        if is_last or (config.save_every and step and step % config.save_every == 0):
            with clock("save"), quiet():
                folder = run.checkpoints / f"step-{step:05d}"
                checkpoint.save(accelerator.unwrap_model(policy), tokenizer, folder)
        metrics |= clock.metrics()
        run.log(metrics)
        if "eval/success" in metrics:
            run.draw_curve()
        display.line(report.step_line(run.rows, len(batches)))
    run.draw_curve()
    report.summary(display, flags.exp, run, startup)


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
