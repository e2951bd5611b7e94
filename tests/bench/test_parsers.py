"""What reads a model's text: in time proportional to it, and whatever the text is."""

import random

import pytest

from agentrl.serving import output_parser
from bench import parsers
from tests.support.families import FAMILIES, QWEN3

MARKS = [mark for f in FAMILIES for mark in (*f.markup, *f.special_tokens)]
BITS = [*parsers.PARTS, *MARKS, "\ud83d", "\0", "\u2028", "<tool", "_call>", "NaN", "1e999", "}}"]


@pytest.fixture(scope="module")
def found():
    return parsers.parsers()


NAMES = ["last_boxed", "boxed_equals", "is_exact", "f1", "last_object", "penalties"]
NAMES += ["parsed_arguments", "message_key", "printable"]
NAMES += [f"{kind}, {family.name}" for kind in ("reply", "template") for family in FAMILIES]


def test_all_are_tried(found):
    assert [*found] == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_twice_the_text_takes_no_more_than_twice_as_long(found, name):
    times, seconds, part = parsers.worst(found[name])
    assert times <= 2.6, (times, seconds, part)


def test_a_quadratic_one_would_be_noticed(monkeypatch):
    def quadratic(text: str) -> object:
        return sum(len(text[i:]) for i in range(0, len(text), 100))

    monkeypatch.setattr(parsers, "PARTS", ("a",))
    assert parsers.worst(quadratic, size=200_000, rounds=2)[0] > 2.6


def random_text(rng: random.Random) -> str:
    return "".join(
        rng.choice(BITS) * rng.choice([1, 1, 1, 2, 40]) for _ in range(rng.randint(1, 30))
    )


@pytest.mark.parametrize("part", [1, 3, 20])
def test_a_reply_in_parts_is_the_reply(monkeypatch, part):
    """vLLM's parsers are fed a long text in parts: the same comes of it."""
    parse, rng = parsers.reply_parser(QWEN3), random.Random(part)
    replies = [random_text(rng) for _ in range(30)]
    whole = [parse(text) for text in replies]
    monkeypatch.setattr(output_parser, "PART", part)
    assert [parse(text) for text in replies] == whole
    assert any("tool_calls" in message for message in whole)
