"""Algorithms by name: a module of this room, a file, or several of them combined with ``+``."""

from dataclasses import dataclass, fields
from functools import reduce
from inspect import isfunction, unwrap
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


def describe(algorithm: GRPO) -> str:
    """In a line, what it switches on: the numbers in which it differs from GRPO, and its seam."""
    unread = algorithm.ignored()
    on = {**_differing(algorithm), "collect": algorithm.collect}
    said = [f"{n} {v}" for n, v in on.items() if v is not None and n not in unread]
    return ", ".join([algorithm.name, *said])


def _combined(a: GRPO, b: GRPO) -> GRPO:
    """A dataclass of both: each brings the methods and numbers in which it differs from GRPO.

    A method that calls ``super()`` goes around the other's, and does not compete with it.
    """
    competing = _replaced(a) & _replaced(b)
    a_first, b_first = _methods(a, True) & _replaced(b), _methods(b, True) & _replaced(a)
    if methods := sorted(competing or (a_first and b_first)):
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
    if a.collect and b.collect and a.collect != b.collect:
        raise ValueError(f"{a.name} and {b.name} collect episodes in ways of their own: choose one")
    kinds = (type(b), type(a)) if b_first else (type(a), type(b))
    bases = tuple(dict.fromkeys(kind for kind in kinds if kind is not GRPO)) or (GRPO,)
    # Its defaults, too: what was not given is not refused.
    both = type(f"{a.name}+{b.name}", bases, values)
    return dataclass(frozen=True, kw_only=True)(both)(**values)


def _methods(algorithm: GRPO, calls_super: bool) -> set[str]:
    """The methods in which it differs from GRPO, and which call ``super()``, or do not."""
    own = [vars(kind) for kind in type(algorithm).__mro__[: -len(GRPO.__mro__)]]
    methods = {(name, unwrap(m)) for body in own for name, m in body.items() if isfunction(m)}
    return {
        name
        for name, method in methods
        if not name.startswith("__") and ("__class__" in method.__code__.co_freevars) == calls_super
    }


def _replaced(algorithm: GRPO) -> set[str]:
    """Its own methods; an aggregation of its own weighs, too."""
    weighs = {"weigh"} if algorithm.aggregation != "token" else set()
    return _methods(algorithm, False) | weighs


def _differing(algorithm: GRPO) -> dict[str, object]:
    """Its numbers, less those that are GRPO's."""
    own, base = vars(algorithm), vars(GRPO())
    names = [field.name for field in fields(algorithm)]
    return {name: own[name] for name in names if name not in base or own[name] != base[name]}
