"""Tools and their calls in OpenAI's form: those that a model makes, and those that are drawn."""

import json
from contextlib import suppress
from random import Random
from typing import Any

from agentrl.environments.protocol import ToolCall
from agentrl.types import Message, parsed_arguments


def as_tool(name: str, parameters: dict[str, Any], description: str | None) -> dict[str, Any]:
    function = {"name": name, "description": description or "", "parameters": parameters}
    return {"type": "function", "function": function}


def as_message(action: str | dict[str, Any], number: int = 0) -> Message:
    """What a model says, in its form: a text, or the call of a tool, by name and arguments."""
    if isinstance(action, str):
        return {"role": "assistant", "content": action}
    call = {"id": f"call{number:05}", "type": "function", "function": action}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def as_call(function: dict[str, Any]) -> ToolCall:
    """A model's call as an action: its arguments are a text, if they are no JSON that any server
    reads, such as NaN and half a character.

    >>> as_call({"name": "add", "arguments": '{"a": NaN}'}).arguments
    '{"a": NaN}'
    """
    name, arguments = function["name"].encode(errors="replace").decode(), function["arguments"]
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            parsed = parsed_arguments(arguments)
            json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
            arguments = parsed
    return ToolCall(name=name, arguments=arguments)


def drawn_call(tool: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Name and arguments of a call, of those that a tool's schema allows."""
    function = tool["function"]
    schema = function.get("parameters") or {}
    return {"name": function["name"], "arguments": _object(schema, schema, rng)}


def _value(schema: dict[str, Any], root: dict[str, Any], rng: Random) -> Any:
    """
    >>> _value({"type": "array", "items": {"type": ["null"]}, "minItems": 2}, {}, Random(0))
    [None, None]
    """
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _value(rng.choice(schema[several]), root, rng)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type", "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
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
