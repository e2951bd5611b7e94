"""Printable text, from what came from elsewhere, such as a model: fit for a terminal."""

import re

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""The text without what a terminal would obey.

    >>> print(printable("a\x1b[2Jb\n"), end="")
    a\x1b[2Jb
    """
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
