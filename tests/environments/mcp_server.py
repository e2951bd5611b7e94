"""An MCP server written by hand, for tests: it starts at once, and misbehaves as it is told."""

import json
import os
import sys
import time
from pathlib import Path

TOOLS = [
    {
        "name": "add",
        "description": "Adds two numbers.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "maximum": 3}},
            "required": ["a", "b"],
        },
    },
    {"name": "see", "inputSchema": {"type": "object", "properties": {}}},
]


def reply(number: int, **rest) -> None:
    print(json.dumps({"jsonrpc": "2.0", "id": number, **rest}), flush=True)


def called(name: str, arguments: object) -> dict:
    if not isinstance(arguments, dict):
        return {"error": {"code": -32602, "message": "arguments have to be an object"}}
    if name == "see":
        return {"result": {"content": [{"type": "image"}, {"type": "text", "text": "a box"}]}}
    try:
        text, is_error = f"{arguments['a'] + arguments['b']}", False
    except (KeyError, TypeError) as error:
        text, is_error = f"{type(error).__name__}: {error}", True
    return {"result": {"content": [{"type": "text", "text": text}], "isError": is_error}}


def main(way: str, file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    for line in sys.stdin:
        asked = json.loads(line)
        number, params = asked.get("id"), asked.get("params", {})
        if way == "hangs" and asked["method"] == "tools/call":
            time.sleep(1000)
        if way == "dies" and asked["method"] == "tools/call":
            sys.exit("the disk is full")
        if way == "floods":
            print("x" * 1_000_000, file=sys.stderr)
            print("a line that is none of the protocol", "[]", "3", sep="\n")
        if asked["method"] == "initialize":
            # It asks first whether its client is there.
            reply(77, method="ping")
            assert json.loads(sys.stdin.readline()) == {"jsonrpc": "2.0", "id": 77, "result": {}}
            reply(number, result={"protocolVersion": params["protocolVersion"]})
        elif asked["method"] == "tools/list":
            page = 1 if "cursor" in params else 0
            more = {} if page else {"nextCursor": "1"}
            reply(number, result={"tools": [TOOLS[page]], **more})
        elif asked["method"] == "tools/call":
            reply(number, **called(params["name"], params["arguments"]))
    if way == "stays":
        time.sleep(1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
