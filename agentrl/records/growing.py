"""The rows of a JSONL file that another process may be writing."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO


class GrowingRows:
    """The rows of a JSONL file that grows; only what is new is read."""

    def __init__(self, path: Path):
        self._path, self._lock = path, Lock()
        self._inode, self._offset = 0, 0
        self._rows: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        with self._lock:
            if self._path.exists():
                with self._path.open("rb") as file:
                    self._read(file)
            return list(self._rows)

    def _read(self, file: BinaryIO) -> None:
        now = os.fstat(file.fileno())
        # A run that was resumed has another file, cut back.
        if now.st_ino != self._inode or now.st_size < self._offset:
            self._inode, self._offset, self._rows = now.st_ino, 0, []
        file.seek(self._offset)
        for line in file:
            # The last may be half written.
            if not line.endswith(b"\n"):
                break
            self._rows.append(self._row(line))
            self._offset += len(line)

    def _row(self, line: bytes) -> dict[str, Any]:
        place = f"{self._path}, line {len(self._rows) + 1},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no JSON object")
        return row
