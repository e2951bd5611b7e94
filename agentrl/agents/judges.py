r"""Ready-made judging of answers: find the number, compare by value.

The answer of a response is its last ``\boxed{...}``. It is compared as an exact fraction, so 0.1 +
0.2 is 0.3 and 1/3 is not 0.333. No symbolic mathematics: what is not one number is not an answer.
"""

import re
from fractions import Fraction

# \text{ dollars} is a unit, \text{18} is not.
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|boxed)\s*\{([^{}]*)\}")
# \frac{1}{2}, \dfrac12 and the mixed 1\frac{1}{2}.
_FRACTION = re.compile(r"(\d*)\s*\\[dt]?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))")
_MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_NOISE = re.compile(r"\\[,;:! ]|\\left|\\right|[{}$£€]|\\\$|\\?%")
_ANSWER = re.compile(
    r"(?:[A-Za-z]\w*\s*=)?\s*"
    r"(?P<number>[-+]?\s*(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:/\d+)?)"
    r"(?P<unit>(?:\s*[A-Za-z][A-Za-z]+|\s+[A-Za-z])*)\s*\.?\s*"
)


def last_boxed(text: str) -> str | None:
    r"""What the last complete ``\boxed{...}`` holds.

    >>> last_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    start = text.rfind(r"\boxed{")
    while start >= 0:
        depth = 0
        for end in range(start + len(r"\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[start + len(r"\boxed{") : end]
        start = text.rfind(r"\boxed{", 0, start)
    return None


def number(text: str) -> Fraction | None:
    r"""The one number that a person would read in a short answer, or None.

    Currency, percent signs, thousands separators and a unit are decoration: GSM8K states a
    percentage as its number.

    >>> [str(number(s)) for s in ("1,000", "$18.50", r"50\%", r"\frac{3}{4}", "3 or 4", "two")]
    ['1000', '37/2', '50', '3/4', 'None', 'None']
    """
    bare = _FRACTION.sub(_improper, _TEXT.sub(r"\1", text))
    answer = _ANSWER.fullmatch(_NOISE.sub("", bare).strip())
    if answer is None:
        return None
    try:
        value = Fraction(re.sub(r"[,\s]", "", answer["number"]))
    except (ValueError, ZeroDivisionError):
        return None
    for word in answer["unit"].lower().split():
        value *= _MULTIPLES.get(word, 1)
    return value


def _improper(fraction: re.Match) -> str:
    whole, *parts = fraction.groups()
    numerator, denominator = (int(part) for part in parts if part is not None)
    return f"{int(whole or 0) * denominator + numerator}/{denominator}"


def gold_number(answer: str) -> Fraction:
    """The number after ``####`` in a GSM8K answer. Raises ValueError where there is none."""
    _, marker, tail = answer.rpartition("####")
    value = number(tail) if marker else None
    if value is None:
        raise ValueError(f"no number after #### in the answer {answer[-60:]!r}")
    return value


def boxed_equals(response: str | None, answer: str) -> bool:
    r"""Whether the response's last ``\boxed{...}`` is the number after ``####`` in the answer.

    >>> boxed_equals(r"That makes \boxed{1{,}000.0} dollars.", "... #### 1,000")
    True
    """
    boxed = last_boxed(response or "")
    return boxed is not None and number(boxed) == gold_number(answer)
