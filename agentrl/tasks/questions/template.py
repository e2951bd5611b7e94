"""Teacher that needs no model: tables, definitions, values in listings, gaps in sentences."""

import re
from collections.abc import Iterator
from random import Random

from agentrl.tasks.questions.passages import BLOCK, BY_LINES, TABLE, plain
from agentrl.types import Task

FORMS = {
    "cell": """In the table under "{1}" of {0}: what is the "{3}" of {2}?
What does the table "{1}" in {0} give for {2} as "{3}"?""",
    "row": """Which "{3}" stands in the table under "{1}" of {0} beside the "{4}" "{2}"?
In the table "{1}" of {0}, one row has as its "{4}" "{2}". What is its "{3}"?""",
    "definition": """What does {0} describe under "{1}" with these words: "{2}"?
Of what is this said in {0}, "{1}": "{2}"?""",
    "value": """To what does a listing under "{1}" of {0} set `{2}`?
Which value does `{2}` have in a listing of {0}, "{1}"?""",
    "gap": """What is missing at ____ in this sentence of {0}, "{1}"? {2}
A sentence under "{1}" of {0} has a gap, written ____. What belongs there? {2}""",
}
_DEFINED = re.compile(r"(?:[-*+] )?(`[^`]+`|\*\*[^*]+\*\*)(?:\s*:\s+| [-\u2013\u2014] )(.+)", re.S)
_VALUE = re.compile(
    r"(?<![\w.-])(?:(--[\w.-]+)[ =]([\w./:][\w./:-]*)|([A-Za-z_][\w.]*)(?:: ?[\w\[\], |.]+?)? ?= ?"
    r"(\"[^\"\n]+\"|-?\d[\w.-]*|True|False|None|true|false))(?=[\s,)]|$)"
)
_GAP = re.compile(
    r"`(?P<code>[^`]+)`|(?<=[a-z,] )[A-Z][a-z][\w-]+(?: [A-Z][a-z][\w-]+)*"
    r"|(?<![\w.,/:+-])\d[\d.,]*(?<![.,])(?![\w/:-]|[.,]\d)"
)
"""A name, written as code or with a capital, or a number."""
_LETTER = re.compile(r"[^\W\d_]")
_LISTED = re.compile(r"([`\d],?|[a-z,] [A-Z]\w+)( and| or| to)? ____|____,? (and |or )?[`\dA-Z]")
_WHOLE_SENTENCE = re.compile(
    r"(?!(?:Its?|The(?:y|ir|se|n|re)|Th(?:is|at|ose)|S?[Hh]e|Such|So|Both|But|And|Or|Otherwise|Here"
    r"|Neither|Another|Others?|The (?:same|others?|first|second|former|latter))\b)[A-Z`].*\."
)


def ask(passage: Task) -> list[Task]:
    """All that can be asked; of what has two answers, both. In an order of chance."""
    found = []
    for kind, answer, *about in about_passage(passage["passage"]):
        fills = [passage["document"], passage["heading"], *about]
        question = Random(str(fills)).choice(FORMS[kind].splitlines()).format(*fills)
        found.append({"question": question, "answer": answer, "kind": kind, **passage})
    return Random(passage["passage"]).sample(found, len(found))


def about_passage(passage: str) -> Iterator[tuple[str, ...]]:
    """The kind of a question, its answer, and what its form is filled with."""
    for block in BLOCK.findall(passage):
        if TABLE.match(block):
            yield from of_table(block)
        elif block.startswith(("```", "    ", "\t")):
            for flag, given, name, value in _VALUE.findall(block):
                yield "value", (given or value).strip('"'), flag or name
        else:
            for match in filter(None, map(_DEFINED.fullmatch, re.split(r"\n(?=[-*+] )", block))):
                yield "definition", plain(match[1]), plain(match[2], "`")
            if not BY_LINES.match(block):
                yield from of_sentences(plain(block, "`"))


def of_table(table: str) -> Iterator[tuple[str, ...]]:
    """Of each row: its short cells, by the first one; and that one, by those that are long."""
    rows = [[*map(str.strip, re.split(r"(?<!\\)\|", line)[1:-1])] for line in table.split("\n")]
    for row in rows[2:]:
        for name, cell in zip(rows[0][1:], row[1:]) if len(row) == len(rows[0]) and row[0] else ():
            if cell and len(cell.split()) <= 4 and all(map(_LETTER.search, (name, row[0]))):
                yield "cell", plain(cell), plain(row[0], "`"), plain(name)
            elif name and rows[0][0] and len(re.findall(r"[^\W\d_]{2,}", cell)) >= 4:
                yield "row", plain(row[0]), plain(cell, "`"), plain(rows[0][0]), plain(name)


def of_sentences(text: str) -> Iterator[tuple[str, ...]]:
    """A gap in each."""
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`\"(])", text):
        is_whole = _WHOLE_SENTENCE.fullmatch(sentence) and 8 <= len(sentence.split()) <= 45
        found = [*_GAP.finditer(sentence)] if is_whole else []
        rests = [f"{sentence[: m.start()]}____{sentence[m.end() :]}" for m in found]
        gaps = [(m["code"] or m[0], r) for m, r in zip(found, rests) if not _LISTED.search(r)]
        yield from [("gap", *Random(sentence).choice(gaps))] if gaps else []
