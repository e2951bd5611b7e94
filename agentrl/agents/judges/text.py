"""Judges of texts: exact, by a pattern, by fields of a JSON object, by token F1.

They compare the response with the task's ``answer``, or, where that is a list, with the nearest of
several. All but a pattern of one's own, which has a second, take time in proportion to the text.
"""

import json
import re
import string
import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import regex

from agentrl.agents.judges.numbers import LONGEST
from agentrl.types import Task

SECONDS = 1.0
"""Of CPU for a pattern; where it takes more, the text does not match."""
MOST_BROKEN = 1000
"""Beginnings of JSON objects that are none, after which no other is looked for."""

_WIDTHS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x200B: None, 0x3002: "."}
_FOLDS = [
    (r"[\u2010-\u2015\u2212]", "-"),
    (r"[\u2018\u2019`]", "'"),
    (r"^[\s\"'*_(\[]*(?:the|an?)\s+(?=[\"'*_(]*\w\w)", ""),
    (r"(?<=[^\W\d])-(?=[^\W\d])", " "),
    (r"(?<=\d),(?=\d{3}(?!\d))|\.(?!\d)|(?<=[^\W\d])'(?=[^\W\d])|[\"\u201c-\u201f«»]", ""),
    (r"(?<=\d)\.0+(?![\d.])|(?<=\d[,;:])\s+(?=\d)", ""),
    (r"[,;:?](?!\d)|(?<!\d)!", " "),
]
_PATTERNS = [(re.compile(pattern), plain) for pattern, plain in _FOLDS]
_AROUND = string.whitespace + "'*_()[]{}"
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_OBJECT = re.compile(r'\{\s*"')
_decode = json.JSONDecoder().raw_decode


async def exact(task: Task, response: Any) -> float:
    """Whether the response is the answer as a person would read it: see ``is_exact``."""
    return _best(is_exact, task, response)


async def token_f1(task: Task, response: Any) -> float:
    """F1 of the words of response and answer (SQuAD, arXiv 1606.05250, section 6.1)."""
    return _best(f1, task, response)


def matches(pattern: str) -> Callable:
    """A judge: whether the pattern matches; its last match's first group, if it has any, is
    compared with the answer as ``exact`` does."""
    return partial(by_pattern, pattern=regex.compile(pattern))


def json_fields(*names: str) -> Callable:
    """A judge: the share of these fields of the answer, or of all, that are right in the last JSON
    object of the response; its other fields do not matter."""
    return partial(by_fields, names=names)


def _best(compare: Callable[[Any, Any], float], task: Task, response: Any) -> float:
    golds = task["answer"] if isinstance(task["answer"], list) else [task["answer"]]
    return max(float(compare("" if response is None else response, gold)) for gold in golds)


def is_exact(response: Any, answer: Any) -> bool:
    """Whether a person would say that two short answers are the same.

    Alike are upper and lower case, widths, white space, dashes, quotes, hyphens between letters, an
    article in front, brackets and Markdown around, punctuation of sentences, commas of thousands,
    3.0 and 3. Not alike are other signs (-3, C++, 5!), accents, other articles, other words.

    >>> is_exact('The "Eiffel" Tower.', "eiffel tower"), is_exact("-3", "3")
    (True, False)
    """
    response, answer = str(response), str(answer)
    is_short = len(response) <= 2 * len(answer) + LONGEST
    return is_short and _folded(response) == _folded(answer)


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).translate(_WIDTHS).casefold()
    for pattern, plain in _PATTERNS:
        folded = pattern.sub(plain, folded)
    return " ".join(folded.split()).strip(_AROUND) or text.strip()


def f1(response: Any, answer: Any) -> float:
    """
    >>> f1("the cat sat", "A cat sat down."), f1("", "cat")
    (0.8, 0.0)
    """
    plain = (str(text).lower().translate(_NO_PUNCTUATION) for text in (response, answer))
    found, wanted = (Counter(_ARTICLE.sub(" ", text).split()) for text in plain)
    if not (found and wanted):
        return float(found == wanted)
    return 2 * (found & wanted).total() / (found.total() + wanted.total())


async def by_pattern(task: Task, response: Any, *, pattern: regex.Pattern) -> float:
    text, began = "" if response is None else str(response), time.thread_time()
    # Its clock is that of all threads: where others computed meanwhile, it is tried again.
    while time.thread_time() - began < SECONDS:
        with suppress(TimeoutError):
            last = deque(pattern.finditer(text, timeout=SECONDS, concurrent=True), maxlen=1)
            is_compared = last and pattern.groups
            return _best(is_exact, task, last[0][1]) if is_compared else float(len(last))
    return 0.0


async def by_fields(task: Task, response: Any, *, names: tuple[str, ...]) -> float:
    return _best(partial(_share, names), task, response)


def _share(names: tuple[str, ...], response: Any, answer: Any) -> float:
    found, gold = last_object(response) or {}, last_object(answer) or {}
    names = names or (*gold,)
    if not names or {*names} - gold.keys():
        raise ValueError(f"the gold answer {answer!r:.80} has not the fields {', '.join(names)}")
    right = [n in found and is_exact(_json(found[n]), _json(gold[n])) for n in names]
    return sum(right) / len(names)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def last_object(text: Any) -> dict | None:
    """The last JSON object in a text, but an empty one.

    >>> last_object('In {x}: {"a": [1]}, or {"b": 2} {')
    {'b': 2}
    """
    text, found, end, num_broken = _json(text) if isinstance(text, dict) else str(text), None, 0, 0
    # What is broken costs a look at all of the text.
    while num_broken < MOST_BROKEN and (begins := _OBJECT.search(text, end)):
        try:
            found, end = _decode(text, begins.start())
        except json.JSONDecodeError as error:
            end, num_broken = max(begins.start() + 1, error.pos), num_broken + 1
        # Deeper, or with longer numbers, than Python reads.
        except (ValueError, RecursionError):
            break
    return found
