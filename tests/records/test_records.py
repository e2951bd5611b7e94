import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentrl.algorithms.advantages import credit, trainable
from agentrl.learning.packing import pack
from agentrl.records import open_run, schema
from agentrl.records.files import cut_back
from agentrl.records.recorder import Recorder, RecordsFailed
from agentrl.records.scores import Scores, rounded
from agentrl.records.text import UNKNOWN
from agentrl.types import Call, Episode, Group, Sample
from tests.support.families import QWEN3, write
from tests.support.made_runs import long_group, long_scores
from tests.support.recorded import GROUPS, a_call, record
from tests.support.spy import Scripted

ROOT = Path(__file__).parents[2]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "records").iterdir())


def tokens_of(run: Path, step: int) -> Path:
    return run / f"records/step-{step:05d}.tokens.parquet"


def episodes_of(run: Path, step: int) -> Path:
    return run / f"records/step-{step:05d}.episodes.parquet"


def rewritten(path: Path, change) -> None:
    """As another program would write it: without our encodings, with our metadata or another."""
    table, about = pq.read_table(path), pq.read_metadata(path).metadata
    table, about = change(table, about)
    pq.write_table(table.replace_schema_metadata(about), path)


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
        drawn = np.array([p for s in part for p in samples[s].call.logprobs], np.float32)
        trainer = drawn + rng.normal(0, 1e-3, len(drawn)).astype(np.float32)
        entropies = rng.exponential(size=len(drawn))
        weights = np.minimum(np.exp(trainer - drawn), np.float32(1.0005))
        clipped = rng.integers(0, 2, len(drawn))
        values = np.stack([trainer, entropies, weights, clipped]).astype(np.float32)
        scores.append(Scores(part, values, ("importance", "clipped")))
    return scores


def bits(values) -> list[int]:
    return np.asarray(values, np.float32).view(np.int32).tolist()


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
    terms = sum(len(sample.call.completion_ids) for sample in trained)
    assert sum(row.num_trained for row in run.episodes(limit=1000)) == terms


def check_call(mine: Call, theirs, read, expected) -> None:
    assert theirs.prompt_ids.tolist() == mine.prompt_ids
    assert theirs.completion_ids.tolist() == mine.completion_ids
    assert read.ids[theirs.path].tolist() == mine.ids
    assert read.parent[theirs.path].tolist() == [-1, *theirs.path[:-1].tolist()]
    assert theirs.start == len(mine.prompt_ids)
    assert theirs.leaf == theirs.path[-1]
    assert theirs.agent == mine.agent
    assert bits(theirs.sampler_logprobs) == bits(mine.logprobs)
    measured = (theirs.trainer_logprobs, theirs.entropies, theirs.weights)
    assert theirs.in_loss == (expected is not None)
    if expected is None:
        assert (theirs.advantage, theirs.measures) == (None, {})
        assert np.isnan([*measured, theirs.advantages]).all()
    else:
        advantage, (trainer, entropies, importance, clipped) = expected
        assert theirs.advantage == advantage
        assert theirs.advantages.tolist() == [np.float32(advantage)] * len(mine.completion_ids)
        stored = (*measured, theirs.measures["clipped"])
        assert [bits(one) for one in stored] == [
            bits(one) for one in (trainer, rounded(entropies), importance, clipped)
        ]


def scores_of_ranks(trained: list[Sample], size: int) -> list[Scores]:
    """As every rank makes of its micro-batches; a token's log-probability is told by its id and
    its place."""
    micro_batches = pack(trained, budget=64)
    assert len(micro_batches) > 5
    scores = []
    for rank in range(size):
        for micro in micro_batches.deal(rank, size):
            at = micro.trained[micro.term]
            logprobs = -(micro.ids[at] + micro.depth[at] / 1000)
            scores.append(Scores.of(micro.samples, logprobs, 2 * logprobs, tripled=3 * logprobs))
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
    wrong = [replace(part, samples=part.samples[::-1]) for part in scores]
    assert num_misplaced(record(tmp_path / "wrong", 1, groups, trained, wrong)) > 50


def num_misplaced(run: Path) -> int:
    wrong = 0
    for episode in open_run(run).read_step(1):
        for call in episode.calls:
            depth = np.arange(call.start, len(call.path))
            logprobs = -(call.completion_ids + depth / 1000).astype(np.float32)
            measured = (call.trainer_logprobs, call.entropies / 2, call.measures["tripled"] / 3)
            wrong += sum(int((abs(m - logprobs) > 1e-3).sum()) for m in measured)
    return wrong


def test_what_the_rows_say(tmp_path):
    trained = credit(GROUPS)
    zeros = np.zeros((2, sum(len(s.call.completion_ids) for s in trained)), np.float32)
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
    assert found(limit=2) == [0, 1]
    assert found(step=8) == found(habit="habit/unknown") == []
    assert run.read(7, "first", 0).row == rows[0]
    assert run.read(7, "first", 0, group=2).row == rows[4]
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
    assert [row.rewards for row in run.episodes(task_id="3")] == rewards
    assert [row.reward for row in run.episodes(min_reward=0.5)] == [0.5, 0.5]


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
    assert (tmp_path / "records/step-00000.tokens.parquet").stat().st_size < 19_000


def test_what_was_recorded_of_a_step_is_replaced(tmp_path):
    record(tmp_path, 2, GROUPS)
    record(tmp_path, 2, GROUPS[1:], held_out=True)
    record(tmp_path, 2, GROUPS[:1], held_out=True)
    run = open_run(tmp_path)
    assert [(row.task_id, row.held_out, row.group) for row in run.episodes()] == [
        *[("first", False, 0)] * 2,
        *[("second", False, 1)] * 2,
        *[("first", True, 2)] * 2,
    ]
    for row in run.episodes():
        assert run.read(2, row.task_id, row.episode, row.group).row == row
    # Its evaluation was of other weights.
    record(tmp_path, 2, GROUPS[1:])
    assert [(row.task_id, row.held_out) for row in run.episodes()] == [("second", False)] * 2
    assert run.batches() == [(2, False)]


def test_nothing_that_was_added_is_lost_at_the_end(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    recorder = Recorder(tmp_path / "records")
    for step in range(12):
        recorder.add(step, GROUPS)
    recorder.close()
    run = open_run(tmp_path)
    assert run.steps() == list(range(12))
    assert [len(list(run.read_step(step))) for step in run.steps()] == [4] * 12


def test_a_failure_to_write_is_told_in_a_sentence(tmp_path):
    (tmp_path / "records").write_text("in the way")
    recorder = Recorder(tmp_path / "records")
    recorder.add(1, GROUPS)
    for told in (recorder.flush, lambda: recorder.add(2, GROUPS), recorder.close):
        with pytest.raises(RecordsFailed, match="records cannot be written to .*File exists"):
            told()


def test_a_rank_that_does_not_write_writes_nothing(tmp_path):
    recorder = Recorder(tmp_path / "records", writes=False)
    recorder.add(1, GROUPS)
    recorder.flush()
    recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_later_steps_are_cut_off(tmp_path):
    for step in (1, 2, 3):
        record(tmp_path, step, GROUPS)
    cut_back(tmp_path / "records", 1)
    run = open_run(tmp_path)
    assert run.steps() == [1]
    assert {row.step for row in run.episodes()} == {1}
    assert names(tmp_path) == ["step-00001.episodes.parquet", "step-00001.tokens.parquet"]
    record(tmp_path, 2, GROUPS[:1])
    assert run.steps() == [1, 2]
    cut_back(tmp_path / "records", -1)
    assert (run.steps(), run.episodes()) == ([], [])
    cut_back(tmp_path / "nothing", 0)


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
    for line in ("{]", "[" * 100_000, "9" * 5000):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(ValueError, match="metrics.jsonl has a line that is no JSON"):
            run.metrics()


WRITES_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tests.support.recorded import GROUPS, Recorder
recorder = Recorder(Path(sys.argv[1]) / "records")
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
    assert all(len(list(run.read_step(step))) == 4 for step in run.steps())
    cut_back(tmp_path / "records", 5)
    record(tmp_path, 6, GROUPS)
    assert run.steps() == list(range(1, 7))
    assert run.read(6, "second", 1).ids.tolist() == [9, 8, 7]


def test_what_is_no_run_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a run"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        open_run(tmp_path)
    for config in ("[1]", "{", "[" * 100_000, '{"config": null}', '{"config": [1]}'):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match="is not the folder of a run"):
            open_run(tmp_path)


def test_a_run_of_before_parquet_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(ValueError, match="rollouts are an earlier version's: open the run with"):
        open_run(tmp_path)


def test_what_is_broken_or_anothers_is_a_sentence(tmp_path):
    for step in (1, 2):
        record(tmp_path, step, GROUPS)
    run = open_run(tmp_path)
    for path in (tokens_of(tmp_path, 1), episodes_of(tmp_path, 1)):
        whole = path.read_bytes()
        foreign = tmp_path / "foreign.parquet"
        pq.write_table(pa.table({"ids": [[1]]}), foreign)
        for broken in (whole[:-9], whole[:40], b"", b"x" * len(whole), foreign.read_bytes()):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=f"{path} cannot be read: "):
                run.read(1, "first", 0)
            # The other steps are there as before.
            assert run.read(2, "first", 0).ids.tolist() == [1, 2, 3, 4, 5, 6]
        path.write_bytes(foreign.read_bytes())
        with pytest.raises(ValueError, match="it is no file of records"):
            run.read(1, "first", 0)
        path.write_bytes(whole)
    assert run.read(1, "first", 0).ids.tolist() == [1, 2, 3, 4, 5, 6]
    episodes_of(tmp_path, 1).write_bytes(b"x")
    found = run.page()
    assert [row.step for row in found.rows] == [2] * 4
    assert [told.partition(" cannot")[0] for told in found.unread] == [
        str(episodes_of(tmp_path, 1))
    ]
    with pytest.raises(ValueError, match="cannot be read: "):
        run.episodes()
    tokens_of(tmp_path, 2).unlink()
    with pytest.raises(ValueError, match="cannot be read: .*No such file"):
        run.read(2, "first", 0)


def test_records_of_another_version_or_another_step_are_refused(tmp_path):
    for step in (1, 2):
        record(tmp_path, step, GROUPS)
    run, about = open_run(tmp_path), {b"agentrl": b'{"version": 2}'}
    rewritten(episodes_of(tmp_path, 1), lambda table, _: (table, about))
    with pytest.raises(ValueError, match="of version 2, and this is a reader of version 1: open"):
        run.read(1, "first", 0)
    record(tmp_path, 3, GROUPS[:1])
    shutil.copy(tokens_of(tmp_path, 3), tokens_of(tmp_path, 2))
    with pytest.raises(ValueError, match="it has 0 calls of an episode that made 1"):
        run.read(2, "second", 1)


def test_a_changed_byte_never_becomes_another_number(tmp_path):
    record(tmp_path, 1, GROUPS)
    run, path = open_run(tmp_path), tokens_of(tmp_path, 1)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    noticed = []
    for _ in range(300):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(broken))
        try:
            read = run.read(1, "first", 0)
            assert read.ids.tolist() == [1, 2, 3, 4, 5, 6]
            # A changed name of a column is a column that is not there.
            logprobs = read.calls[1].sampler_logprobs
            assert logprobs.tolist() == [-0.5, -1.0] or np.isnan(logprobs).all()
        except ValueError as error:
            noticed.append(str(error))
    assert len(noticed) > 100
    assert [told for told in noticed if not told.startswith("step 1, task first: ")] == []


def test_new_columns_and_files_are_passed_over_and_optional_ones_may_lack(tmp_path):
    trained = credit(GROUPS)
    values = np.zeros((2, sum(len(s.call.completion_ids) for s in trained)), np.float32)
    record(tmp_path, 1, GROUPS, trained, [Scores(np.arange(len(trained)), values)])
    run = open_run(tmp_path)
    before = run.episodes(), run.read(1, "first", 0).calls[1]

    def change(table, about):
        optional = [one.name for one in schema.EPISODES if one.nullable and one.name != "reward"]
        kept = table.drop_columns([name for name in optional if name in table.column_names])
        return kept.append_column("new", pa.array(["x"] * len(table))), about

    rewritten(episodes_of(tmp_path, 1), change)
    (tmp_path / "records/step-00001.messages.parquet").write_bytes(b"whatever")
    rows = run.episodes()
    assert [row.key for row in rows] == [row.key for row in before[0]]
    assert [row.reward for row in rows] == [1.0, 0.0, None, None]
    assert [(row.metrics, row.error, row.success) for row in rows] == [({}, None, None)] * 4

    def of_calls(table, about):
        """As a later writer may: a call's own reward, state and versions, and another column."""
        blocks = table.to_pylist()
        for block in blocks:
            for n, call in enumerate(block["calls"]):
                for name in ("measures", "why_forked", "finish_reason", "entropies"):
                    if name != "finish_reason":
                        del call[name]
                call |= {"reward": 0.5, "state": "s", "observation": "o", "new": n}
                call |= {"versions": [3] * call["num_sampled"], "model": "judge"}
        return pa.Table.from_pylist(blocks), about

    rewritten(tokens_of(tmp_path, 1), of_calls)
    call = run.read(1, "first", 0).calls[1]
    assert (call.reward, call.state, call.observation, call.model) == (0.5, "s", "o", "judge")
    assert call.versions == [3, 3]
    assert (call.measures, call.why_forked) == ({}, None)
    assert np.isnan(call.entropies).all()
    assert call.sampler_logprobs.tolist() == before[1].sampler_logprobs.tolist()
    # With the step goes what stands beside it.
    cut_back(tmp_path / "records", 0)
    assert names(tmp_path) == []

    record(tmp_path, 1, GROUPS)
    rewritten(tokens_of(tmp_path, 1), lambda table, about: (table.drop_columns("parents"), about))
    with pytest.raises(ValueError, match="it has no column parents"):
        run.read(1, "first", 0)


def in_loss(run: Path, step: int = 1) -> list[list[bool]]:
    return [
        [
            call.in_loss
            for call in open_run(run).read(step, row.task_id, row.episode, row.group).calls
        ]
        for row in open_run(run).episodes(step=step)
    ]


def zeros(trained: list[Sample]) -> list[Scores]:
    size = sum(len(sample.call.completion_ids) for sample in trained)
    return [Scores(np.arange(len(trained)), np.zeros((2, size), np.float32))]


def test_a_sample_may_have_a_copy_of_its_call(tmp_path, caplog):
    trained = credit(GROUPS)
    own = record(tmp_path / "own", 1, GROUPS, trained, zeros(trained))
    copies = [replace(sample, call=replace(sample.call)) for sample in trained]
    # The last call of the first episode begins both: only what is equal in all is the same.
    copied = record(tmp_path / "copied", 1, GROUPS, copies, zeros(copies))
    assert in_loss(own) == in_loss(copied) == [[True, True], [True], [], [False]]
    advantages = [
        [c.advantage for e in open_run(r).read_step(1) for c in e.calls] for r in (own, copied)
    ]
    assert advantages[0] == advantages[1]
    assert caplog.messages == []
    other = [
        replace(s, call=replace(s.call, logprobs=[-9.0] * len(s.call.logprobs))) for s in copies
    ]
    changed = record(tmp_path / "changed", 1, GROUPS, other, zeros(other))
    assert in_loss(changed) == [[False, False], [False], [], [False]]
    assert caplog.messages == ["3 samples are of no call of the step: they are not recorded"]


def test_of_equal_calls_each_has_its_own_sample(tmp_path):
    # Two episodes that said the same, and one more that says it twice.
    once, twice = [a_call([1], [2])], [a_call([1], [2]), a_call([1], [2])]
    task = {"id": "t"}
    group = Group(
        task,
        tuple(
            Episode(task=task, index=i, calls=tuple(c), reward=0.0)
            for i, c in enumerate([once, once, twice])
        ),
    )
    advantages = [1.0, 2.0, 3.0, 4.0]
    calls = [call for episode in group.episodes for call in episode.calls]
    for name, copies in {
        "own": [Sample(c, a) for c, a in zip(calls, advantages, strict=True)],
        "copied": [Sample(replace(c), a) for c, a in zip(calls, advantages, strict=True)],
    }.items():
        run = record(tmp_path / name, 1, [group], copies, zeros(copies))
        read = open_run(run).read_step(1)
        assert [c.advantage for e in read for c in e.calls] == advantages, name


def test_an_advantage_may_be_one_a_token(tmp_path):
    sample = Sample(GROUPS[0].episodes[0].calls[1], 0.0)
    object.__setattr__(sample, "advantage", [0.25, 0.75])
    call = (
        open_run(record(tmp_path, 1, GROUPS, [sample], zeros([sample])))
        .read(1, "first", 0)
        .calls[1]
    )
    assert (call.advantages.tolist(), call.advantage) == ([0.25, 0.75], 0.5)


def test_a_sample_that_was_not_in_the_loss_has_its_advantage(tmp_path):
    trained = [Sample(call, 0.0) for call in GROUPS[0].episodes[0].calls]
    run = open_run(record(tmp_path, 1, GROUPS, trained, zeros(trained[:1])))
    calls = run.read(1, "first", 0).calls
    assert [(call.in_loss, call.advantage) for call in calls] == [(True, 0.0), (False, 0.0)]
    assert run.episodes()[0].num_trained == 1


def test_importance_weights_are_stored_where_they_do_not_follow(tmp_path):
    trained = credit(GROUPS)
    drawn = np.concatenate([sample.call.logprobs for sample in trained]).astype(np.float32)
    trainer = drawn + np.linspace(-1, 1, len(drawn), dtype=np.float32)
    usual = np.minimum(np.exp(trainer - drawn), np.float32(1.5))
    for name, weights in {"usual": usual, "of_a_call": np.full_like(drawn, 0.5)}.items():
        values = np.stack([trainer, drawn, weights])
        scores = [Scores(np.arange(len(trained)), values, ("importance",))]
        run = record(tmp_path / name, 1, GROUPS, trained, scores)
        read = [c.weights for e in open_run(run).read_step(1) for c in e.calls if c.in_loss]
        assert bits(np.concatenate(read)) == bits(weights)
        (block,) = pq.read_table(tokens_of(run, 1))["calls"].to_pylist()
        stored = [dict(call["measures"] or ()) for call in block if call["trainer_logprobs"]]
        assert [list(each) for each in stored] == [[] if name == "usual" else ["importance"]] * 3
    # Of what no loss told there are none.
    untold = open_run(record(tmp_path / "untold", 1, GROUPS, trained, zeros(trained)))
    assert np.isnan(next(untold.read_step(1)).calls[0].weights).all()


def test_a_full_disk_leaves_what_was_there(tmp_path):
    record(tmp_path, 1, GROUPS)
    recorder = Recorder(tmp_path / "records")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        recorder.add(2, GROUPS)
        with pytest.raises(RecordsFailed, match="records cannot be written to .*File too large"):
            recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["step-00001.episodes.parquet", "step-00001.tokens.parquet"]
    assert len(open_run(tmp_path).episodes()) == 4


def test_what_a_kill_leaves_is_no_record_and_goes(tmp_path):
    for step in (1, 2):
        record(tmp_path, step, GROUPS)
    # Killed while it wrote aside, and between the names of two files.
    shutil.copy(episodes_of(tmp_path, 2), tmp_path / "records/.step-00003.tokens.parquet")
    episodes_of(tmp_path, 2).unlink()
    run = open_run(tmp_path)
    assert (run.steps(), {row.step for row in run.episodes()}) == ([1], {1})
    record(tmp_path, 4, GROUPS)
    assert {name[:10] for name in names(tmp_path)} == {"step-00001", "step-00004"}


def test_long_episodes_take_eleven_bytes_a_trained_token(tmp_path):
    rng = np.random.default_rng(0)
    groups = [long_group(rng, f"task-{i}") for i in range(16)]
    trained = credit(groups)
    scores = long_scores(rng, trained)
    record(tmp_path, 1, groups, trained, scores)
    size = sum(path.stat().st_size for path in (tmp_path / "records").iterdir())
    assert size / scores[0].values.shape[1] < 11
    row = open_run(tmp_path).episodes(limit=1)[0]
    assert (row.num_calls, row.num_trained) == (3, 900)


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
    stripped = "stripped thinking: the reasoning of message 2 is left out"
    assert why == [[None], [None, stripped]]


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
        return [(row.group, row.episode) for row in run.episodes(text=text, **options)]

    assert found("ann") == [(0, 0), (1, 0)]
    assert found("who buys?bob") == [(0, 1), (1, 1)]
    assert found("who") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found("who", limit=2) == [(0, 0), (0, 1)]
    assert found("nobody") == []

    # Whoever looks for no time at all is told where to go on.
    seen, after, answers = [], None, 0
    while answers == 0 or after is not None:
        page = run.page(text="sells", seconds=0.0, after=after)
        seen, after, answers = seen + [row.key for row in page.rows], page.after, answers + 1
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
    tokens_of(tmp_path, 2).write_bytes(b"x" * 9)
    run = open_run(tmp_path)
    found = run.page(text="sells")
    assert [row.key for row in found.rows] == [(1, 0, 0), (1, 0, 1), (3, 0, 0), (3, 0, 1)]
    (sentence,) = found.unread
    assert sentence.startswith(f"step 2, task t: {tokens_of(tmp_path, 2)} cannot be read: ")
    assert run.page(text="sells", step=3).unread == []
    with pytest.raises(ValueError, match="step 2, task t: .* cannot be read"):
        run.episodes(text="sells")
    # Without a tokenizer no text can be found at all: that is no broken piece.
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        open_run(tmp_path).page(text="sells")


def test_the_schema_says_what_every_column_is():
    columns = [*schema.EPISODES.names, *schema.TOKENS.names, *schema.CALL.names]
    words = set(re.findall(r"\w+", schema.__doc__))
    assert [name for name in columns if name not in words] == []


def test_pandas_and_duckdb_read_them_as_the_page_says(tmp_path, monkeypatch):
    trained = credit(GROUPS)
    size = sum(len(sample.call.completion_ids) for sample in trained)
    values = np.stack([np.full(size, -0.25), np.full(size, 0.5)]).astype(np.float32)
    record(tmp_path, 1, GROUPS, trained, [Scores(np.arange(len(trained)), values)])
    record(tmp_path, 2, GROUPS[:1])
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/records.md").read_text()
    said = {}
    for language in ("pandas", "duckdb"):
        (code,) = re.findall(rf"```python\n(import {language}\n.*?)```", page, re.DOTALL)
        exec(code, said)
    assert said["by_task"].dropna().to_dict() == {"first": 0.5}
    assert len(said["calls"]) == 4
    assert said["largest"] == 0.75
    assert said["rewards"].fetchall() == [(1, 0.5, 1.0, 0.5), (2, 0.5, 0.0, 0.5)]
    first, second = credit(GROUPS)[0].advantage, credit(GROUPS)[-1].advantage
    assert said["sure"].fetchall() == [("agent", 3, 0.5, (2 * first + second) / 3)]
    assert [row[:2] for row in said["ids"].order("task_id, reward").fetchall()] == [
        ("first", 0.0),
        ("first", 1.0),
        ("second", None),
        ("second", None),
    ]
    assert {tuple(row[2]) for row in said["ids"].fetchall()} == {(1, 2, 3, 4, 5, 6, 9, 8, 7)}


def test_parts_rewards_and_states_of_calls_are_there_again(tmp_path):
    calls = (
        a_call([1], [2], reward=0.5, state="kitchen"),
        a_call([1, 2], [3]),
    )
    parts = {"right": 1.0, "short": 0.25}
    episode = Episode(task={"id": "t"}, index=0, calls=calls, reward=1.25, parts=parts)
    record(tmp_path, 1, [Group({"id": "t"}, (episode,))])
    read = open_run(tmp_path).read(1, "t", 0)
    assert read.row.parts == parts
    assert [(c.reward, c.state) for c in read.calls] == [(0.5, "kitchen"), (None, None)]
