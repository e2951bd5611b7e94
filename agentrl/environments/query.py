"""Query of a world's name: what stands after the question mark."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl


def with_options(make: Callable, what: str) -> partial:
    """Give a class the name and, by keyword, its options; values that are JSON are read as such.

    >>> made = with_options(dict, "FrozenLake-v1?is_slippery=false&map_name=8x8&size=3")
    >>> made.args, made.keywords
    (('FrozenLake-v1',), {'is_slippery': False, 'map_name': '8x8', 'size': 3})
    """
    name, _, query = what.partition("?")
    return partial(make, name, **{key: _value(value) for key, value in parse_qsl(query)})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
