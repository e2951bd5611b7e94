import json

import pytest

from agentrl.config import DataConfig
from agentrl.tasks.hf import read_hub
from agentrl.tasks.jsonl import read_folder, with_id
from experiments import gsm8k

ROW = {"question": "1+1?\u2028", "answer": "#### 2"}


def write(folder, name, lines):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train.jsonl", [json.dumps(ROW, ensure_ascii=False), "", json.dumps(ROW)])
    write(tmp_path, "test.jsonl", [json.dumps({**ROW, "id": "mine"})])
    return tmp_path


def test_rows_of_a_folder(folder):
    train, test = gsm8k.tasks(DataConfig(path=str(folder)))
    assert [task["question"] for task in train] == ["1+1?\u2028"] * 2
    assert train[0]["id"] == train[1]["id"] == with_id(ROW)["id"]
    assert test[0]["id"] == "mine"
    assert "id" not in ROW


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r"train.jsonl:2: not JSON \(Expecting property name.*, column 2\)"),
        ('{"question": "?"}', r"train.jsonl:2: no 'answer'"),
        ("{}", r"train.jsonl:2: no 'question' and no 'answer'"),
        ('{"question": "?", "answer": 5}', r"train.jsonl:2: no text as 'answer', but 5"),
        ('{"question": " ", "answer": "5"}', r"train.jsonl:2: no text as 'question', but ' '"),
        ('["question", "answer"]', r"train.jsonl:2: not a JSON object, but a list"),
    ],
)
def test_bad_lines_are_named(folder, line, sentence):
    write(folder, "train.jsonl", [json.dumps(ROW), line])
    with pytest.raises(ValueError, match=sentence):
        read_folder(DataConfig(path=str(folder)), required=("question", "answer"))


def test_missing_and_empty_files(folder, tmp_path):
    write(folder, "test.jsonl", [])
    with pytest.raises(ValueError, match="test.jsonl holds no tasks"):
        read_folder(DataConfig(path=str(folder)), required=())
    with pytest.raises(ValueError, match="wants train.jsonl and test.jsonl"):
        read_folder(DataConfig(path=str(tmp_path / "nowhere")), required=())


def test_an_answer_without_a_number(folder):
    write(folder, "test.jsonl", [json.dumps({"question": "?", "answer": "two"})])
    with pytest.raises(ValueError, match=r"test.jsonl:1: no number after #### in the answer 'two'"):
        gsm8k.tasks(DataConfig(path=str(folder)))


def test_a_hub_that_cannot_be_reached_says_what_works(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"cannot load openai/gsm8k .* with --data.path"):
        read_hub("openai/gsm8k", "main", DataConfig())
