"""What an experiment's ``tasks`` may return, and what is said of the rest."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from agentrl.callables import load_callable
from agentrl.config import Config, DataConfig, EvalConfig, ModelConfig
from agentrl.runs.preflight import check_ids
from agentrl.runs.progress import Display
from agentrl.tasks import splits
from agentrl.tasks.jsonl import with_id
from agentrl.tasks.splits import find_tasks, read_splits

A, B = {"question": "a", "id": "1"}, {"question": "b", "id": "2"}


async def solve(task, model):
    return 1.0


def read(tasks, find=read_splits):
    return find(Config(workflow=solve, tasks=tasks, model=ModelConfig(path="m")))


def dataset(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


def splits_of(rows):
    from datasets import DatasetDict

    return DatasetDict(train=dataset(rows[:1]), validation=dataset(rows[1:]))


class Rows:
    """A sequence of old: neither a list nor an iterator."""

    def __iter__(self):
        return iter([A])


async def awaited(data):
    await asyncio.sleep(0)
    return [A], [B]


@pytest.mark.parametrize(
    ("tasks", "held_out"),
    [
        (lambda data: ([A], [B]), [B]),
        (lambda data: [[A], [B]], [B]),
        (lambda data: (dataset([A]), dataset([B])), [B]),
        (lambda data: splits_of([A, B]), [B]),
        (lambda data: {"train": [A], "test": [B]}, [B]),
        (lambda data: ((row for row in [A]), map(dict, [B])), [B]),
        (lambda data: ({"1": A}.values(), (MappingProxyType(B),)), [B]),
        (awaited, [B]),
        (lambda data: [A], []),
        (lambda data: dataset([A]), []),
        (lambda data: ([A], None), []),
        (lambda data: Rows(), []),
    ],
)
def test_what_is_taken(tasks, held_out):
    assert read(tasks) == ([A], held_out)
    assert [type(task) for split in read(tasks) for task in split] == [dict] * (1 + len(held_out))


C = {"question": "c", "id": "3"}


@pytest.mark.parametrize(
    ("returned", "own"),
    [
        (([A], [B]), ["test"]),
        (([A], {"hard": [B], "easy": iter([C])}), ["hard", "easy"]),
        ({"train": [A], "test": {"hard": [B]}}, ["hard"]),
        ([A], []),
    ],
)
def test_held_out_sets_by_name(tmp_path, returned, own):
    (tmp_path / "more.jsonl").write_text('{"x": 1}\n{"x": 2}\n')
    given = EvalConfig(sets=(f"more={tmp_path / 'more.jsonl'}",), num_tasks=1)
    config = Config(
        workflow=solve, tasks=lambda data: returned, model=ModelConfig(path="m"), eval=given
    )
    train, held_out = find_tasks(config)
    assert train == [A]
    # The first of each.
    assert [task["eval_set"] for task in held_out] == [*own, "more"]
    assert [task["question"] for task in held_out[:-1]] == ["b", "c"][: len(own)]
    # Its id is what it would be alone.
    assert held_out[-1] == with_id({"x": 1}) | {"eval_set": "more"}


@pytest.mark.parametrize("name", ["hard", "reward", "success"])
def test_a_name_is_one_sets(tmp_path, name):
    config = Config(
        workflow=solve,
        tasks=lambda data: ([A], {"hard": [B]}),
        model=ModelConfig(path="m"),
        eval=EvalConfig(sets=(f"{name}={tmp_path / 'more.jsonl'}",)),
    )
    with pytest.raises(ValueError, match=f"{name} cannot name another held-out set: eval/{name} "):
        read_splits(config)
    of_two = [{**A, "eval_set": "hard"}, {**A, "eval_set": "easy"}]
    with pytest.raises(ValueError, match="two different held-out tasks .* leave each in one set"):
        check_ids([], of_two, Display())


def test_two_rows_are_no_pair():
    assert read(lambda data: [A, B]) == ([A, B], [])
    assert read(lambda data: iter([A, B])) == ([A, B], [])


def test_held_out_rows_of_a_dataset_are_the_first():
    """Its slices are columns."""

    def tasks(data):
        return [A], dataset([{"question": str(i)} for i in range(300)])

    held_out = read(tasks, find_tasks)[1]
    assert [task["question"] for task in held_out] == [str(i) for i in range(200)]
    with pytest.raises(ValueError, match="there are no held-out tasks to evaluate"):
        read(lambda data: dataset([A]), find_tasks)


async def gives(data):
    yield A


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (None, r"`tasks` returned None \(NoneType\) as train rows: return train and held-out rows"),
        (7, r"`tasks` returned 7 \(int\) as train rows"),
        ((None, [A]), r"`tasks` returned None \(NoneType\) as train rows"),
        (([A], 7), r"`tasks` returned 7 \(int\) as held-out rows"),
        ("words", r"`tasks` returned 'words' \(str\) as train rows"),
        (["What is 1+1?"], r"`tasks` returned 'What is 1\+1\?' \(str\) as a train row"),
        (["one?", "two?"], r"`tasks` returned 'one\?' \(str\) as a train row"),
        (([A], ["two?"]), r"`tasks` returned 'two\?' \(str\) as a held-out row"),
        (([A], [B], []), r"`tasks` returned \[\{.*\}\] \(list\) as a train row"),
        ({"trains": [A]}, r"`tasks` returned \{'trains'.*\(dict\) as train rows"),
        (gives(None), r"`tasks` returned <async_generator .*\(async_generator\) as train rows"),
        ([{"id": ["a"]}], r"a train row has the id \['a'\] \(list\): give a text, or none"),
        ([{"id": {"a": 1}}], r"a train row has the id \{'a': 1\} \(dict\)"),
        (([A], [{"id": 1.5}]), r"a held-out row has the id 1.5 \(float\)"),
        ([{"id": True}], r"a train row has the id True \(bool\)"),
        ([{"held": open}, {"held": Rows()}], r"no id can be made of a row \(<.*Rows object at 0x"),
        ([{("a", "b"): 1}], r"no id can be made of a row \(keys must be str.*give each an 'id'"),
    ],
)
def test_what_is_not(returned, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(lambda data: returned)


def test_what_never_ends(monkeypatch):
    monkeypatch.setattr(splits, "MOST", 1000)
    with pytest.raises(ValueError, match="`tasks` returned over 1000 train rows: return a list"):
        read(lambda data: ({"number": i} for i in iter(int, 1)))


def test_ids_that_are_null_are_none():
    (a, b), _ = read(lambda data: [{"id": None, "question": "a"}, {"id": None, "question": "b"}])
    assert a["id"] != b["id"]
    assert a["id"] == with_id({"id": None, "question": "a"})["id"]
    assert read(lambda data: [{"id": 3}, {"id": np.int64(4)}])[0] == [{"id": 3}, {"id": 4}]


AUTHOR = """
import json
def tasks(data):
    {step}
def rows():
    yield {{"question": "a"}}
    yield TABLE["missing"]
TABLE = {{}}
async def later():
    raise ValueError("the table is empty")
"""


@pytest.mark.parametrize(
    ("step", "said", "line"),
    [
        ("raise ValueError('no rows')", "ValueError: no rows", "raise ValueError('no rows')"),
        ("return TABLE['missing']", "KeyError: 'missing'", "return TABLE['missing']"),
        ("return rows(), []", "KeyError: 'missing'", 'yield TABLE["missing"]'),
        ("return later()", "ValueError: the table is empty", 'raise ValueError("the table is emp'),
        ("return json.loads('{')", "JSONDecodeError: Expecting", "return json.loads('{')"),
        ("raise SystemExit('enough')", "SystemExit: enough", "raise SystemExit('enough')"),
        ("return map(int, 'ab')", "ValueError: invalid literal", ""),
    ],
)
def test_the_authors_lines_are_told(tmp_path, step, said, line):
    file = tmp_path / "mine.py"
    file.write_text(AUTHOR.format(step=step))
    with pytest.raises(ValueError, match="mine.py:tasks raised") as raised:
        read(load_callable(f"{file}:tasks"))
    assert str(raised.value).startswith(f"{file}:tasks raised {said}")
    assert line in str(raised.value)
    assert "agentrl/" not in str(raised.value)
    assert "json/decoder" not in str(raised.value)


def test_what_a_reader_says_stays_a_sentence(tmp_path):
    from agentrl.tasks.jsonl import read_folder

    (tmp_path / "train.jsonl").write_text("{")
    (tmp_path / "test.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="^/.*train.jsonl:1: not JSON"):
        read(lambda data: read_folder(DataConfig(path=str(tmp_path))))


HELD = """
import json, sys, datetime
import numpy as np
from PIL import Image
from agentrl.tasks.jsonl import with_id
pixels = np.arange(30_000, dtype=np.uint8).reshape(100, 100, 3)
other = pixels.copy()
other[50, 50] = 0
def image(array):
    return Image.fromarray(array)
rows = [
    *({"image": image(pixels)}, {"image": image(other)}, {"image": image(pixels).convert("HSV")}),
    *({"array": pixels}, {"array": other}, {"array": pixels.reshape(300, 100)}),
    *({"set": {"a", "b", "c", "d"}}, {"when": datetime.date(2026, 1, 2)}, {"bytes": b"ab"}),
    *({"objects": np.array(["a", None], dtype=object)}, {"number": np.float64(0.5)}),
]
print(json.dumps([with_id(row)["id"] for row in rows]))
"""


def test_ids_of_images_and_arrays_are_lasting_and_differ():
    """The same in two processes with other seeds of hashes and other addresses."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = [
        subprocess.run(
            [sys.executable, "-c", f"held = bytes({i})\n{HELD}"],
            capture_output=True,
            env={**environment, "PYTHONHASHSEED": str(i)},
            check=True,
        ).stdout
        for i in (1, 2)
    ]
    assert said[0] == said[1]
    assert len(set(json.loads(said[0]))) == 11


def test_equal_images_under_one_id_are_one_task():
    def row(shade):
        pixels = np.full((4, 4), shade, dtype=np.uint8)
        return {"id": "x", "image": Image.fromarray(pixels), "array": pixels}

    check_ids([row(1), row(1)], [], Display())
    with pytest.raises(ValueError, match="two different train tasks have the id 'x'"):
        check_ids([row(1), row(2)], [], Display())


def test_arrows_padding_is_left_out_of_rows_and_ids():
    tools = [{"name": "f", "parameters": {"x": 1}}, {"name": "g", "parameters": {"y": [None, 2]}}]
    rows = [{"answer": None, "tools": [tool]} for tool in tools]
    (first, second), _ = read(lambda data: dataset([*rows, {"answer": "3", "tools": []}]).take(2))
    assert [first["tools"], second["tools"]] == [[tool] for tool in tools]
    assert first["answer"] is None
    # What other rows hold does not change a row's id.
    assert [first["id"], second["id"]] == [with_id(row)["id"] for row in rows]
