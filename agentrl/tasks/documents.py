"""Questions about documents: ``documents:FOLDER?teacher=template&size=800``."""

import fcntl
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console
from rich.progress import track

from agentrl.config import DataConfig
from agentrl.environments.query import parsed
from agentrl.environments.requirement import required
from agentrl.tasks.hf import cut
from agentrl.tasks.jsonl import content_id, with_id
from agentrl.tasks.questions import filters, template
from agentrl.tasks.questions.passages import passages_of
from agentrl.tasks.questions.teacher import Teacher, reached
from agentrl.types import Task

PLAIN, CONVERTED = (".md", ".txt"), (".html", ".htm", ".pdf", ".docx")
DEFAULTS: dict[str, Any] = {
    **{"teacher": "template", "model": "", "size": 800, "questions": 3, "wordings": 1},
    "policy": "",
}
screen, log = Console(stderr=True), logging.getLogger(__name__)
progress = partial(track, console=screen, transient=True, disable=not screen.is_terminal)


def load(what: str, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks, of different passages. Raises ValueError, in a sentence."""
    name, given = parsed(what)
    root, options = Path(name).resolve(), DEFAULTS | given
    if not fit(options):
        raise ValueError(
            f"{what} is not among {DEFAULTS}: give counts, and teacher=template, a URL with "
            "model=NAME, or a model: a folder, a run's checkpoint, a hub name"
        )
    files = documents_of(root)
    code = [Path(__file__), *sorted(Path(template.__file__).parent.glob("*.py"))]
    held = [(str(f), hashlib.sha256(f.read_bytes()).hexdigest()) for f in [*code, *files]]
    cache = platformdirs.user_cache_path("agentrl") / "documents"
    cache.mkdir(parents=True, exist_ok=True)
    # Ranks wait for the first: a teacher may say another thing the next time.
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = kept(cache, [held, options], partial(make, root, files, options, cache))
    log.info("%s", made["report"])
    return made["train"], made["held_out"]


def fit(options: dict[str, Any]) -> bool:
    """Whether all are known, of their types, and go together."""
    if [*map(type, options.values())] != [*map(type, DEFAULTS.values())]:
        return False
    teacher, model, *counts, _ = options.values()
    can_reword = teacher != "template" or counts[2] == 1
    return min(counts) > 0 and teacher.startswith("http") == bool(model) and can_reword


def documents_of(root: Path) -> list[Path]:
    """The document, or those in the folder that are not hidden."""
    found = [f for f in [root, *root.rglob("*")] if "/." not in f"{f.relative_to(root.parent)}"]
    return [f for f in sorted(found) if f.suffix.lower() in PLAIN + CONVERTED and f.is_file()]


def kept(folder: Path, of: list, make: Callable[[], Any]) -> Any:
    """What was made of this before, else now; a file of JSON, and never half of one."""
    file = folder / f"{content_id({'of': of})}.json"
    if not file.exists():
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(make(), indent=1), encoding="utf-8")
        unfinished.rename(file)
    return json.loads(file.read_text(encoding="utf-8"))


def make(folder: Path, files: list[Path], options: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Tasks, and the report."""
    failures: Counter[str] = Counter()
    teacher, model, size, most, wordings, policy = options.values()
    passages = read(folder, files, size, failures)
    asked, keep = map(template.ask, passages), partial(kept, cache)
    stays: dict[str, Callable] = {
        "too short or too long": filters.are_of_length,
        "answer not in the passage, or in the question, or one of two": filters.are_answerable,
        "asked before": partial(filters.are_unlike, similar=1.0),
        "near duplicate": partial(filters.are_unlike, similar=0.8),
        "enough of a passage": partial(filters.are_few, most=most * wordings),
    }
    with reached(teacher, model) as at:
        if at is not None:
            asks = Teacher(at, options, failures, keep)
            asked = asks.each(asks.ask, passages, [])
            stays["another answer, by the passage alone"] = partial(
                asks.each, asks.finds, failed=False
            )
        tasks = [task for some in progress(asked, "asking", len(passages)) for task in some]
        report = [f"{folder}: {len(files)} files, {len(passages)} passages, {len(tasks)} questions"]
        tasks = sift(tasks, stays, report)
    # One engine at a time: the teacher's has ended.
    with reached(policy, "") as at:
        if at is not None:
            tries = Teacher(at, options, failures, keep)
            wavers = partial(tries.each, tries.wavers, failed=False)
            tasks = sift(tasks, {"never right, or always": wavers}, report)
    report += [f"  failed {count} times: {cause}" for cause, count in failures.items()]
    report = "\n".join([*report, f"  {len(tasks)} tasks, kept in {cache}"])
    if not tasks:
        raise ValueError(f"no task: give more of {', '.join(PLAIN + CONVERTED)}\n{report}")
    train, held_out = cut([*map(with_id, tasks)], str(folder), by="passage")
    return {"report": report, "train": train, "held_out": held_out}


def sift(tasks: list[Task], stays: dict[str, Callable], report: list[str]) -> list[Task]:
    """What every filter leaves; the report gets a line of each, and two of what it dropped."""
    for name, keeps in stays.items():
        verdicts = [*zip(tasks, progress(keeps(tasks), name, len(tasks)), strict=True)]
        dropped = [f"    {t['question']} -> {t['answer']}" for t, stay in verdicts if not stay]
        report += [f"  {name}: {len(dropped)} of {len(tasks)} dropped", *dropped[:2]]
        tasks = [task for task, stay in verdicts if stay]
    return tasks


def read(folder: Path, files: list[Path], size: int, failures: Counter[str]) -> list[Task]:
    """Passages, each text once."""
    passages = {}
    if any(file.suffix.lower() in CONVERTED for file in files):
        convert = required("markitdown", '"markitdown[pdf,docx]==0.1.9"').MarkItDown().convert
    for file in progress(files, "reading"):
        is_plain, name = file.suffix.lower() in PLAIN, str(file.relative_to(folder.parent))
        try:
            text = file.read_text(encoding="utf-8-sig") if is_plain else convert(file).markdown
            passages |= {found["passage"]: found for found in passages_of(name, text, size)}
        # What reads a broken file raises what it likes.
        except Exception as error:
            failures[f"{name}: {error}".splitlines()[0][:200]] += 1
    return [*passages.values()]
