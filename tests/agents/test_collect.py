"""collect() with a scripted client: what matters here are threads, time and counting."""

import asyncio
import threading
import time

import pytest

import rollout
from agentrl.agents.contract import InferencePool, Model
from agentrl.config import Config, ModelConfig
from agentrl.debug.transcript import print_scores, print_transcript
from agentrl.runs import preflight
from agentrl.runs.metrics import episode_metrics
from agentrl.runs.progress import Display
from agentrl.types import Call, Episode, TooManyFailed
from tests.support.scripted_model import ScriptedModel


class ScriptedServing:
    workers = None

    def __init__(self):
        self.num_tokens, self.clients, self.released, self.engine = 0, [], [], self

    def raise_if_stopped(self):
        pass

    def open(self, *, step, task_id, episode, own_sampling):
        self.clients.append(ScriptedModel())
        return self.clients[-1], {}

    def release(self, model):
        self.released.append(model)

    def decode(self, ids):
        return str(ids)


def tasks(count: int) -> list[dict]:
    return [{"id": str(i), "number": i} for i in range(count)]


def collect(workflow, num_tasks, group_size, **overrides):
    config = Config(
        workflow=workflow, tasks=lambda data: ([], []), model=ModelConfig(path="m"), **overrides
    )
    serving, reports = ScriptedServing(), []
    groups = rollout.run_groups(
        tasks(num_tasks),
        config,
        serving,
        step=0,
        group_size=group_size,
        report=lambda share, note: reports.append((share, note)),
    )
    assert all(model.closed for model in serving.clients)
    assert sorted(map(id, serving.released)) == sorted(map(id, serving.clients))
    assert reports[-1][0] == 1.0
    return groups


def test_groups_keep_tasks_and_episodes_in_order():
    async def solve(task, model):
        await asyncio.sleep(0.001 * (10 - task["number"]))
        return float(task["number"])

    groups = collect(solve, 10, 3)
    assert [g.task["number"] for g in groups] == list(range(10))
    assert [[e.reward for e in g.episodes] for g in groups] == [[float(i)] * 3 for i in range(10)]
    assert [e.index for e in groups[4].episodes] == [0, 1, 2]


def test_blocking_workflows_run_side_by_side():
    async def solve(task, model):
        time.sleep(0.2)
        return 1.0

    started = time.monotonic()
    collect(solve, 20, 2)
    assert time.monotonic() - started < 4


def test_no_more_than_allowed_at_once():
    running, most, lock = set(), [0], threading.Lock()

    async def solve(task, model):
        with lock:
            running.add(threading.get_ident())
            most[0] = max(most[0], len(running))
        await asyncio.sleep(0.01)
        with lock:
            running.discard(threading.get_ident())
        return 1.0

    collect(solve, 15, 2, concurrent_episodes=5)
    assert most[0] == 5


def test_failures_are_counted_by_cause_and_left_out(monkeypatch):
    monkeypatch.setattr(rollout, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(rollout, "INTERRUPT_SECONDS", 0.1)
    release = threading.Event()

    async def solve(task, model):
        if task["number"] == 1:
            raise RuntimeError("broken")
        if task["number"] == 2:
            await asyncio.sleep(60)
        if task["number"] == 3:
            release.wait(60)
        return 1.0

    groups = collect(solve, 5, 2, episode_seconds=0.3)
    release.set()
    metrics = episode_metrics(groups)
    assert {
        k: v for k, v in metrics.items() if k.startswith("episodes/") and k != "episodes/calls"
    } == {
        "episodes/ok": 4,
        "episodes/truncated": 0,
        "episodes/error": 2,
        "episodes/timeout": 4,
    }
    assert metrics["reward/mean"] == 1.0
    assert [groups[i].episodes[0].error for i in (1, 2, 3)] == [
        "RuntimeError: broken",
        "the episode ran longer than 0.3 s",
        "the workflow blocked its thread for over 0.3 s",
    ]


def test_agents_that_are_not_trained_need_no_reward():
    async def solve(task, model):
        return {"solver": 1.0}

    # The scripted client has calls of one agent, named "agent".
    (trained,), (recorded,) = (collect(solve, 1, 2, trained_agents=a) for a in (None, ("solver",)))
    assert [episode.status for episode in trained.episodes] == ["error", "error"]
    assert [episode.reward for episode in recorded.episodes] == [{"solver": 1.0}] * 2


async def fails_by_number(task, model):
    if task["number"] < 2:
        raise RuntimeError("broken")
    if task["number"] == 2:
        raise KeyError("missing")
    return 1.0


def test_a_run_stops_above_the_share_of_failures():
    groups = collect(fails_by_number, 4, 2)
    preflight.check_failures(groups, 0.75)
    preflight.check_failures(groups, 1.0)
    with pytest.raises(TooManyFailed) as stopped:
        preflight.check_failures(groups, 0.7)
    assert str(stopped.value) == (
        "6 of 8 episodes failed, which is more than --max-failed 0.7. "
        "The commonest cause, 4 times: RuntimeError: broken"
    )


def test_failures_may_be_punished():
    groups = collect(fails_by_number, 4, 2, failed_reward=-1.0)
    episodes = [episode for group in groups for episode in group.scored]
    assert [(e.status, e.reward, e.success) for e in episodes] == [
        *[("error", -1.0, False)] * 6,
        *[("ok", 1.0, True)] * 2,
    ]
    with pytest.raises(TooManyFailed, match="6 of 8 episodes failed"):
        preflight.check_failures(groups, 0.7)


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(None, None, 3), (1, None, 3), (2, None, 6), (2, 4, 4), (1, 9, 3), (None, 9, 9)],
)
def test_batches(epochs, steps, expected):
    from agentrl.tasks.batches import task_batches

    async def solve(task, model):
        return 1.0

    config = Config(
        workflow=solve,
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m"),
        tasks_per_step=3,
        epochs=epochs,
        steps=steps,
    )
    batches = task_batches(tasks(10), config)
    assert [len(batch) for batch in batches] == [3] * expected
    first_epoch = [task["number"] for batch in batches[:3] for task in batch]
    assert len(set(first_epoch)) == 9
    assert batches == task_batches(tasks(10), config)
    with pytest.raises(ValueError, match="there are only 2 train tasks"):
        task_batches(tasks(2), config)


def test_a_transcript_says_whose_turn_it_is_and_shows_each_conversation_once(capsys):
    def call(agent: str, *said: str) -> Call:
        roles = ("user", "assistant", "user")
        messages = tuple({"role": r, "content": text} for r, text in zip(roles, said))
        reply = {"role": "assistant", "content": f"to {said[-1]}"}
        ids = {"prompt_ids": [1], "completion_ids": [2], "logprobs": [0.0]}
        return Call(**ids, agent=agent, messages=messages, reply=reply)

    calls = (
        call("solver", "one"),
        call("checker", "other"),
        call("solver", "one", "to one", "two"),
        call("checker", "afresh"),
    )
    episode = Episode(task={"id": "t"}, index=0, calls=calls, reward={"solver": 1.0})
    console = Display().console
    print_transcript(console, episode, repr)
    print_scores(console, episode)
    said = capsys.readouterr().out.splitlines()
    assert said[1:13] == [
        *("[solver]", "user: one", "assistant: to one"),
        *("[checker]", "user: other", "assistant: to other"),
        *("[solver]", "user: two", "assistant: to two"),
        *("[checker]", "user: afresh", "assistant: to afresh"),
    ]
    assert " ".join(said[14].split()) == "reward {'solver': 1.0}"


def test_what_collect_needs_of_serving(serving):
    """The scripted one that these tests use, and the real one."""
    model, _ = serving.open(step=0, task_id="t", episode=0)
    model.close()
    for pool, client in ((ScriptedServing(), ScriptedModel()), (serving, model)):
        assert isinstance(pool, InferencePool)
        assert isinstance(client, Model)
    # The control: a client is no pool.
    assert not isinstance(model, InferencePool)
