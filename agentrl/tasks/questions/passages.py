"""Passages of documents: along headings and paragraphs, of a bounded size."""

import re
from collections.abc import Iterator

from agentrl.types import Task

BLOCK = re.compile(
    r"^ *```(?s:.*?)(?:^ *```\s*?$|\Z)|^#{1,6} .+$|(?:^(?!#{1,6} | *```).*\S.*\n?)+", re.MULTILINE
)
"""A listing, a heading, or what stands between empty lines."""
TABLE = re.compile(r"\|.*\n\|[-:| ]+\n")
BY_LINES = re.compile(r"\s*(?:[|>`]|[-*+] |\d+[.)] )|\t| {4}")
"""How a block begins that is no paragraph: tables, listings, lists, quotations."""
_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|\*\*|\\(?=\|)")


def passages_of(document: str, text: str, size: int) -> Iterator[Task]:
    """What stands under one heading, cut between paragraphs, else sentences or lines."""
    heading, held = "", ""
    for block in [*BLOCK.findall(text), "# "]:
        is_heading = block.startswith("#")
        for part in [""] if is_heading else bounded(block, size):
            if held and (is_heading or len(held) + len(part) > size):
                yield {"document": document, "heading": heading, "passage": held.strip("\n")}
                held = ""
            held += f"{part}\n\n" if part else ""
        heading = plain(block.strip("# ")) if is_heading else heading


def bounded(block: str, size: int) -> list[str]:
    """The block in parts of at most ``size`` characters; each of a table's has its head."""
    head = match[0] if (match := TABLE.match(block)) and len(match[0]) < size / 2 else ""
    end = r"(?<=\n)" if BY_LINES.match(block) else r"(?<=[.!?]\s)"
    upto = f"(?s:.{{1,{size - len(head)}}})"
    return [
        head + p.rstrip() for p in re.findall(rf"{upto}(?:{end}|\Z)|{upto}", block[len(head) :])
    ]


def plain(text: str, code: str = "") -> str:
    """Without emphasis, addresses of links and line breaks; code's quotes are ``code``."""
    return " ".join(_MARKUP.sub(r"\1", text).replace("`", code).split())
