"""Algorithms by name: a module of this room, a file, or several of them combined with ``+``."""

from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path

from agentrl.algorithms.grpo import GRPO
from agentrl.callables import load_module

ROOM = Path(__file__).parent


def algorithm_names() -> list[str]:
    """The modules here that define an ``algorithm``."""
    defines = "\nalgorithm = "
    return sorted(p.stem for p in ROOM.glob("*.py") if defines in p.read_text(encoding="utf-8"))


def load_algorithm(names: str) -> GRPO:
    """The algorithm that ``NAME``, ``path.py`` or ``a+b`` names.

    Raises ValueError, in a sentence, where there is none, or two do not go together.
    """
    return reduce(_combined, map(_load, names.split("+")))


def _load(name: str) -> GRPO:
    if not name.endswith(".py") and name not in algorithm_names():
        raise ValueError(
            f"there is no algorithm {name!r}: choose one of {', '.join(algorithm_names())}, or "
            "give the path of a .py file"
        )
    module = load_module(name if name.endswith(".py") else f"agentrl.algorithms.{name}")
    found = getattr(module, "algorithm", None)
    if not isinstance(found, GRPO):
        raise ValueError(
            f"{name} defines no `algorithm` that is an agentrl.algorithms.GRPO or derives from it"
        )
    return found


def _combined(a: GRPO, b: GRPO) -> GRPO:
    """A dataclass of both: each brings the methods and numbers in which it differs from GRPO."""
    if methods := sorted(_overridden(a) & _overridden(b)):
        raise ValueError(f"{a.name} and {b.name} both have their own {methods[0]}: choose one")
    values = {}
    for one in (a, b):
        for name, value in _differing(one).items():
            if values.setdefault(name, value) != value:
                raise ValueError(
                    f"{a.name} sets {name} to {values[name]} and {b.name} to {value}: choose one"
                )
    if a.reference and b.reference and a.reference != b.reference:
        raise ValueError(f"{a.name} and {b.name} have references of their own: choose one")
    traits = {
        "reference": a.reference or b.reference,
        "scores": a.scores or b.scores,
        "every_call": a.every_call or b.every_call,
        "separable": a.separable and b.separable,
        "collect": a.collect or b.collect,
    }
    if a.collect and b.collect and a.collect != b.collect:
        raise ValueError(f"{a.name} and {b.name} collect episodes in ways of their own: choose one")
    bases = tuple(kind for kind in (type(a), type(b)) if kind is not GRPO) or (GRPO,)
    both = type(f"{a.name}+{b.name}", tuple(dict.fromkeys(bases)), traits)
    return dataclass(frozen=True, kw_only=True)(both)(**values)


def _overridden(algorithm: GRPO) -> set[str]:
    """The methods in which an algorithm differs from GRPO."""
    own = [vars(kind) for kind in type(algorithm).__mro__[: -len(GRPO.__mro__)]]
    names = {name for body in own for name, value in body.items() if callable(value)}
    return {name for name in names if not name.startswith("__")}


def _differing(algorithm: GRPO) -> dict[str, object]:
    """Its numbers, less those that are GRPO's."""
    of_grpo = {field.name: field.default for field in fields(GRPO)}
    return {
        field.name: getattr(algorithm, field.name)
        for field in fields(algorithm)
        if field.name not in of_grpo or getattr(algorithm, field.name) != of_grpo[field.name]
    }
