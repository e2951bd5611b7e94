import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from agentrl.algorithms.advantages import credit, trainable
from agentrl.learning.packing import deal, pack
from agentrl.records import columns, index, load, open_run, piece, reader
from agentrl.records.recorder import Recorder, RecordsFailed
from agentrl.records.text import UNKNOWN
from agentrl.records.writer import Scores
from agentrl.types import Call, Episode, Group, Sample
from tests.support.families import QWEN3, write
from tests.support.spy import Scripted

ROOT = Path(__file__).parents[2]


def a_call(prompt, completion, **other) -> Call:
    logprobs = [-0.5 * (i + 1) for i in range(len(completion))]
    return Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs, **other)


GROUPS = [
    Group(
        {"id": "first"},
        (
            Episode(
                task={"id": "first"},
                index=0,
                calls=(a_call([1, 2], [3]), a_call([1, 2, 3, 4], [5, 6], finish_reason="length")),
                status="truncated",
                reward=1.0,
                success=True,
                metrics={"habit/no_print": 1.0},
                seconds=1.25,
            ),
            Episode(
                task={"id": "first"},
                index=1,
                calls=(a_call([1, 2], [3]),),
                reward=0.0,
                success=False,
                metrics={"habit/no_print": 0.0},
            ),
        ),
    ),
    Group(
        {"id": "second"},
        (
            Episode(task={"id": "second"}, index=0, status="error", error="KeyError: 'x'"),
            Episode(
                task={"id": "second"},
                index=1,
                calls=(a_call([9], [8, 7], agent="checker", under_grammar=True),),
                status="timeout",
                error="too slow",
            ),
        ),
    ),
]


def record(run: Path, step: int, groups, samples=(), scores=(), held_out=False) -> Path:
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text('{"experiment": "mine"}')
    recorder = Recorder(run / "rollouts")
    recorder.add(step, groups, samples, scores, held_out=held_out)
    recorder.close()
    return run


def random_group(rng: np.random.Generator, name: str, size: int) -> Group:
    """Conversations that grow, fork, repeat each other, and sample the same token twice."""
    system = rng.integers(0, 900, 30).tolist()
    episodes = []
    for number in range(size):
        context, calls = [*system, number % 2], []
        for _ in range(rng.integers(1, 6)):
            if rng.random() < 0.2:
                context = context[: rng.integers(1, len(context))]
            # Few different tokens: many calls sample the same ones.
            said = rng.integers(0, 2, rng.integers(1, 9)).tolist()
            logprobs = (-rng.exponential(size=len(said))).tolist()
            agent = str(rng.choice(["solver", "checker"]))
            call = Call(prompt_ids=context, completion_ids=said, logprobs=logprobs, agent=agent)
            calls.append(call)
            context = call.ids + rng.integers(0, 900, 3).tolist()
        calls += calls[-1:] * int(rng.integers(0, 2))
        calls = [Call(**vars(call)) for call in calls]
        task = {"id": name}
        reward = float(rng.random())
        episodes.append(Episode(task=task, index=number, calls=tuple(calls), reward=reward))
    return Group({"id": name}, tuple(episodes))


def random_scores(rng: np.random.Generator, samples) -> list[Scores]:
    """In the order of no batch, in several micro-batches."""
    order = rng.permutation(len(samples))
    scores = []
    for part in np.array_split(order, 3):
        drawn = [p for s in part for p in samples[s].call.logprobs]
        trainer = np.array(drawn, np.float32) + rng.normal(0, 1e-3, len(drawn))
        entropies = rng.exponential(size=len(drawn))
        weights = np.minimum(np.exp(trainer - np.array(drawn)), 1.0005)
        scores.append(Scores(part, np.stack([trainer, entropies, weights]).astype(np.float32)))
    return scores


def bits(values) -> list[int]:
    return np.asarray(values, np.float32).view(np.int32).tolist()


def test_floats_come_back_to_the_bit():
    rng = np.random.default_rng(0)
    any_bits = rng.integers(-(2**31), 2**31, 2000).astype(np.int32)
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38], np.float32)
    values = np.concatenate([any_bits.view(np.float32), special])
    prediction = rng.integers(-(2**31), 2**31, len(values)).astype(np.int32)
    first = columns.first_of_each(rng.integers(0, 300, len(values)))
    data = columns.encode(values, prediction, first)
    assert len(data) == 4 * len(values)
    assert bits(columns.decode(data, prediction, first)) == bits(values)
    # Another prediction reads something else: it is part of the format.
    assert bits(columns.decode(data, prediction + 1, first)) != bits(values)


def test_predicted_weights_are_those_of_the_loss_nearly():
    rng = np.random.default_rng(0)
    sampler = -rng.exponential(size=5000).astype(np.float32)
    trainer = sampler + rng.normal(0, 0.1, 5000).astype(np.float32)
    weights = np.minimum(np.exp(trainer - sampler), np.float32(1.1))
    off = columns.places(weights) - columns.predicted_weights(trainer, sampler, 1.1)
    assert np.abs(off).max() <= 2
    assert columns.predicted_weights(trainer, sampler, 2.0).max() > columns.places(weights).max()


def test_every_value_of_every_token_comes_back(tmp_path):
    rng = np.random.default_rng(1)
    groups = [random_group(rng, f"task {i}", size=4) for i in range(6)]
    trained = trainable(credit(groups), ("solver",))
    scores = random_scores(rng, trained)
    run = open_run(record(tmp_path, 3, groups, trained, scores))
    expected = {}
    for part in scores:
        ends = np.cumsum([len(trained[s].call.completion_ids) for s in part.samples])
        for s, values in zip(part.samples, np.split(part.values, ends[:-1], axis=1), strict=True):
            expected[id(trained[s].call)] = trained[s].advantage, values
    assert len(expected) == len(trained) > 20
    num_shared = 0
    for group in groups:
        for episode in group.episodes:
            read = run.read(3, group.task["id"], episode.index)
            prefixes = {tuple(c.ids[:i]) for c in episode.calls for i in range(1, len(c.ids) + 1)}
            assert len(read.ids) == len(prefixes) == read.row.num_tokens
            num_shared += sum(len(c.completion_ids) for c in episode.calls) - len(prefixes)
            for mine, theirs in zip(episode.calls, read.calls, strict=True):
                check_call(mine, theirs, read, expected.get(id(mine)))
            check_shown(read)
    terms = sum(len(sample.call.completion_ids) for sample in trained)
    assert sum(row.num_trained for row in run.episodes(limit=1000)) == terms


def check_call(mine: Call, theirs, read, expected) -> None:
    assert theirs.prompt_ids.tolist() == mine.prompt_ids
    assert theirs.completion_ids.tolist() == mine.completion_ids
    assert read.ids[theirs.path].tolist() == mine.ids
    assert read.parent[theirs.path].tolist() == [-1, *theirs.path[:-1].tolist()]
    assert read.depth[theirs.path].tolist() == list(range(len(mine.ids)))
    assert theirs.start == len(mine.prompt_ids)
    assert theirs.leaf == theirs.path[-1]
    assert theirs.agent == mine.agent
    assert bits(theirs.sampler_logprobs) == bits(mine.logprobs)
    measured = (theirs.trainer_logprobs, theirs.entropies, theirs.weights)
    assert theirs.in_loss == (expected is not None)
    if expected is None:
        assert theirs.advantage is None
        assert np.isnan(measured).all()
    else:
        assert theirs.advantage == expected[0]
        assert [bits(m) for m in measured] == [bits(e) for e in expected[1]]


def check_shown(read) -> None:
    """A token shows the first of its calls that was in the loss, else the first."""
    for position in range(len(read.ids)):
        having = [c for c in read.calls if position in c.path[c.start :]]
        in_loss = [c for c in having if c.in_loss]
        assert read.in_loss[position] == bool(in_loss)
        if not having:
            assert np.isnan(read.sampler_logprob[position])
            continue
        call = (in_loss or having)[0]
        t = call.path.tolist().index(position) - call.start
        assert bits([read.sampler_logprob[position]]) == bits([call.sampler_logprobs[t]])
        if in_loss:
            assert read.advantage[position] == np.float32(call.advantage)
            assert read.trainer_logprob[position] == call.trainer_logprobs[t]
            assert (read.entropy[position], read.weight[position]) == (
                call.entropies[t],
                call.weights[t],
            )


def scores_of_ranks(trained: list[Sample], size: int) -> list[Scores]:
    """As every rank makes of its micro-batches; a token's log-probability is told by its id and
    its place."""
    micro_batches = pack(trained, budget=64)
    assert len(micro_batches) > 5
    scores = []
    for rank in range(size):
        for micro in deal(micro_batches, rank, size):
            at = micro.trained[micro.term]
            logprobs = -(micro.ids[at] + micro.depth[at] / 1000)
            scores.append(Scores.of(micro.samples, logprobs, 2 * logprobs, 3 * logprobs))
    return scores


@pytest.mark.parametrize("size", [1, 3])
def test_what_the_ranks_measured_finds_its_token(tmp_path, size):
    rng = np.random.default_rng(2)
    groups = [random_group(rng, f"task {i}", size=3) for i in range(4)]
    trained = credit(groups)
    scores = scores_of_ranks(trained, size)
    right = record(tmp_path / "right", 1, groups, trained, scores)
    assert num_misplaced(right) == 0
    # The wrong order of calls is not one that nobody would see.
    wrong = [Scores(part.samples[::-1], part.values) for part in scores]
    assert num_misplaced(record(tmp_path / "wrong", 1, groups, trained, wrong)) > 50


def num_misplaced(run: Path) -> int:
    (step,) = load(run)
    wrong = 0
    for episode in step.episodes:
        for call in episode.calls:
            depth = np.arange(call.start, len(call.path))
            logprobs = -(call.completion_ids + depth / 1000).astype(np.float32)
            measured = (call.trainer_logprobs, call.entropies / 2, call.weights / 3)
            wrong += sum(int((abs(m - logprobs) > 1e-3).sum()) for m in measured)
    return wrong


def test_what_the_index_says(tmp_path):
    trained = credit(GROUPS)
    zeros = np.zeros((3, sum(len(s.call.completion_ids) for s in trained)), np.float32)
    record(tmp_path, 7, GROUPS, trained, [Scores(np.arange(len(trained)), zeros)])
    run = open_run(record(tmp_path, 7, GROUPS[:1], held_out=True))
    rows = run.episodes()
    assert [(r.task_id, r.episode, r.held_out) for r in rows] == [
        *[("first", 0, False), ("first", 1, False), ("second", 0, False), ("second", 1, False)],
        *[("first", 0, True), ("first", 1, True)],
    ]
    for row, episode in zip(rows, [e for g in GROUPS for e in g.episodes], strict=False):
        for name in ("status", "error", "reward", "success", "metrics", "seconds"):
            assert getattr(row, name) == getattr(episode, name)
        assert row.num_calls == len(episode.calls)
    assert [row.num_tokens for row in rows] == [6, 3, 0, 3, 6, 3]
    assert [row.num_trained for row in rows] == [3, 1, 0, 0, 0, 0]
    assert run.config == {"experiment": "mine"}
    assert run.steps() == [7]

    def found(**wanted):
        return [rows.index(row) for row in run.episodes(**wanted)]

    assert found(task_id="second") == found(status="error") + found(status="timeout") == [2, 3]
    assert found(min_reward=0.5) == found(habit="habit/no_print") == [0, 4]
    assert found(max_reward=0.5, held_out=False) == [1]
    assert found(held_out=True) == [4, 5]
    assert found(limit=2, offset=1) == [1, 2]
    assert found(step=8) == found(habit="habit/unknown") == []
    assert run.read(7, "first", 0).row == rows[0]
    assert run.read(7, "first", 0, place=2).row == rows[4]
    last = run.read(7, "second", 1).calls[0]
    assert (last.agent, last.under_grammar, last.in_loss) == ("checker", True, False)
    assert run.read(7, "first", 0).calls[1].finish_reason == "length"
    with pytest.raises(ValueError, match="has no episode 2 of first in step 7"):
        run.read(7, "first", 2)


def test_each_agents_reward_comes_back(tmp_path):
    calls = (a_call([1], [2], agent="solver"), a_call([1, 2], [3], agent="checker"))
    rewards = [{"solver": 1.0, "checker": 0.0}, {"solver": 0.5}]
    episodes = tuple(
        Episode(task={"id": 3}, index=i, calls=calls, reward=reward)
        for i, reward in enumerate(rewards)
    )
    run = open_run(record(tmp_path, 1, [Group({"id": 3}, episodes)]))
    assert [row.reward for row in run.episodes(task_id="3")] == rewards
    assert [row.mean_reward for row in run.episodes(min_reward=0.5)] == [0.5, 0.5]


def test_what_calls_and_groups_share_is_stored_once(tmp_path):
    rng = np.random.default_rng(0)
    context, calls = [], []
    for _ in range(40):
        context = context + rng.integers(0, 1000, 50).tolist()
        calls.append(a_call(context, rng.integers(0, 1000, 50).tolist()))
        context = calls[-1].ids
    episode = Episode(task={"id": "t"}, index=0, calls=tuple(calls), reward=1.0)
    groups = [Group({"id": "t"}, (episode,)), Group({"id": "u"}, (episode, episode))]
    run = open_run(record(tmp_path, 0, groups))
    assert [row.num_tokens for row in run.episodes()] == [40 * 100] * 3
    assert len(run.read(0, "u", 1).ids) == 40 * 100
    # 4000 ids of ten bits, 2000 log-probabilities that repeat; not 180,000 ids of each episode.
    assert index.step_path(tmp_path / "rollouts", 0).stat().st_size < 15_000


def test_what_was_recorded_of_a_step_is_replaced(tmp_path):
    record(tmp_path, 2, GROUPS)
    record(tmp_path, 2, GROUPS[:1], held_out=True)
    record(tmp_path, 2, GROUPS[1:])
    run = open_run(tmp_path)
    assert [row.task_id for row in run.episodes(held_out=False)] == ["second", "second"]
    assert [row.task_id for row in run.episodes(held_out=True)] == ["first", "first"]
    for row in run.episodes():
        assert run.read(2, row.task_id, row.episode, row.place).row == row


def test_nothing_that_was_added_is_lost_at_the_end(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    recorder = Recorder(tmp_path / "rollouts")
    for step in range(12):
        recorder.add(step, GROUPS)
    recorder.close()
    assert [step.step for step in load(tmp_path)] == list(range(12))
    assert [len(list(step.episodes)) for step in load(tmp_path)] == [4] * 12


def test_a_failure_to_write_is_told_in_a_sentence(tmp_path):
    (tmp_path / "rollouts").write_text("in the way")
    recorder = Recorder(tmp_path / "rollouts")
    recorder.add(1, GROUPS)
    for told in (recorder.flush, lambda: recorder.add(2, GROUPS), recorder.close):
        with pytest.raises(RecordsFailed, match="records cannot be written to .*File exists"):
            told()


def test_who_reads_for_long_delays_what_is_written_and_no_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(index, "WAIT_SECONDS", 0.01)
    record(tmp_path, 1, GROUPS)
    with closing(sqlite3.connect(index.index_path(tmp_path / "rollouts"))) as other:
        rows = other.execute("SELECT * FROM episodes")
        assert rows.fetchone()[0] == 1
        recorder = Recorder(tmp_path / "rollouts")
        recorder.add(2, GROUPS)
        deadline = time.monotonic() + 60
        while len(caplog.messages) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "records wait to be written" in caplog.messages[2]
        rows.close()
    recorder.close()
    assert open_run(tmp_path).steps() == [1, 2]


def test_rows_are_made_when_the_index_is_free(tmp_path, monkeypatch):
    record(tmp_path, 1, GROUPS)
    made = reader.row_of

    def row_of(*stored):
        with closing(sqlite3.connect(index.index_path(tmp_path / "rollouts"), 0.0)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
        return made(*stored)

    monkeypatch.setattr(reader, "row_of", row_of)
    assert len(open_run(tmp_path).episodes()) == 4


def test_a_metric_may_be_new_while_rows_are_read(tmp_path, monkeypatch):
    record(tmp_path, 1, GROUPS)
    run, reading = open_run(tmp_path), index.reading
    task = {"id": "t"}
    new = Episode(task=task, index=0, metrics={"new": 1.0})

    class Slow:
        def __init__(self, connection):
            self.connection = connection

        def execute(self, question, *values):
            if "FROM episodes" in question:
                record(tmp_path, 2, [Group(task, (new,))])
            return self.connection.execute(question, *values)

    @contextmanager
    def slowly(rollouts):
        with reading(rollouts) as connection:
            yield Slow(connection)

    monkeypatch.setattr(index, "reading", slowly)
    assert run.episodes()[-1].metrics == {"new": 1.0}


def test_a_rank_that_does_not_write_writes_nothing(tmp_path):
    recorder = Recorder(tmp_path / "rollouts", writes=False)
    recorder.add(1, GROUPS)
    recorder.flush()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_later_steps_are_cut_off(tmp_path):
    for step in (1, 2, 3):
        record(tmp_path, step, GROUPS)
    index.cut_back(tmp_path / "rollouts", 1)
    run = open_run(tmp_path)
    assert run.steps() == [1]
    assert {row.step for row in run.episodes()} == {1}
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [
        "records.sqlite",
        "step-00001.bin",
    ]
    record(tmp_path, 2, GROUPS[:1])
    assert run.steps() == [1, 2]
    index.cut_back(tmp_path / "rollouts", -1)
    assert (run.steps(), run.episodes()) == ([], [])
    index.cut_back(tmp_path / "nothing", 0)


def test_a_run_that_has_recorded_nothing_yet(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = open_run(tmp_path)
    assert (run.steps(), run.episodes(), run.metrics()) == ([], [], [])
    record(tmp_path, 1, GROUPS)
    assert run.steps() == [1]


def test_metrics_are_read_as_they_grow(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run, path = open_run(tmp_path), tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert run.metrics() == [{"step": 0}, {"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert run.metrics() == [{"step": 0}, {"step": 1}, {"step": 2}]
    # Resumed: another file, cut back.
    (tmp_path / "beside").write_text('{"step": 0}\n{"step": 9}\n')
    (tmp_path / "beside").replace(path)
    assert run.metrics() == [{"step": 0}, {"step": 9}]
    whole = path.read_text()
    for line in ("{]", "[" * 100_000, "[1]", "5", "null", "9" * 5000):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(ValueError, match="line 3, is no JSON"):
            run.metrics()


WRITES_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tests.records.test_records import GROUPS, record, Recorder
recorder = Recorder(Path(sys.argv[1]) / "rollouts")
for step in itertools.count(1):
    recorder.add(step, GROUPS)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_another_process_writes_and_is_killed(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = open_run(tmp_path)
    command = [sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        seen = []
        deadline = time.monotonic() + 60
        while len(seen) < 10 and time.monotonic() < deadline:
            seen = run.steps()
            if seen:
                assert run.read(seen[-1], "first", 0).ids.tolist() == [1, 2, 3, 4, 5, 6]
        writer.send_signal(signal.SIGKILL)
    assert len(seen) >= 10
    # All that the index has announced is whole, and a run that goes on goes on.
    assert run.steps() == list(range(1, len(run.steps()) + 1))
    assert all(len(list(step.episodes)) == 4 for step in load(tmp_path))
    index.cut_back(tmp_path / "rollouts", 5)
    record(tmp_path, 6, GROUPS)
    assert run.steps() == list(range(1, 7))
    assert run.read(6, "second", 1).ids.tolist() == [9, 8, 7]


def test_a_kill_within_a_commit_is_taken_back(tmp_path):
    record(tmp_path, 1, GROUPS)
    rollouts = tmp_path / "rollouts"
    killed = tmp_path / "killed"
    # What a kill leaves: the file as it is being changed, and the journal beside it.
    with closing(index.create(rollouts)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        rows = [(9, place, 0, "x" * 500, 0, 0, 0) for place in range(2000)]
        connection.executemany("INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        assert (rollouts / "records.sqlite-journal").exists()
        shutil.copytree(tmp_path, killed)
        connection.rollback()
    run = open_run(killed)
    assert run.steps() == [1]
    assert len(run.episodes()) == 4
    assert not (killed / "rollouts/records.sqlite-journal").exists()


def test_what_is_broken_or_anothers_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a run"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        next(load(tmp_path))
    for config in ("[1]", "{", "[" * 100_000, '{"config": null}', '{"config": [1]}'):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match="is not the folder of a run"):
            open_run(tmp_path)

    record(tmp_path, 1, GROUPS)
    run, rollouts = open_run(tmp_path), tmp_path / "rollouts"
    data = rollouts / "step-00001.bin"
    whole = data.read_bytes()
    for broken in (whole[:-9], whole[:40] + b"\x00\x01\x02" + whole[43:], b"", b"x" * len(whole)):
        data.write_bytes(broken)
        with pytest.raises(ValueError, match="step 1, task first, in .* cannot be read"):
            run.read(1, "first", 0)
    data.unlink()
    with pytest.raises(ValueError, match="cannot be read: .*No such file"):
        run.read(1, "first", 0)
    # A half-written end does no harm.
    data.write_bytes(whole + whole[: len(whole) // 2])
    assert run.read(1, "first", 0).ids.tolist() == [1, 2, 3, 4, 5, 6]

    with closing(sqlite3.connect(rollouts / "records.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(ValueError, match="of version 2, and this is a reader of version 1"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="of version 2"):
        index.cut_back(rollouts, 0)
    for contents in (b"", b"SQLite format 3\0" + b"\xff" * 5000, os.urandom(5000)):
        (rollouts / "records.sqlite").write_bytes(contents)
        with pytest.raises(ValueError, match="cannot be read: "):
            open_run(tmp_path)
        with pytest.raises(ValueError, match="cannot be cut back|is no index of records"):
            index.cut_back(rollouts, 0)
    (rollouts / "records.sqlite").unlink()
    (rollouts / "step-00001.npz").touch()
    with pytest.raises(ValueError, match="an earlier version's"):
        open_run(tmp_path)


def test_text_that_is_none_is_recorded_as_far_as_it_is(tmp_path):
    half = "\ud83d"
    episode = Episode(task={}, index=0, status="error", error=f"{half}!", metrics={half: 1.0})
    run = open_run(record(tmp_path, 1, [Group({"id": half}, (episode,))]))
    (row,) = run.episodes()
    assert (row.error, row.task_id, row.metrics) == ("?!", "?", {"?": 1.0})


def test_why_a_call_forks_is_recorded(tmp_path):
    talk, ask = Scripted(QWEN3), {"role": "user", "content": "2+3?"}
    talk.says(write(QWEN3, "let me see", "five", []))
    reply = talk.ask([ask])
    talk.says(write(QWEN3, "easy", "six", []))
    talk.ask([ask, reply, {"role": "user", "content": "And now?"}])
    task = {"id": "x"}
    # Another episode's calls are in the same tree, and no fork of this one's.
    episodes = [
        Episode(task=task, index=i, calls=calls)
        for i, calls in enumerate([talk.calls[1:], talk.calls])
    ]
    talk.tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = open_run(record(tmp_path, 1, [Group(task, tuple(episodes))]))
    why = [[call.why_forked for call in run.read(1, "x", i).calls] for i in range(2)]
    stripped = "stripped thinking: the chat template leaves out the reasoning of message 2"
    assert why == [[None], [None, stripped]]


def test_a_piece_that_is_no_piece_is_a_sentence(monkeypatch):
    call = a_call([1, 2], [3])
    episodes = [Episode(task={}, index=0, calls=(call,))]
    ids, parent, path = np.array([1, 2, 3]), np.array([-1, 0, 1]), np.array([0, 1, 2])
    data = piece.pack(episodes, {}, ids, parent, [path], [None])
    read = piece.unpack(data)
    assert read.path(read.calls[0]).tolist() == [0, 1, 2]
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(len(data))] = rng.integers(256)
        # What is no number of a token's is not noticed: the sum of all bytes notices that.
        with suppress(ValueError):
            assert len(piece.unpack(bytes(broken)).calls) <= 1
    monkeypatch.setattr(piece, "LARGEST", 1000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        piece.decompress(piece.compress(b"\0" * 1001))


def test_a_piece_takes_little_more_than_its_tree():
    size, num_calls = 50_000, 1000
    call = a_call([1], [2])
    episodes = [Episode(task={}, index=i, calls=(call,)) for i in range(num_calls)]
    path = np.arange(size)
    data = piece.pack(episodes, {}, path, path - 1, [path] * num_calls, [None] * num_calls)
    # As above, and each says that all of its path was sampled.
    at = data.index(b"\n") + 1 + columns.WIDTH * (num_calls + size + num_calls)
    absurd = columns.to_bytes(np.full(num_calls, size, np.int32))
    absurd = data[:at] + absurd + data[at + len(absurd) :]
    tracemalloc.start()
    try:
        read = piece.unpack(data)
        assert len(read.calls) == num_calls
        assert read.path(read.calls[7]).tolist() == path.tolist()
        with pytest.raises(ValueError, match="it ends too early"):
            piece.unpack(absurd)
        # All paths would be 200 MB.
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_text_of_tokens(tmp_path, tokenizer):
    record(tmp_path, 1, GROUPS)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    text = "Ann has 3 apples.\n  Tschüß, 🙂 and 日本<|im_end|>"
    ids = tokenizer.encode(text)
    run = open_run(tmp_path)
    texts = run.decode(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text
    assert "🙂" in texts
    # Each character stands where its tokens begin; one that a completion cuts off spoils no other.
    several = ["🙂", "🙃", "🙂"]
    ids = tokenizer.encode("".join(several))
    assert len(ids) > len(several)
    assert [text for text in run.decode(ids) if text] == several
    cut = run.decode(ids[:-1])
    assert len(cut) == len(ids) - 1
    assert [text for text in cut if text and UNKNOWN not in text] == several[:2]
    (space,) = tokenizer.encode(" ")
    assert run.decode([space]) == [" "]


def test_text_is_found(tmp_path, tokenizer):
    def said(*texts):
        ids = [tokenizer.encode(text) for text in texts]
        return a_call(ids[0], ids[1])

    calls = [said("Who sells?", "Ann sells."), said("Who BUYS?", "Bob buys.")]
    group = Group(
        {"id": "t"},
        tuple(Episode(task={"id": "t"}, index=i, calls=(c,)) for i, c in enumerate(calls)),
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = open_run(record(tmp_path, 1, [group] * 2))

    def found(text, **options):
        return [(row.place, row.episode) for row in run.episodes(text=text, **options)]

    assert found("ann") == [(0, 0), (1, 0)]
    assert found("who buys?bob") == [(0, 1), (1, 1)]
    assert found("who") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found("who", limit=2, offset=1) == [(0, 1), (1, 0)]
    assert found("nobody") == []

    # Whoever looks for no time at all is told where to go on.
    seen, after, answers = [], None, 0
    while answers == 0 or after is not None:
        page = run.page(text="sells", seconds=0.0, after=after)
        seen, after, answers = seen + [row.where for row in page.rows], page.after, answers + 1
    assert (seen, answers) == ([(1, 0, 0), (1, 1, 0)], 4)
    assert run.page(text="buys", limit=2).after is None
    assert run.page(text="buys", limit=1).after == (1, 0, 1)
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        open_run(tmp_path).decode([1])
    assert json.loads((tmp_path / "config.json").read_text()) == {"experiment": "mine"}


def test_a_search_passes_over_what_is_broken(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids = tokenizer.encode("Ann sells.")
    task = {"id": "t"}
    episodes = tuple(Episode(task=task, index=i, calls=(a_call([1], ids),)) for i in range(2))
    for step in (1, 2, 3):
        record(tmp_path, step, [Group(task, episodes)])
    index.step_path(tmp_path / "rollouts", 2).write_bytes(b"x" * 9)
    run = open_run(tmp_path)
    found = run.page(text="sells")
    assert [row.where for row in found.rows] == [(1, 0, 0), (1, 0, 1), (3, 0, 0), (3, 0, 1)]
    (sentence,) = found.unread
    assert sentence.startswith(f"step 2, task t, in {tmp_path} cannot be read: ")
    assert run.page(text="sells", step=3).unread == []
    with pytest.raises(ValueError, match="step 2, task t, in .* cannot be read"):
        run.episodes(text="sells")
    # Without a tokenizer no text can be found at all: that is no broken piece.
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        open_run(tmp_path).page(text="sells")


def test_the_page_names_every_column_of_the_index(tmp_path):
    with closing(index.create(tmp_path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {name for (name,) in tables.fetchall()}
        for table in set(names):
            names |= {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    page = (ROOT / "docs/records.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert f"Version {index.VERSION}." in page
