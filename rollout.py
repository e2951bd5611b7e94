"""How an episode is born: tasks -> episodes -> groups.

As a command it runs an agent without training it:

    python rollout.py --exp gsm8k_offline --num-tasks 3 [--checkpoint DIR]
    python rollout.py --exp gsm8k_offline --evaluate [--checkpoint DIR]
"""

import argparse
import atexit
import copy
import gc
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

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
from agentrl.agents.workflow import failed, run_episode
from agentrl.types import Episode, Group, Report, Task
from agentrl.watch.metrics import episode_metrics
from agentrl.watch.progress import Display
from agentrl.watch.quiet import quiet

EVALUATION = -1
"""The step that seeds evaluation, so that every one draws with the same seeds."""
GRACE_SECONDS = 5.0
"""How much longer than its time an episode may take to notice that it is over."""


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
    from agentrl.serving.door import RemoteModel

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
    finished: queue.SimpleQueue[tuple[tuple[int, int], Episode]] = queue.SimpleQueue()
    todo = deque((row, index) for row in range(len(tasks)) for index in range(group_size))
    total, tokens_before, started = len(todo), serving.num_tokens, time.monotonic()
    doors, deadlines, episodes, num_failed = {}, {}, {}, 0

    def run(place: tuple[int, int]) -> None:
        finished.put((place, _run(tasks[place[0]], place[1], config, *doors[place])))

    def start(places: list[tuple[int, int]]) -> None:
        # All doors before the first thread: in lockstep, the engine waits for all of them.
        for row, index in places:
            task_id = tasks[row]["id"]
            doors[row, index] = serving.open(
                step=step, task_id=task_id, episode=index, own_sampling=own_sampling
            )
        for place in places:
            deadlines[place] = time.monotonic() + config.episode_seconds + GRACE_SECONDS
            threading.Thread(target=run, args=(place,), daemon=True).start()

    over: list[tuple[int, int]] = []
    try:
        while todo or deadlines:
            serving.engine.raise_if_stopped()
            check()
            free = min(len(todo), config.concurrent_episodes - len(deadlines))
            start([todo.popleft() for _ in range(free)])
            while over:
                serving.release(doors[over.pop()][0])
            try:
                place, episode = finished.get(timeout=0.1)
                if deadlines.pop(place, None) is not None:
                    episodes[place] = episode
                    num_failed += not episode.scored
                    over.append(place)
            except queue.Empty:
                # A workflow that blocks its thread cannot be stopped, only left behind.
                now = time.monotonic()
                for place in [p for p, deadline in deadlines.items() if now > deadline]:
                    episodes[place] = _abandon(tasks[place[0]], place[1], config, doors[place][0])
                    num_failed += 1
                    over.append(place)
                    del deadlines[place]
            speed = (serving.num_tokens - tokens_before) / (time.monotonic() - started + 1e-9)
            report(
                len(episodes) / total,
                f"{len(episodes)} done, {len(deadlines)} running, {num_failed} failed, "
                f"{speed:.0f} tokens/s",
            )
    finally:
        for place in deadlines:
            doors[place][0].close()
        for place in (*over, *deadlines):
            serving.release(doors[place][0])
    return [
        Group(task, tuple(episodes[row, index] for index in range(group_size)))
        for row, task in enumerate(tasks)
    ]


def _run(task: Task, index: int, config: Config, model, auxiliary_models: dict) -> Episode:
    return run_episode(
        # Its own copy: a workflow may write to its task.
        copy.deepcopy(task),
        index,
        workflow=config.workflow,
        judge=config.judge,
        model=model,
        auxiliary_models=auxiliary_models,
        seconds=config.episode_seconds,
        trained_agents=config.trained_agents,
    )


def _abandon(task: Task, index: int, config: Config, model) -> Episode:
    model.close()
    cause = f"the workflow blocked its thread for over {config.episode_seconds:g} s"
    return failed(task, index, model.calls, "timeout", cause)


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
    verdict = f"reward {episode.reward}" if episode.scored else f"{episode.status}: {episode.error}"
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
        rows = [(name, f"{value:.3f}") for name, value in metrics.items() if value is not None]
        display.table(f"{len(held_out)} held-out tasks", ("", "mean or count"), rows)
    else:
        for group in groups:
            print_episode(display, group.episodes[0])


if __name__ == "__main__":
    main()
