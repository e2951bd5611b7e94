"""Query of a world's name: what stands after the question mark."""

import json
from typing import Any
from urllib.parse import parse_qsl


def parsed(what: str) -> tuple[str, dict[str, Any]]:
    """The name, and its options; values that are JSON are read as such.

    >>> parsed("FrozenLake-v1?is_slippery=false&map_name=8x8&size=3")
    ('FrozenLake-v1', {'is_slippery': False, 'map_name': '8x8', 'size': 3})
    """
    name, _, query = what.partition("?")
    return name, {key: _value(value) for key, value in parse_qsl(query)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
