"""Rollouts, how an episode is born: tasks -> episodes -> groups.

As a command it runs an agent without training it:

    python rollout.py --exp gsm8k_offline --num-tasks 3 [--checkpoint DIR]
    python rollout.py --exp gsm8k_offline --evaluate [--checkpoint RUN | --checkpoint DIR ...]
    python rollout.py --exp gsm8k_offline --debug [--base-url URL --api-key KEY]
    python rollout.py --chat runs/gsm8k_offline/TIME/checkpoints/step-00040
"""

import itertools
import logging
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Protocol

from agentrl.config import Config
from agentrl.debug import command
from agentrl.serving.process import prepare_process

if __name__ == "__main__":
    # What is wrong with what was typed is said before the imports below take their seconds.
    command.read(sys.argv[1:])
    prepare_process()

from agentrl.agents.contract import InferencePool, Model
from agentrl.agents.episode import blocked, run_episode
from agentrl.agents.interrupt import EndableThread, num_left_behind
from agentrl.callables import load_callable
from agentrl.debug.main import carry_out
from agentrl.learning.ranks import Ranks
from agentrl.runs.evaluation import evaluation_metrics
from agentrl.runs.session import Session
from agentrl.tasks.splits import find_tasks
from agentrl.types import Chunk, Episode, Group, Report, Task

EVALUATION = -1
"""The step that seeds evaluation, so that every one draws with the same seeds."""
GRACE_SECONDS = 5.0
"""How much longer than its time an episode may take to notice that it is over."""
INTERRUPT_SECONDS = 1.0
"""How long an interrupted thread gets to end, before the next interrupt."""
REFILL_ROUNDS = 3
"""How often ``refill`` collects for one step at most."""
EpisodeKey = tuple[int, int]
"""The row of a task in its batch, and the number of the episode in its group."""

log = logging.getLogger(__name__)


def rollouts(
    serving: InferencePool,
    batches: Sequence[list[Task]],
    config: Config,
    ranks: Ranks,
    run: Session,
    first: int,
) -> Iterator[list[Chunk]]:
    """The groups of each step from ``first`` on, as they are asked for: all in one chunk."""
    collect_groups = find_collect(config)
    for step in range(first, len(batches)):
        groups = collect_groups(batches[step], config, serving, ranks, run, step + 1)
        run.check_batch(step + 1, groups)
        yield [Chunk(groups)]


def has_differences(group: Group) -> bool:
    """Whether an agent's reward differs between the group's episodes."""
    rewards = [episode.reward for episode in group.scored]
    return any(reward != rewards[0] for reward in rewards)


def find_collect(config: Config) -> Callable[..., list[Group]]:
    """How a step's groups come to be: by a seam of the config's or the algorithm's, or here."""
    if config.algorithm.collect is not None:
        return load_callable(config.algorithm.collect)
    return config.collect or collect


def collect(
    tasks: Sequence[Task],
    config: Config,
    serving: InferencePool,
    ranks: Ranks,
    run: Session,
    step: int,
    *,
    own_sampling: bool = False,
) -> list[Group]:
    """Run the episodes of a step's tasks: each rank its share; all groups, on every rank.

    step: its number, from 1; what is drawn depends on it. own_sampling: as the agent asks for
    (top_p, ...), for a ``config.collect`` whose algorithm corrects for that.
    """
    own_groups = run_groups(
        ranks.shard(tasks),
        config,
        serving,
        step=step,
        group_size=config.group_size,
        report=run.report,
        check=ranks.check,
        own_sampling=own_sampling,
    )
    return ranks.gather(own_groups, "episodes")


def refill(
    tasks: Sequence[Task],
    config: Config,
    serving: InferencePool,
    ranks: Ranks,
    run: Session,
    step: int,
    *,
    keep: Callable[[Group], bool] = has_differences,
    rounds: int = REFILL_ROUNDS,
    drop: bool = False,
) -> list[Group]:
    """Dynamic sampling (DAPO: arXiv 2503.14476, section 3.2): groups whose rewards are all equal
    give way to other tasks' groups; those that are left after the last round stay.

    ``partial`` of it is a ``config.collect`` by another rule: ``keep``, which groups are wanted;
    ``drop``, that the others go, unless no group is wanted.
    """
    rng, wanted, asked = Random(f"{config.seed}-{step}"), list(tasks), set()
    kept, others, known = [], [], None
    for _ in range(rounds):
        asked |= {task["id"] for task in wanted}
        for group in collect(wanted, config, serving, ranks, run, step):
            (kept if keep(group) else others).append(group)
        if len(kept) == len(tasks):
            break
        # Read once, and only where a batch is not full: a data set may be large.
        known = known or find_tasks(config)[0]
        fresh = [task for task in known if task["id"] not in asked]
        wanted = rng.sample(fresh, min(len(fresh), len(tasks) - len(kept)))
    return kept if drop and kept else (kept + others)[: len(tasks)]


def evaluate(
    serving: InferencePool, held_out: Sequence[Task], config: Config, ranks: Ranks, run: Session
) -> dict[str, Any]:
    """Metrics of the held-out tasks' episodes, drawn with the same seeds each time."""
    with run.phase("eval"):
        shard, told = ranks.shard(held_out), {"report": run.report, "check": ranks.check}
        own_groups = run_groups(shard, config, serving, group_size=config.eval.samples, **told)
        groups = ranks.gather(own_groups, "evaluation")
    run.record_evaluation(groups)
    return evaluation_metrics(groups)


def run_groups(
    tasks: Sequence[Task],
    config: Config,
    serving: InferencePool,
    *,
    step: int = EVALUATION,
    group_size: int = 1,
    report: Report,
    check: Callable[[], None] = lambda: None,
    own_sampling: bool = False,
    take: Callable[[Group], None] = lambda group: None,
) -> list[Group]:
    """Run group_size episodes of every task, each in a thread of its own, and group them by task.

    Always returns an episode for each: those that fail or outlast their time carry their cause.
    What may be anything, responses and metadata, only judges see.
    Raises EngineStopped where the engine has, and what ``check``, asked often, raises.
    take: is given each group as it is complete.
    """
    sampling = {"step": step, "own_sampling": own_sampling}
    if step == EVALUATION:
        sampling["own_sampling"] |= config.eval.sampling == "agent"
        sampling["temperature"] = config.eval.temperature
    running = serving.workers.run(config) if serving.workers else Episodes(config, serving)
    for row, index in itertools.product(range(len(tasks)), range(group_size)):
        running.add((row, index), tasks[row], index, **sampling)
    episodes: dict[EpisodeKey, Episode] = {}
    groups: dict[int, Group] = {}
    words = _Progress(serving)
    try:
        while running.start():
            ended = running.end()
            episodes |= ended
            for row in {row for row, _ in ended}:
                of_row = [episodes.get((row, index)) for index in range(group_size)]
                if None not in of_row:
                    groups[row] = Group(tasks[row], tuple(of_row))
                    take(groups[row])
            report(*words.of(episodes, running))
            serving.engine.raise_if_stopped()
            check()
    finally:
        running.close()
    if count := num_left_behind():
        log.warning("%d threads of ended episodes are in calls that Python cannot end", count)
    return [groups[row] for row in range(len(tasks))]


class _Progress:
    """How far episodes are, in a few words."""

    def __init__(self, serving: InferencePool):
        self._serving, self._tokens_before = serving, serving.num_tokens
        self._started = time.monotonic()

    def of(
        self, ended: Mapping[EpisodeKey, Episode], running: "RunningEpisodes"
    ) -> tuple[float, str]:
        """The share that has ended, and the words."""
        failed = sum(episode.failed for episode in ended.values())
        seconds = time.monotonic() - self._started + 1e-9
        speed = (self._serving.num_tokens - self._tokens_before) / seconds
        words = f"{len(ended)} done, {running.num_running} running, {failed} failed"
        return len(ended) / (len(ended) + running.num_left), f"{words}, {speed:.0f} tokens/s"


def kept(episode: Episode, config: Config) -> Episode:
    """Of one that is over, what is for others than its judge."""
    episode = replace(episode, response=None, metadata={})
    if not episode.scored and config.failed_reward is not None:
        return replace(episode, reward=config.failed_reward, success=False)
    return episode


class RunningEpisodes(Protocol):
    """Episodes that are to come and those that run, here or in workers."""

    num_left: int
    num_running: int

    def add(self, key: Hashable, task: Task, index: int, **sampling: Any) -> None:
        """One that is to come. key: what it is called when it ends; sampling: of ``open``."""

    def start(self) -> bool:
        """Start as many as may run at once; False: all have ended."""

    def end(self) -> dict[Any, Episode]:
        """Those that have come to their end since, after a moment's wait."""

    def close(self) -> None:
        """End what still runs."""


class _EpisodeThread(EndableThread):
    """A thread of one episode, with its client, and when it is given up."""

    def __init__(
        self, work: Callable[[], None], task: Task, index: int, model: Model, seconds: float
    ):
        super().__init__(work)
        self.task, self.index, self.model = task, index, model
        self.deadline = time.monotonic() + seconds + GRACE_SECONDS


class Episodes:
    """RunningEpisodes in this process, each in a thread of its own."""

    def __init__(self, config: Config, serving: InferencePool):
        self._config, self._serving = config, serving
        self._todo: deque[tuple[Hashable, Task, int, dict]] = deque()
        self._running: dict[Hashable, _EpisodeThread] = {}
        self._finished: queue.SimpleQueue[tuple[Hashable, Episode] | None] = queue.SimpleQueue()
        self._to_release: list[Model] = []

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_left(self) -> int:
        return len(self._running) + len(self._todo)

    def add(self, key: Hashable, task: Task, index: int, **sampling: Any) -> None:
        self._todo.append((key, task, index, sampling))

    def start(self) -> bool:
        free = min(len(self._todo), self._config.concurrent_episodes - len(self._running))
        begun = [self._todo.popleft() for _ in range(free)]
        # All clients before the first thread: in lockstep, the engine waits for all of them.
        clients = [
            self._serving.open(task_id=task["id"], episode=index, **sampling)
            for _, task, index, sampling in begun
        ]
        for (key, task, index, _), (model, others) in zip(begun, clients, strict=True):
            work = partial(self._run, key, task, index, model, others)
            thread = _EpisodeThread(work, task, index, model, self._config.episode_seconds)
            self._running[key] = thread
            thread.start()
        # Only now that others are in.
        self._release()
        return bool(self._running)

    def end(self) -> dict[Any, Episode]:
        ended = dict(self._given_up())
        with suppress(queue.Empty):
            ended |= [one] if (one := self._finished.get(timeout=0.1)) else []
        # One that was left behind may still come to its end.
        ended = {key: episode for key, episode in ended.items() if key in self._running}
        self._to_release += [self._running.pop(key).model for key in ended]
        return {key: kept(episode, self._config) for key, episode in ended.items()}

    def wake(self) -> None:
        """Let ``end`` return at once: something was added."""
        self._finished.put(None)

    def close(self) -> None:
        self._todo.clear()
        for thread in [*self._running.values()]:
            thread.model.close()
            self._to_release.append(thread.model)
        self._release()

    def _release(self) -> None:
        while self._to_release:
            self._serving.release(self._to_release.pop())

    def _run(
        self, key: Hashable, task: Task, index: int, model: Model, auxiliary_models: dict
    ) -> None:
        episode = run_episode(
            task,
            index,
            workflow=self._config.workflow,
            judge=self._config.judge,
            model=model,
            auxiliary_models=auxiliary_models,
            seconds=self._config.episode_seconds,
            trained_agents=self._config.trained_agents,
            part_weights=self._config.algorithm.part_weights,
        )
        self._finished.put((key, episode))

    def _given_up(self) -> Iterator[tuple[Hashable, Episode]]:
        """Interrupt the threads whose time is over; those that ignore it are left behind."""
        now, seconds = time.monotonic(), self._config.episode_seconds
        for key, thread in self._running.items():
            if now > thread.deadline:
                thread.model.close()
                thread.deadline = now + INTERRUPT_SECONDS
                if not thread.interrupt():
                    yield key, blocked(thread.task, thread.index, thread.model.calls, seconds)


def main() -> None:
    """Show some episodes, or do what the flags say; see ``agentrl.debug.command``."""
    carry_out(*command.read(sys.argv[1:]), run_groups, EVALUATION)


if __name__ == "__main__":
    main()
