"""Text that is no UTF-8 and numbers that are no JSON: from the model, and from clients."""

import asyncio
import json
import re

import pytest

from tests.support.families import QWEN3, QWEN25
from tests.support.spy import Scripted

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "add", "parameters": PARAMETERS}
ASK = [{"role": "user", "content": "2+3?"}]
BODIES = {
    "chat/completions": {"messages": ASK, "tools": [{"type": "function", "function": FUNCTION}]},
    "responses": {"input": "2+3?", "tools": [{"type": "function", **FUNCTION}]},
    "messages": {
        "max_tokens": 99,
        "messages": ASK,
        "tools": [{"name": "add", "input_schema": PARAMETERS}],
    },
}


def calls_in(route: str, answer: dict) -> list[tuple[str, dict]]:
    """Name and arguments of each call of an answer."""
    if route == "chat/completions":
        calls = [call["function"] for call in answer["choices"][0]["message"].get("tool_calls", ())]
    elif route == "responses":
        calls = [item for item in answer["output"] if item["type"] == "function_call"]
    else:
        return [(b["name"], b["input"]) for b in answer["content"] if b["type"] == "tool_use"]
    return [(call["name"], json.loads(call["arguments"])) for call in calls]


def answered(family, route: str, arguments: str, **options) -> list[tuple[str, dict]]:
    """What the agent gets of a call that the model wrote with these arguments; the record is
    looked at, and so is whether the answer can be sent back."""
    episode = Scripted(family)
    text = f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>'
    episode.says(text)
    status, answer = episode.post(route, BODIES[route] | options)
    assert status == 200, answer
    (call,) = episode.calls
    assert call.text == text + "<|im_end|>"
    assert call.completion_ids == [*episode.encode(text), episode.tokenizer.eos_token_id]
    if route == "chat/completions":
        episode.says("five")
        reply = answer["choices"][0]["message"]
        tool = {"role": "tool", "tool_call_id": "x", "content": "5"}
        episode.ask([*ASK, reply, tool], tools=BODIES[route]["tools"])
        assert episode.calls[1].prompt_ids[: len(call.ids)] == call.ids
    return calls_in(route, answer)


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (r'{"a": "\ud83d"}', {"a": "�"}),
        (r'{"a": "x\ude00y"}', {"a": "x�y"}),
        (r'{"\ud83d": 1}', {"�": 1}),
        (r'{"a": ["\ude00\ud83d"]}', {"a": ["��"]}),
        # A whole pair, and a zero: they are text.
        (r'{"a": "\ud83d\ude00"}', {"a": "😀"}),
        (r'{"a": "\u0000"}', {"a": "\0"}),
    ],
)
def test_half_a_pair_in_a_call_is_answered(route, arguments, given):
    assert answered(QWEN25, route, arguments) == [("add", given)]


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": NaN}',
        '{"a": 1e400}',
        '{"a": [-Infinity]}',
        '"{\\"a\\": NaN}"',
        f'{{"a": {"9" * 5000}}}',
        # Deeper than a request may be: it could not be sent back.
        f'{{"a": {"[" * 300}{"]" * 300}}}',
        f'{{"a": {"[" * 5000}{"]" * 5000}}}',
    ],
    ids=lambda arguments: arguments[:20],
)
def test_a_call_with_numbers_that_are_no_json_is_text(route, arguments):
    assert answered(QWEN3, route, arguments) == []


def test_streamed_arguments_are_the_same():
    episode = Scripted(QWEN25)
    episode.says('<tool_call>\n{"name": "a\\ud83d", "arguments": {"a": "\\ud83d"}}\n</tool_call>')
    model = episode.client.openai.chat.completions

    async def stream():
        chunks = await model.create(model="m", stream=True, **BODIES["chat/completions"])
        return [c.choices[0].delta.tool_calls[0].function async for c in chunks if calls(c)]

    def calls(chunk):
        return chunk.choices[0].delta.tool_calls

    said = asyncio.run(stream())
    assert ("".join(f.name or "" for f in said), "".join(f.arguments for f in said)) == (
        *("a�", '{"a": "�"}'),
    )


@pytest.mark.parametrize(
    "content",
    [
        rb'"\ud83d!"',
        rb'"\\\ude00!"',
        # As some write it who hold half a pair: three bytes, which are no UTF-8.
        b'"\xed\xa0\xbd!"',
        rb'[{"type": "text", "text": "\ud83d!"}]',
    ],
)
@pytest.mark.parametrize("route", ["chat/completions", "messages", "responses"])
def test_a_client_that_sends_half_a_pair_is_answered(route, content):
    episode = Scripted(QWEN25)
    episode.says("five")
    name = b"input" if route == "responses" else b"messages"
    if content.startswith(b"[") and route == "responses":
        content = content.replace(b'"text",', b'"input_text",')
    raw = b'{"max_tokens": 9, "%s": [{"role": "user", "content": %s}]}' % (name, content)
    if route == "responses":
        raw = raw.replace(b'"max_tokens"', b'"max_output_tokens"')
    status, answer = episode.post(route, raw)
    assert status == 200, answer
    said = "\\�!" if content.startswith(rb'"\\') else "�!"
    assert [m["content"] for m in episode.calls[0].messages] == [said]
    assert f"user\n{said}<|im_end|>" in episode.tokenizer.decode(episode.calls[0].prompt_ids)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "the body is no JSON: .*utf-8"),
        (b'{"messages": [], "temperature": NaN}', "the body is no JSON: .*not JSON compliant"),
        (b'{"messages": [], "tools": [{"a": -Infinity}]}', "the body is no JSON: .*not JSON compl"),
        (b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}", "the body is no JSON: .*recursion"),
        (b'{"messages": 1e', "the body is no JSON: "),
        (b"", "the body is no JSON: "),
    ],
    ids=lambda value: str(value[:30]),
)
def test_a_body_that_is_no_json_is_refused_as_that(raw, sentence):
    episode = Scripted(QWEN25)
    status, answer = episode.post("chat/completions", raw)
    assert (status, episode.calls) == (400, ())
    assert re.match(sentence, answer["error"]["message"]), answer


def test_no_answer_holds_a_number_that_is_none():
    """A tool's schema comes back with a response; 1e400 is JSON, and no number of ours."""
    episode = Scripted(QWEN25)
    episode.says("five")
    tool = b'{"type": "function", "name": "f", "parameters": {"maximum": 1e400}}'
    status, answer = episode.post("responses", b'{"input": "?", "tools": [%s]}' % tool)
    assert status == 200, answer
    assert answer["tools"][0]["parameters"] == {"maximum": None}
