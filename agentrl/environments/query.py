"""Query of a world's name: what stands after the question mark."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from agentrl.types import parsed_arguments


def with_options(make: Callable, what: str) -> partial:
    """Give a class what its name says: all of it to a single parameter, else options by keyword."""
    if len(inspect.signature(make).parameters) == 1:
        return partial(make, what)
    name, options = parsed(what)
    return partial(make, name, **options)


def parsed(what: str) -> tuple[str, dict[str, Any]]:
    """The name, and its options; values that are JSON are read as such.

    >>> parsed("FrozenLake-v1?is_slippery=false&map_name=8x8&size=3")
    ('FrozenLake-v1', {'is_slippery': False, 'map_name': '8x8', 'size': 3})
    """
    name, _, query = what.partition("?")
    return name, {key: parsed_arguments(value) for key, value in parse_qsl(query)}
