"""Reader of a run's records, while it is written too: rows at once, tokens when asked for."""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agentrl.records.episode import EpisodeRecord, EpisodeRow, Key, record_of
from agentrl.records.files import StepFiles, recorded
from agentrl.records.tables import read_block, read_rows
from agentrl.records.text import Ids, Texts

START = (-1, -1, -1)
"""Before the key of every episode."""
Unread = dict[str, None]
"""Sentences on what could not be read, each once."""


@dataclass(frozen=True)
class Found:
    """Some of the episodes that were asked for."""

    rows: list[EpisodeRow]
    after: Key | None
    """The key to go on from; None where nothing is left."""
    unread: list[str]
    """What could not be read, and was passed over: a sentence each."""


def open_run(folder: str | Path) -> "RunRecords":
    """Open a run's records; at once, however large they are.

    Raises ValueError, in a sentence, where it is no run, or its records are of before Parquet.
    """
    return RunRecords(Path(folder))


class RunRecords:
    """A run's folder, to be read; from several threads if need be."""

    def __init__(self, folder: Path):
        self.folder, self._records = folder, folder / "records"
        if (folder / "rollouts").exists():
            raise ValueError(
                f"the records in {folder / 'rollouts'} are an earlier version's: open the run with "
                "the commit that its config.json names"
            )
        self.config: dict[str, Any] = _read_config(folder)
        """What config.json says: experiment, commit, libraries, config, resumed."""

    @property
    def name(self) -> str:
        """experiment/time, as the folders are called."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"

    def metrics(self) -> list[dict[str, Any]]:
        """The whole rows of metrics.jsonl, as of now."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        try:
            # What is behind the last newline is half written.
            return [json.loads(line) for line in lines[:-1]]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has a line that is no JSON: {error}") from error

    def steps(self) -> list[int]:
        """The steps that have been recorded, as of now."""
        return list(dict.fromkeys(step for step, _ in self.batches()))

    def batches(self) -> list[tuple[int, bool]]:
        """What has been recorded, as of now: of each batch its step, and whether it is held out."""
        return [(files.step, files.held_out) for files in recorded(self._records)]

    def episodes(self, *, limit: int = 100, **wanted: Any) -> list[EpisodeRow]:
        """The episodes that all of ``wanted`` holds for, in the order of their keys.

        wanted: step, held_out, task_id, episode, group, status; min_reward, max_reward, of the mean
        over the agents; habit: a metric that is above 0; text: is looked for, in upper or lower
        case, in prompts and completions, which reads them until the limit is reached.
        Raises ValueError where something cannot be read.
        """
        found = self.page(limit=limit, **wanted)
        if found.unread:
            raise ValueError(found.unread[0])
        return found.rows

    def page(
        self,
        *,
        after: Key | None = None,
        limit: int = 100,
        seconds: float = math.inf,
        text: str | None = None,
        **wanted: Any,
    ) -> Found:
        """Some of what ``episodes`` finds, from behind a key on; what is broken is passed over.

        seconds: so long texts are looked through, and then it is told what has been found.
        """
        rows, last, unread = [], None, {}
        end = math.inf if text is None else time.monotonic() + seconds
        for row in self._rows(unread, after or START, **wanted):
            if len(rows) == limit or (last and time.monotonic() > end):
                return Found(rows, last, list(unread))
            last = row.key
            if text is None or self._says(row, text, unread):
                rows.append(row)
        return Found(rows, None, list(unread))

    def read(
        self, step: int, task_id: str, episode: int, group: int | None = None
    ) -> EpisodeRecord:
        """One episode; raises ValueError where it is not there, or broken.

        group: where a task has several groups in a step (or in its evaluation), which of them;
        without it, the first.
        """
        wanted = {"step": step, "task_id": task_id, "episode": episode, "group": group}
        unread = {}
        for row in self._rows(unread, START, **wanted):
            return self._read(row)
        none = f"{self.folder} has no episode {episode} of {task_id} in step {step}"
        raise ValueError(next(iter(unread), none))

    def read_step(self, step: int, *, held_out: bool = False) -> Iterator[EpisodeRecord]:
        """All episodes of a step, group after group."""
        return map(self._read, self.episodes(step=step, held_out=held_out, limit=sys.maxsize))

    def decode(self, ids: Ids) -> list[str]:
        """The text of each token; where several make up one character, the first has it."""
        return self._texts.of(ids)

    def text(self, ids: Ids) -> str:
        """What these ids say together, special tokens included."""
        return self._texts.whole(ids)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.folder / "tokenizer")

    def _rows(
        self,
        unread: Unread,
        after: Key,
        *,
        step: int | None = None,
        held_out: bool | None = None,
        **filters: Any,
    ) -> Iterator[EpisodeRow]:
        """What passes the filters behind a key."""
        for files in recorded(self._records):
            if step not in (None, files.step) or held_out not in (None, files.held_out):
                continue
            try:
                stored = read_rows(files["episodes"], **filters) if files.step >= after[0] else []
                rows = map(EpisodeRow.of, stored)
                yield from (row for row in rows if row.key > after)
            except ValueError as error:
                unread[str(error)] = None

    def _read(self, row: EpisodeRow) -> EpisodeRecord:
        tokens = StepFiles(row.step, row.held_out, self._records)["tokens"]
        try:
            return record_of(row, read_block(tokens, row.block))
        except ValueError as error:
            raise ValueError(f"step {row.step}, task {row.task_id}: {error}") from error

    def _says(self, row: EpisodeRow, text: str, unread: Unread) -> bool:
        """Whether one of an episode's conversations does, in upper or lower case."""
        whole = self._texts.whole
        try:
            episode = self._read(row)
        except ValueError as error:
            unread[str(error)] = None
            return False
        # What another conversation begins with is in that one.
        inner = set(episode.parent.tolist())
        ends = [call for call in episode.calls if len(call.path) and call.leaf not in inner]
        said = "\n".join(whole(episode.ids[call.path]) for call in ends)
        return text.casefold() in said.casefold()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} is not the folder of a run: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("config", {}), dict):
        raise ValueError(f"{folder} is not the folder of a run: {path} holds no settings")
    return config
