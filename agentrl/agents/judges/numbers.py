r"""Ready-made judging of answers: find the number, compare by value.

The answer of a response is its last ``\boxed{...}``. It is read as a person would, as one exact
fraction, so 0.1 + 0.2 is 0.3 and 1/3 is not 0.333. What is not one number is left to ``symbolic``.
All of it takes time in proportion to the text: no regular expression here repeats a repeat, or is
searched for by what may be long.
"""

import math
import re
import unicodedata
from fractions import Fraction

from agentrl.agents.judges import symbolic

LONGEST = 2000
"""Characters of an answer; what is longer is none."""

_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\?[{}]")
_PLAIN = [
    # \frac{1}{2}, \dfrac12 and the mixed 1\frac{1}{2}.
    (r"\\[cdt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))", r" \1\2/\3\4 "),
    (r"\\(?:approx|simeq|sim|cong|doteq)(?![a-z])|[≈\u223c≃≅:]", "="),
    (r"\\[,;:>\s\\]|\^[\s{]*\\circ|\\(?:q?quad|thinspace|circ|degree)(?![a-z])|[~°]", " "),
    # How it looks: \text{ dollars} is a unit, \text{18} is not.
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:(?:text|math)[a-z]*|[mf]?box(?:ed)?)(?![a-z])", ""),
    (r"\\(?:bf|rm|boldsymbol|underline|displaystyle|[lL]arge|huge)(?![a-z])", ""),
    (r"\\(?:left|right|pounds|euro|yen)(?![a-z])|\\[!$%()[\]]|[{}$£€¥₹¢%]", ""),
    (r"[\u2212\u2013\ufe63\uff0d]|^\s*(?:minus|negative)\s", "-"),
    # Within a unit: km/h, m^2, man-hours, N·m, /hour.
    (r"(?<=[A-Za-z.])\s?(?:[-/·⋅]|\\cdot)\s?(?=[A-Za-z])|(?<=\d)[-/](?=[A-Za-z][A-Za-z])", " "),
    (r"(?<=[A-Za-z])(?:\^\s?-?\d(?!\d)|[²³])", ""),
]
_LATEX = [(re.compile(pattern), plain) for pattern, plain in _PLAIN]
_PARTS = {
    ord(c): f" {unicodedata.normalize('NFKC', c)} ".replace("\u2044", "/") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅛"
}
_NAME = re.compile(r"[A-Za-z][\w ()']*|")
_BEFORE = re.compile(
    r"(?i:about|approx|approximately|around|roughly|USD?|EUR|GBP|CNY|RMB|INR|Rs)(?![A-Za-z])\.? ?"
)
_DIGITS = r"(?:(?:\d{1,3}(?:[, '\u2019]\d\d\d)+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d\d?(?!\d))?"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?) ?(?:(?P<whole>\d+) (?:and )?(?=\d+ ?/))?"
    rf"(?P<top>{_DIGITS})(?: ?/ ?(?P<bottom>{_DIGITS}))?"
)
_NO_EXPRESSION = re.compile(r"\d\s+\d|\d_|^\D*$")
"""What is several numbers, or none: math-verify adds 17 1, and drops what is below."""
_UNIT_BEGINS = re.compile(r"$|[ .]|[A-Za-z][A-Za-z]|[^\x00-\x7f]")
_NO_UNIT = re.compile("half|quarter|squared|cubed|plus|minus|[π十百千万亿]")
_MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}


def last_boxed(text: str) -> str | None:
    r"""What the last complete ``\boxed{...}`` holds.

    >>> last_boxed(r"so \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    opened, last = [], (0, 0)
    for brace in _BRACE.finditer(text):
        if brace[0] == "{" or brace[0][1:2].isalpha():
            # Where a box begins; 0 for another brace. Matches would keep the collector busy.
            opened.append(0 if brace[0] == "{" else brace.end())
        elif brace[0] == "}" and opened and (start := opened.pop()):
            last = max(last, (start, brace.start()))
    return text[slice(*last)] if last[1] else None


def number(text: str) -> Fraction | None:
    r"""The one number that a person would read in a short answer, or None.

    Currency, percent signs, thousands separators and a unit are decoration: GSM8K states a
    percentage as its number.

    >>> [str(number(s)) for s in ("1,000", "$18.50", r"50\%", r"\frac{3}{4}", "3 or 4", "two")]
    ['1000', '37/2', '50', '3/4', 'None', 'None']
    """
    text = text.strip()
    if len(text) > LONGEST:
        return None
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = " ".join(text.translate(_PARTS).split()).rstrip(" .,=")
    *names, text = (part.strip() for part in text.split("="))
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    answer = _NUMBER.match(text, found.end() if (found := _BEFORE.match(text)) else 0)
    if answer is None or not all(map(_NAME.fullmatch, names)):
        return None
    multiple = _multiple(text[answer.end() :])
    return None if multiple is None else _value(answer, multiple)


def _value(answer: re.Match, multiple: int) -> Fraction | None:
    whole, top, bottom = (
        Fraction(re.sub(r"[, '\u2019]", "", answer[name] or default))
        for name, default in (("whole", "0"), ("top", ""), ("bottom", "1"))
    )
    sign = -1 if answer["sign"] == "-" else 1
    return sign * multiple * (whole + top / bottom) if bottom else None


def _multiple(unit: str) -> int | None:
    """What a unit's words multiply by; None where they are no unit.

    >>> [_multiple(unit) for unit in ("", "km", " dozen eggs", "x", " or 19", "!")]
    [1, 1, 12, None, None, None]
    """
    words = unit.lower().replace(".", " ").split()
    if not (_UNIT_BEGINS.match(unit) and all(map(str.isalpha, words))) or _NO_UNIT.search(unit):
        return None
    return math.prod(_MULTIPLES.get(word, 1) for word in words)


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
    if boxed is None:
        return False
    value, gold = number(boxed), gold_number(answer)
    if value is None and len(boxed) < LONGEST and not _NO_EXPRESSION.search(boxed):
        return symbolic.is_equal(boxed, str(gold))
    return value == gold
