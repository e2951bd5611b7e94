"""What trackers have written, read back: {metric: {step: value}} of a run's folder."""

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER = 32768, 7
WHOLE, LAST = 1, 4

Curves = dict[str, dict[int, float]]


def tensorboard(run: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    # Every value, not a sample of ten.
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    return {
        name: {
            e.step: tensor_util.make_ndarray(e.tensor_proto).item() for e in events.Tensors(name)
        }
        for name in events.Tags()["tensors"]
    }


def wandb(run: Path) -> Curves:
    """Of its newest run there."""
    curves: Curves = defaultdict(dict)
    for record in wandb_records(run):
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: item for item in record.history.item}
            values = {name: json.loads(item.value_json) for name, item in items.items()}
            for name, value in values.items():
                if not name.startswith("_"):
                    curves[name][values["_step"]] = float(value)
    return dict(curves)


def wandb_records(run: Path) -> list:
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(record) for record in _records(run, "wandb/offline-run-*/*.wandb")]


def swanlab(run: Path) -> Curves:
    """Of its newest run there."""
    curves: Curves = defaultdict(dict)
    for record in swanlab_records(run):
        # What it measures of the machine by itself is its own.
        if record.HasField("scalar") and not record.scalar.key.startswith("__swanlab__"):
            curves[record.scalar.key][record.scalar.step] = record.scalar.value.number
    return dict(curves)


def swanlab_records(run: Path) -> list:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    return [Record.FromString(record) for record in _records(run, "swanlab/run-*/*.swanlab")]


def _records(run: Path, pattern: str) -> Iterator[bytes]:
    """Of the newest file; both write LevelDB's log format: blocks of records that may span them."""
    written = max(run.glob(pattern), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    at, record = HEADER, b""
    while at + HEADER <= len(written):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", written, at)
        record += written[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (WHOLE, LAST):
            yield record
            record = b""
