"""Data sets and models as they are on the hub, which a server on the loopback plays."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from agentrl.tasks.jsonl import with_id
from tests.support.checkout import ROOT
from tests.support.hub import serving_hub

pytestmark = pytest.mark.slow
ROW, OTHER = {"question": "1+1?", "answer": "#### 2"}, {"question": "2+2?", "answer": "#### 4"}
TOOLS = [
    {"question": "a", "tools": [{"name": "f", "parameters": {"x": {"type": "string"}}}]},
    {"question": "b", "tools": [{"name": "g", "parameters": {"y": {"enum": ["u", "v"]}}}]},
]
CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: rows.jsonl
  - split: test
    path: others.jsonl
---
"""
IMAGES = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: pixels
    sequence: float64
---
"""


def jsonl(*rows: dict) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def pictures(*shades: int) -> bytes:
    rows = []
    for shade in shades:
        Image.fromarray(np.full((4, 4, 3), shade, dtype=np.uint8)).save(png := io.BytesIO(), "png")
        rows.append({"image": {"bytes": png.getvalue(), "path": None}, "pixels": [1.0, shade]})
    parquet.write_table(pa.Table.from_pylist(rows), table := io.BytesIO())
    return table.getvalue()


REPOS = {
    "a/plain": {"train.jsonl": jsonl(ROW), "test.jsonl": jsonl(OTHER)},
    "a/no_test": {"train.jsonl": jsonl(ROW, OTHER)},
    "a/no_train": {"test.jsonl": jsonl(ROW)},
    "a/script": {"script.py": b"import datasets"},
    "a/broken": {"train.jsonl": b'{"a": 1}\n{"a": ["x"]}\n{'},
    "a/empty": {"README.md": b"# Nothing yet"},
    "a/parts": {"rows.jsonl": jsonl(ROW), "others.jsonl": jsonl(OTHER), "README.md": CARD.encode()},
    "a/tools": {"train.jsonl": jsonl(*TOOLS), "test.jsonl": jsonl(TOOLS[1])},
    "a/images": {
        "train.parquet": pictures(1, 2),
        "test.parquet": pictures(3, 1),
        "README.md": IMAGES.encode(),
    },
}
READ = """
import json, sys
from agentrl.config import DataConfig
from agentrl.tasks import hf
for asked in sys.argv[1:]:
    name, _, options = asked.partition("?")
    given = dict(one.split("=") for one in options.split("&") if one)
    try:
        read = hf.load(name, DataConfig(**given))
        ids = [[row["id"] for row in rows] for rows in read]
        print(json.dumps({"rows": read, "ids": ids}, default=str))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What is read of each set, in a process that finds the hub at that address."""
    asked = [f"{name}:default" for name in REPOS if name != "a/parts"]
    asked += ["a/parts:main", "a/parts:other", "a/absent:default", "a/no_train?train_split=test"]
    asked += ["a/tools?train_split=train[:1]&held_out_split=train[1:]", "a/plain?question=asked"]
    with serving_hub(REPOS) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.address, "HF_HUB_OFFLINE": "0"}
        environment["HF_HOME"] = str(tmp_path_factory.mktemp("home"))
        done = subprocess.run(
            [sys.executable, "-c", READ, *asked],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(
    ("asked", "train", "test"),
    [
        ("a/plain:default", [ROW], [OTHER]),
        # One of two is held out, the same one each time.
        ("a/no_test:default", [OTHER], [ROW]),
        ("a/no_train?train_split=test", [ROW], []),
        ("a/tools?train_split=train[:1]&held_out_split=train[1:]", TOOLS[:1], TOOLS[1:]),
        ("a/parts:main", [ROW], [OTHER]),
        ("a/tools:default", TOOLS, TOOLS[1:]),
    ],
)
def test_rows_and_their_ids(read, asked, train, test):
    """Without what Arrow pads them with, so that an id is the row's own."""
    assert read[asked]["rows"] == [[with_id(row) for row in rows] for rows in (train, test)]


def test_rows_with_images_have_ids_of_what_they_show(read):
    (one, two), (three, again) = read["a/images:default"]["ids"]
    assert (len({one, two, three}), again) == (3, one)
    shown = [[1, 2], [3, 1]]
    made = [[with_id(json_image(shade))["id"] for shade in shades] for shades in shown]
    assert read["a/images:default"]["ids"] == made


def json_image(shade: int) -> dict:
    image = Image.fromarray(np.full((4, 4, 3), shade, dtype=np.uint8))
    return {"image": image, "pixels": [1.0, shade * 1.0]}


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        (
            "a/no_train:default",
            "a/no_train has no train split, only test: give --data.train-split, or",
        ),
        ("a/plain?question=asked", "data.question is 'asked', but a row has only question, answer"),
        ("a/script:default", "RuntimeError: Dataset scripts are no longer supported, but found"),
        ("a/parts:other", "ValueError: BuilderConfig 'other' not found. Available: ['main']"),
        (
            "a/broken:default",
            "cannot load a/broken from the hub, nor from its cache here (ValueErr",
        ),
        ("a/empty:default", "doesn't contain any data files): give a local folder of jsonl"),
        (
            "a/absent:default",
            "cannot load a/absent from the hub, nor from its cache here (Reposito",
        ),
    ],
)
def test_what_cannot_be_read_is_said(read, asked, cause):
    assert cause in read[asked]["error"]
    assert "\n" not in read[asked]["error"]


MODEL = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": bytes(range(256)) * 4096,
    "model-00002-of-00002.safetensors": bytes(range(256)) * 16_384,
}
"""Shards of one and of four MiB."""


def started(name: str, folder: Path, address: str) -> subprocess.Popen:
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
    environment["HF_HOME"] = str(folder.with_name("home"))
    return subprocess.Popen(
        [sys.executable, "-m", "agentrl.tasks", "download", name, "--path", str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_download_goes_on_where_it_was_interrupted(tmp_path):
    _, first, second = MODEL
    folder = tmp_path / "model"
    # Written last, when the file itself has its name: what the library goes by the next time.
    is_whole = folder / ".cache/huggingface/download" / f"{first}.metadata"
    with serving_hub(REPOS, {"a/model": MODEL}, stops_after=2**21) as hub:
        interrupted = started("a/model", folder, hub.address)
        deadline = time.monotonic() + 120
        while not (is_whole.exists() and is_whole.stat().st_size and hub.num_bytes[second]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        interrupted.send_signal(signal.SIGINT)
        said, _ = interrupted.communicate(timeout=5)
        assert (interrupted.returncode, "Traceback" in said) == (130, False), said
        assert "interrupted: the same command goes on from there" in said
        assert not (folder / second).exists()
        assert [*folder.rglob("*.incomplete")] == []

        hub.stops_after = None
        hub.num_bytes.clear()
        again = started("a/model", folder, hub.address)
        said, _ = again.communicate(timeout=60)
        assert again.returncode == 0, said
        assert f"a/model is in {folder}: --model.path {folder}" in said
        assert all((folder / name).read_bytes() == held for name, held in MODEL.items())
        # What was whole is not fetched again.
        assert (hub.num_bytes[first], hub.num_bytes[second]) == (0, 2**22)

        parts = started("hf:a/parts", tmp_path / "parts", hub.address)
        said, _ = parts.communicate(timeout=60)
        assert f"--tasks hf:{tmp_path}/parts" in said
        none = started("hf:a/absent", tmp_path / "absent", hub.address)
        said, _ = none.communicate(timeout=60)
        assert (none.returncode, "Traceback" in said) == (1, False)
        assert "error: the dataset a/absent is not whole in" in said
    # And it is read without a hub.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", READ, f"{tmp_path}/parts:main"]
    read = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True)
    assert json.loads(read.stdout)["rows"] == [[with_id(ROW)], [with_id(OTHER)]]
