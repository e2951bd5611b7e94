"""Algorithms by name, by file, and combined."""

import textwrap

import pytest

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm

HEADER = """
from dataclasses import dataclass
from typing import ClassVar
from agentrl.algorithms import GRPO, Losses
"""
FILES = {
    "centred": """
        @dataclass(frozen=True, kw_only=True)
        class Centred(GRPO):
            shift: float = 0.5
            def advantages(self, groups):
                return [self.shift]
        algorithm = Centred()
    """,
    "gentle": """
        @dataclass(frozen=True, kw_only=True)
        class Gentle(GRPO):
            clip_high: float = 0.3
            every_call: ClassVar[bool] = True
            separable: ClassVar[bool] = False
            def loss(self, terms):
                return "gentle"
        algorithm = Gentle()
    """,
    "rough": """
        @dataclass(frozen=True, kw_only=True)
        class Rough(GRPO):
            clip_high: float = 0.9
        algorithm = Rough()
    """,
    "shifted": """
        class Shifted(GRPO):
            def advantages(self, groups):
                return []
        algorithm = Shifted()
    """,
    "taught": """
        class Taught(GRPO):
            reference = "teacher"
        algorithm = Taught()
    """,
    "anchored": """
        class Anchored(GRPO):
            reference = True
        algorithm = Anchored()
    """,
    "gentler": """
        class Gentler(GRPO):
            def advantages(self, groups):
                return [1.0]
            def loss(self, terms):
                return "gentler than " + super().loss(terms)
        algorithm = Gentler()
    """,
    "doubled": """
        class Doubled(GRPO):
            def advantages(self, groups):
                return super().advantages(groups) * 2
            def loss(self, terms):
                return "own"
        algorithm = Doubled()
    """,
    "wrong": "algorithm = 3",
}


@pytest.fixture
def path(tmp_path):
    def write(name: str) -> str:
        (tmp_path / f"{name}.py").write_text(HEADER + textwrap.dedent(FILES[name]))
        return str(tmp_path / f"{name}.py")

    return write


def test_by_name_and_by_file(path):
    assert "grpo" in algorithm_names()
    assert load_algorithm("grpo") == GRPO()
    centred = load_algorithm(path("centred"))
    assert (centred.name, centred.shift, centred.advantages([])) == ("Centred", 0.5, [0.5])


def test_two_bring_what_is_theirs(path):
    both = load_algorithm(f"{path('centred')}+{path('gentle')}")
    assert both.name == "Centred+Gentle"
    assert (both.shift, both.clip_high, both.clip_low) == (0.5, 0.3, 0.2)
    assert (both.advantages([]), both.loss(None)) == ([0.5], "gentle")
    assert (both.every_call, both.separable, both.scores) == (True, False, False)
    # The order is of no consequence.
    other = load_algorithm(f"{path('gentle')}+{path('centred')}")
    assert (other.shift, other.clip_high, other.loss(None)) == (0.5, 0.3, "gentle")


def test_what_calls_super_goes_around_the_other(path):
    """Whichever is named first, and however many there are."""
    for names in (["gentler", "gentle"], ["gentle", "gentler"]):
        both = load_algorithm("+".join(map(path, names)))
        assert both.loss(None) == "gentler than gentle"
        assert both.advantages([]) == [1.0]
    twice = load_algorithm("+".join(map(path, ["doubled", "centred"])))
    assert (twice.advantages([]), twice.loss(None)) == ([0.5, 0.5], "own")


def test_the_reference_of_one_is_that_of_both(path):
    assert load_algorithm(f"{path('centred')}+{path('taught')}").reference == "teacher"
    assert load_algorithm(f"{path('anchored')}+{path('centred')}").reference is True
    assert load_algorithm(f"{path('centred')}+{path('gentle')}").reference is False


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["centred", "shifted"], "Centred and Shifted both have their own advantages: choose one"),
        (["gentle", "rough"], "Gentle sets clip_high to 0.3 and Rough to 0.9: choose one"),
        (["taught", "anchored"], "Taught and Anchored have references of their own: choose one"),
        # Each would have to go around the other.
        (["gentler", "doubled"], "Gentler and Doubled both have their own advantages: choose one"),
        (["wrong"], "wrong.py defines no `algorithm` that is an agentrl.algorithms.GRPO"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(path, names, sentence):
    with pytest.raises(ValueError, match="algorithm|choose") as refused:
        load_algorithm("+".join(map(path, names)))
    assert sentence in str(refused.value)


def test_an_unknown_name_is_a_sentence():
    with pytest.raises(ValueError, match="there is no algorithm 'gpro': choose one of .*grpo"):
        load_algorithm("gpro")
