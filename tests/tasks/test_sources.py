"""Tasks by name: files of every format, splits, columns, and what is told of them."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from agentrl.callables import callable_name, load_named
from agentrl.cli import parse, to_json
from agentrl.config import DataConfig
from agentrl.tasks import __main__ as command
from agentrl.tasks.hf import MOST_HELD_OUT, cut
from agentrl.tasks.jsonl import with_id
from agentrl.tasks.splits import read_tasks
from experiments import gsm8k

ROWS = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(4)]
OTHERS = [{"question": "8+1?", "answer": "#### 9"}]


def write(path: Path, rows: list[dict]) -> str:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        as_lines = path.suffix == ".jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows))
    return f"files:{path}"


def read(name: str, **data):
    return read_tasks(load_named(name, "agentrl.tasks"), DataConfig(**data))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_folder_of_each_format_has_the_rows_that_went_in(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", ROWS)
    write(tmp_path / f"validation.{suffix}", OTHERS)
    expected = [with_id(row) for row in ROWS], [with_id(row) for row in OTHERS]
    assert read(f"files:{tmp_path}") == expected


def test_of_one_file_some_rows_are_held_out(tmp_path, caplog):
    name = write(tmp_path / "rows.parquet", ROWS * 5)
    train, held_out = read(name)
    assert sorted(t["id"] for t in train + held_out) == sorted(with_id(r)["id"] for r in ROWS * 5)
    # Equal rows stay together.
    assert (len(train), len(held_out)) == (15, 5)
    assert read(name) == (train, held_out)
    assert "rows.parquet has no held-out split: 5 of its 20 rows, the same each" in caplog.text


def test_what_is_held_out_does_not_follow_the_order():
    tasks = [{"id": str(i)} for i in range(6000)]
    _, held_out = cut(tasks, "numbers")
    assert len(held_out) == MOST_HELD_OUT
    assert {t["id"] for t in held_out} == {t["id"] for t in cut(tasks[::-1], "numbers")[1]}
    assert 2000 < sum(int(t["id"]) for t in held_out) / len(held_out) < 4000
    assert cut(tasks[:1], "one") == (tasks[:1], [])


def test_splits_are_chosen(tmp_path):
    for split, rows in (("train", ROWS), ("test", OTHERS), ("hard", ROWS[:2])):
        write(tmp_path / f"{split}.jsonl", rows)
    name = f"files:{tmp_path}"
    ids = [with_id(row)["id"] for row in ROWS]

    def chosen(**data):
        return [[task["id"] for task in tasks] for tasks in read(name, **data)]

    assert chosen(train_split="train[:3]", held_out_split="train[3:]") == [ids[:3], ids[3:]]
    assert chosen(train_split="test", held_out_split="train") == [[with_id(OTHERS[0])["id"]], ids]
    with pytest.raises(ValueError, match="cannot load .*nope"):
        read(name, held_out_split="nope")


def test_columns_by_flags(tmp_path):
    rows = [{"problem": row["question"], "gold": row["answer"], "level": 3} for row in ROWS]
    name = write(tmp_path / "rows.csv", rows)
    train, held_out = read(name, question="problem", answer="gold")
    expected = [with_id({**row, "level": 3}) for row in ROWS]
    assert sorted(t["id"] for t in train + held_out) == sorted(t["id"] for t in expected)
    assert {*train[0]} == {"question", "answer", "level", "id"}
    with pytest.raises(ValueError, match=r"data.question is 'text', but a row has only problem, g"):
        read(name, question="text")


@pytest.mark.parametrize(
    "setting",
    [{"question": "q"}, {"answer": "a"}, {"train_split": "train[:1]"}, {"held_out_split": "test"}],
    ids=lambda setting: next(iter(setting)),
)
def test_what_no_task_reads_is_refused(tmp_path, setting):
    """Beside tasks that have another source, say: what was given was meant to do something."""

    def tasks(data):
        return ([{"question": "1?"}], [{"question": "2?"}]) if data.path is None else None

    (name,) = setting
    with pytest.raises(ValueError, match=f"data.{name} is .*, which these tasks do not read"):
        read_tasks(tasks, DataConfig(**setting))

    def late(data):
        yield {"question": getattr(data, name)}

    assert read_tasks(late, DataConfig(**setting))[0][0]["question"] == setting[name]
    # Which workflows open.
    assert len(read_tasks(tasks, DataConfig(env="a:b"))[0]) == 1


def test_columns_of_a_folder_by_its_path(tmp_path):
    for split in ("train", "test"):
        lines = "\n".join(json.dumps({"q": r["question"], "answer": r["answer"]}) for r in ROWS)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    train, _ = gsm8k.tasks(DataConfig(path=str(tmp_path), question="q"))
    assert train == [with_id(row) for row in ROWS]
    with pytest.raises(ValueError, match=r"train.jsonl:1: no 'question'"):
        gsm8k.tasks(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("files:nowhere.csv", "there is no nowhere.csv: give a file"),
        (f"files:{__file__}", "test_sources.py is no file of rows: give one of jsonl, json, csv"),
        (
            "filez:a",
            "cannot import filez .*; by name there are documents:..., env.*, files:..., hf:...",
        ),
        ("json:nothing", "json has no function 'nothing'; by name there are documents"),
        ("hf:", "hf: does not say what: write hf:WHAT"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(name)


def test_a_broken_file_is_a_sentence(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"cannot load .*rows.parquet \(.*that are whole$"):
        read(f"files:{tmp_path / 'rows.parquet'}")


def test_a_name_that_is_a_module_too_is_refused(tmp_path, monkeypatch):
    (tmp_path / "files.py").write_text("def tasks(data): return [{'q': 1}]")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"files:tasks is both our files and a function of a mod"):
        load_named("files:tasks", "agentrl.tasks")
    # By its path it is what it was.
    assert load_named(f"{tmp_path}/files.py:tasks", "agentrl.tasks")(None) == [{"q": 1}]
    sys.modules.pop(f"{tmp_path}/files.py")


def test_a_run_keeps_the_name():
    config, _ = parse(["--exp", "gsm8k", "--tasks", "hf:a/b:main", "--data.question", "q"], "")
    assert callable_name(config.tasks) == "hf:a/b:main"
    held = json.loads(to_json(config))
    assert (held["tasks"], held["data"]["question"]) == ("hf:a/b:main", "q")


def test_a_preview(tmp_path, capsys, monkeypatch, tiny_folder, tokenizer):
    write(tmp_path / "train.jsonl", [*ROWS, ROWS[0]])
    write(tmp_path / "test.jsonl", [{**ROWS[1], "question": " 1+1?"}, *OTHERS])
    flags = ["preview", f"files:{tmp_path}", "--tokenizer", str(tiny_folder), "--rows", "1"]
    monkeypatch.setattr(sys, "argv", ["tasks", *flags])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    count = len(tokenizer.encode(ROWS[0]["question"], add_special_tokens=False))
    assert lines[:2] == [
        "train: 5 rows, 1 of them again",
        f"  question: 5 texts, {count} tokens (median), {count} at most",
    ]
    assert json.loads(lines[3]) == with_id(ROWS[0])
    assert (lines[4], lines[-1]) == ("held-out: 2 rows, 0 of them again", "in both: 1")
