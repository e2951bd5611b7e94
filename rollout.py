"""How an episode is born: tasks -> episodes -> groups.

As a command it runs an agent without training it:

    python rollout.py --exp gsm8k_offline --num-tasks 3 [--checkpoint DIR]
    python rollout.py --exp gsm8k_offline --evaluate [--checkpoint DIR]
"""

import argparse
import atexit
import gc
import logging
import queue
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agentrl.config import AuxiliaryModel, Config, EngineConfig, parse


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}: give at least 1")
    return int(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-tasks", type=at_least_one, default=1)
    parser.add_argument("--checkpoint")
    parser.add_argument("--evaluate", action="store_true")


DESCRIPTION = "Run an agent without training: --num-tasks K [--checkpoint DIR], or --evaluate."

if __name__ == "__main__":
    # What is wrong with what was typed is said before the imports below take their seconds.
    parse(sys.argv[1:], DESCRIPTION, add_flags)

import torch
from transformers import AutoTokenizer

from agentrl import hub, preflight
from agentrl.agents.data import with_id
from agentrl.agents.overrun import EndableThread, num_left_behind
from agentrl.agents.workflow import blocked, run_episode
from agentrl.types import Episode, Group, Report, Task
from agentrl.watch.metrics import episode_metrics
from agentrl.watch.progress import Display
from agentrl.watch.quiet import quiet

EVALUATION = -1
"""The step that seeds evaluation, so that every one draws with the same seeds."""
GRACE_SECONDS = 5.0
"""How much longer than its time an episode may take to notice that it is over."""
INTERRUPT_SECONDS = 1.0
"""How long an interrupted thread gets to end, before the next interrupt."""

log = logging.getLogger(__name__)


def serve(config: Config, folder: str | Path):
    """Start vLLM on a model folder, and the doors in front of it and of the auxiliary models."""
    # Slow to import, and not needed for --help.
    from agentrl.serving.door import Serving
    from agentrl.serving.endpoint import Endpoint

    model = config.model
    policy = _serve_model(config, "policy", folder, model, config.engine)
    auxiliary = {name: _auxiliary(config, name, m) for name, m in config.auxiliary_models.items()}
    endpoint = Endpoint(host=config.endpoint.host, port=config.endpoint.port)
    serving = Serving(endpoint, policy, auxiliary, seed=config.seed)
    # However the process ends, vLLM is shut down first.
    atexit.register(serving.close)
    # What is loaded now stays: looking through it for garbage would halt all episodes for 0.3 s.
    gc.collect()
    gc.freeze()
    return serving


def _auxiliary(config: Config, name: str, model: AuxiliaryModel):
    """A frozen model with an engine of its own, or how to reach the one at its url."""
    from agentrl.serving.remote import RemoteModel

    if model.url is None:
        return _serve_model(config, name, model.model, model, model.engine)
    return partial(RemoteModel, model.model, model.url, preflight.key_of(name, model))


def _serve_model(config: Config, name: str, folder: str | Path, model, engine_config: EngineConfig):
    from agentrl.serving.chat import Chat
    from agentrl.serving.engine import Engine
    from agentrl.serving.reply import ReplyParser
    from agentrl.serving.served import ServedModel

    dtype = compute_dtype(config)
    engine = Engine(
        folder,
        max_len=model.max_len,
        dtype=dtype,
        config=engine_config,
        reasoning_parser=model.reasoning_parser,
        lockstep=config.deterministic,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return ServedModel(
        name,
        engine,
        Chat(tokenizer, ReplyParser(tokenizer, model.tool_parser, model.reasoning_parser)),
        temperature=config.sampling.temperature,
        max_tokens=config.sampling.max_tokens,
        max_len=model.max_len,
    )


def compute_dtype(config: Config) -> str:
    if config.model.dtype != "auto":
        return config.model.dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


Place = tuple[int, int]
"""The row of a task in its batch, and the number of the episode in its group."""


@dataclass(frozen=True)
class _Running:
    """An episode's door, its thread, and when that is given up."""

    model: Any
    thread: EndableThread
    deadline: float


def collect(
    tasks: Sequence[Task],
    config: Config,
    serving,
    *,
    step: int,
    group_size: int,
    report: Report,
    check: Callable[[], None] = lambda: None,
    own_sampling: bool = False,
) -> list[Group]:
    """Run group_size episodes of every task, each in a thread of its own, and group them by task.

    Always returns an episode for each: those that fail or outlast their time carry their cause.
    Raises EngineStopped where the engine has, and what ``check``, asked often, raises.
    """
    finished: queue.SimpleQueue[tuple[Place, Episode]] = queue.SimpleQueue()
    todo = deque((row, index) for row in range(len(tasks)) for index in range(group_size))
    running: dict[Place, _Running] = {}
    episodes: dict[Place, Episode] = {}
    total, num_failed = len(todo), 0
    tokens_before, started = serving.num_tokens, time.monotonic()

    def run(place: Place, model, auxiliary_models) -> None:
        episode = _run(tasks[place[0]], place[1], config, model, auxiliary_models)
        finished.put((place, episode))

    def start(places: Sequence[Place]) -> None:
        # All doors before the first thread: in lockstep, the engine waits for all of them.
        doors = [
            serving.open(
                step=step, task_id=tasks[row]["id"], episode=index, own_sampling=own_sampling
            )
            for row, index in places
        ]
        for place, (model, auxiliary_models) in zip(places, doors, strict=True):
            thread = EndableThread(partial(run, place, model, auxiliary_models))
            deadline = time.monotonic() + config.episode_seconds + GRACE_SECONDS
            running[place] = _Running(model, thread, deadline)
            thread.start()

    over: list[Any] = []
    try:
        while todo or running:
            serving.engine.raise_if_stopped()
            check()
            free = min(len(todo), config.concurrent_episodes - len(running))
            start([todo.popleft() for _ in range(free)])
            # Only now that others have their places.
            while over:
                serving.release(over.pop())
            ended = list(_given_up(tasks, config, running))
            with suppress(queue.Empty):
                ended.append(finished.get(timeout=0.1))
            for place, episode in ended:
                # One that was left behind may still come to its end.
                if place in running:
                    over.append(running.pop(place).model)
                    episodes[place] = _punished(episode, config.failed_reward)
                    num_failed += episode.failed
            speed = (serving.num_tokens - tokens_before) / (time.monotonic() - started + 1e-9)
            report(
                len(episodes) / total,
                f"{len(episodes)} done, {len(running)} running, {num_failed} failed, "
                f"{speed:.0f} tokens/s",
            )
    finally:
        for model in [one.model for one in running.values()]:
            model.close()
            over.append(model)
        for model in over:
            serving.release(model)
    if count := num_left_behind():
        log.warning("%d threads of ended episodes are in calls that Python cannot end", count)
    return [
        Group(task, tuple(episodes[row, index] for index in range(group_size)))
        for row, task in enumerate(tasks)
    ]


def _given_up(
    tasks: Sequence[Task], config: Config, running: dict[Place, _Running]
) -> Iterator[tuple[Place, Episode]]:
    """Interrupt the threads whose time is over; those that ignore it are left behind."""
    now = time.monotonic()
    for place, one in [(p, r) for p, r in running.items() if now > r.deadline]:
        one.model.close()
        running[place] = replace(one, deadline=now + INTERRUPT_SECONDS)
        if not one.thread.interrupt():
            row, index = place
            yield place, blocked(tasks[row], index, one.model.calls, config.episode_seconds)


def _run(task: Task, index: int, config: Config, model, auxiliary_models: dict) -> Episode:
    return run_episode(
        task,
        index,
        workflow=config.workflow,
        judge=config.judge,
        model=model,
        auxiliary_models=auxiliary_models,
        seconds=config.episode_seconds,
        trained_agents=config.trained_agents,
    )


def _punished(episode: Episode, reward: float | None) -> Episode:
    if episode.scored or reward is None:
        return episode
    return replace(episode, reward=reward, success=False)


class TooManyFailed(RuntimeError):
    """So many episodes of a batch failed that training on the others would be of no use."""


def check_failures(groups: Sequence[Group], max_failed: float) -> None:
    """Raise TooManyFailed, with the commonest cause, where a larger share of episodes failed."""
    episodes = [episode for group in groups for episode in group.episodes]
    causes = Counter(episode.error for episode in episodes if episode.failed)
    if causes.total() > max_failed * len(episodes):
        ((cause, count),) = causes.most_common(1)
        raise TooManyFailed(
            f"{causes.total()} of {len(episodes)} episodes failed, which is more than "
            f"--max-failed {max_failed:g}. The commonest cause, {count} times: {cause}"
        )


def evaluate(
    tasks: Sequence[Task],
    config: Config,
    serving,
    report: Report,
    check: Callable[[], None] = lambda: None,
) -> list[Group]:
    """One episode of each task, drawn with the same seeds each time."""
    return collect(
        tasks,
        config,
        serving,
        step=EVALUATION,
        group_size=1,
        report=report,
        check=check,
        own_sampling=config.eval.sampling == "agent",
    )


def evaluation_metrics(groups: Sequence[Group]) -> dict[str, float]:
    return {f"eval/{name}": value for name, value in episode_metrics(groups).items()}


def find_tasks(config: Config) -> tuple[list[Task], list[Task]]:
    """The train tasks, and the held-out tasks that evaluation runs; each with an id."""
    train, held_out = config.tasks(config.data)
    if config.eval.every and not held_out:
        raise ValueError("there are no held-out tasks to evaluate: give some, or --eval.every None")
    return [with_id(task) for task in train], [
        with_id(t) for t in held_out[: config.eval.num_tasks]
    ]


def find_model(config: Config, path: str | None, display: Display) -> str | Path:
    """The model to start from: the path, else the config's, else the one that is made now."""
    path = path or config.model.path
    if path is None:
        with display.phase("tiny model") as report, quiet():
            return config.make_model(report)
    hub.check_model(path)
    return path


def print_episode(display: Display, episode: Episode) -> None:
    """A transcript: what the agent told the model and what it answered, turn by turn."""
    display.console.rule(f"task {episode.task['id']}, episode {episode.index}")
    # Each agent has a conversation of its own.
    shown = dict.fromkeys(episode.agents, 0)
    for call in episode.calls:
        if len(shown) > 1:
            display.console.print(f"[{call.agent}]", style="bold cyan", markup=False)
        # Fewer messages than were shown are another conversation.
        start = shown[call.agent] if len(call.messages) >= shown[call.agent] else 0
        for message in (*call.messages[start:], call.reply):
            _print_message(display, message)
        shown[call.agent] = len(call.messages) + 1
    verdict = f"{episode.status}: {episode.error}" if episode.failed else f"reward {episode.reward}"
    metrics = "".join(f", {name} {value:g}" for name, value in episode.metrics.items())
    display.console.print(f"{verdict}{metrics}", style="bold", markup=False)


def _print_message(display: Display, message: dict) -> None:
    display.console.print(f"{message['role']}:", style="cyan", end=" ")
    display.console.print(message.get("content") or "", markup=False)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        display.console.print(f"  {function['name']}({function['arguments']})", markup=False)


def main() -> None:
    _, config, flags = parse(sys.argv[1:], DESCRIPTION, add_flags)
    display = Display()
    try:
        held_out = find_tasks(config)[1]
        preflight.check_doors(config)
        folder = find_model(config, flags.checkpoint, display)
        preflight.check_serving(config, folder, display)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with display.phase("loading"), quiet():
        serving = serve(config, folder)
    with display.phase("episodes") as report:
        if flags.evaluate:
            metrics = evaluation_metrics(evaluate(held_out, config, serving, report))
        else:
            tasks = held_out[: flags.num_tasks]
            groups = collect(tasks, config, serving, step=EVALUATION, group_size=1, report=report)
    if flags.evaluate:
        cause = metrics.pop("eval/failure")
        rows = [(name, f"{value:.3f}") for name, value in metrics.items()]
        display.table(f"{len(held_out)} held-out tasks", ("", "mean or count"), rows)
        if cause is not None:
            display.line(f"the commonest failure: {cause}")
    else:
        for group in groups:
            print_episode(display, group.episodes[0])


if __name__ == "__main__":
    main()
