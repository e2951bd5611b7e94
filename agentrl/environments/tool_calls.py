"""Calls of tools: as JSON that any server can read, and drawn by a tool's schema."""

import json
from random import Random
from typing import Any


def to_json(value: Any) -> str:
    """Raises ValueError, in a sentence, for what some parsers refuse: NaN, half a character."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"That is no valid JSON: {error}") from error
    return text


def drawn_call(tool: dict[str, Any], rng: Random) -> dict[str, Any]:
    """A call of a tool in OpenAI's form, of those that its schema allows: name and arguments."""
    function = tool["function"]
    schema = function.get("parameters") or {}
    return {"name": function["name"], "arguments": _object(schema, schema, rng)}


def _value(schema: dict[str, Any], root: dict[str, Any], rng: Random) -> Any:
    """
    >>> _value({"type": "array", "items": {"enum": ["a"]}, "minItems": 2}, {}, Random(0))
    ['a', 'a']
    """
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _value(rng.choice(schema[several]), root, rng)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type", "string")
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10) - 1)
    drawn = {
        "object": lambda: _object(schema, root, rng),
        "array": lambda: [
            _value(schema.get("items", {}), root, rng) for _ in range(schema.get("minItems", 1))
        ],
        "integer": lambda: rng.randint(low, high),
        "number": lambda: round(rng.uniform(low, high), 2),
        "boolean": lambda: rng.random() < 0.5,
        "null": lambda: None,
        "string": lambda: rng.choice("abcdefgh"),
    }
    return drawn[kind]()


def _object(schema: dict[str, Any], root: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Of what it need not have, a half."""
    wanted, parts = schema.get("required", ()), schema.get("properties", {})
    drawn = [name for name in parts if name in wanted or rng.random() < 0.5]
    return {name: _value(parts[name], root, rng) for name in drawn}
