"""Templates and models unlike Qwen: what was asked is in the prompt or refused; turns continue."""

import dataclasses
import json
import logging
from datetime import date

import pytest
import transformers.utils.chat_template_utils as templates

from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.protocol import Request, RequestRefused
from tests.support.families import DEEPSEEK_R1, GEMMA, LLAMA3, QWEN3, QWEN25, tokenizer
from tests.support.spy import Scripted

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
ASK = {"role": "user", "content": "2+3?"}
SYSTEM = {"role": "system", "content": "Be brief."}
MORE = {"role": "user", "content": "And now?"}


def calling(arguments, content="") -> dict:
    call = {"id": "x", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


RESULT = {"role": "tool", "tool_call_id": "x", "content": "5"}


def family_with(template: str, family=QWEN25, **fields):
    """A family whose template is this one."""
    return dataclasses.replace(family, template=template, **fields)


def turn(content: str, extra: str = "") -> str:
    """A template of turns like Qwen's, with this for a message's content."""
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        + content
        + extra
        + "<|im_end|>\n{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


STRING = "{{ message.content }}"
PARTS = (
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}"
)
CALLS = (
    "{% for call in message.tool_calls or [] %}"
    '{"name": "{{ call.function.name }}", "arguments": ARGUMENTS}{% endfor %}'
)
TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"


def prompt_of(family, *messages, tools=()) -> str:
    """The prompt of a request, as text."""
    template = ChatTemplate(tokenizer(family))
    request = Request(messages=messages, tools=tools)
    return template.decode(template.prompt(request, {}).ids)


def continues(earlier, later) -> bool:
    return later.prompt_ids[: len(earlier.ids)] == earlier.ids


# Contents.


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        # By what a part has, as vision models do.
        "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}",
        # A loop over the letters of a string, each of which is no part.
        "{% for part in message.content %}{{ part.text | default('') }}{% endfor %}",
        # Only the user's are parts.
        "{% if message.role == 'user' %}" + PARTS + "{% else %}" + STRING + "{% endif %}",
        "{{ message.content[0].text }}",
    ],
)
def test_a_template_of_parts_says_what_was_asked(content):
    said = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n"
    assert prompt_of(family_with(turn(content)), SYSTEM, ASK) == f"{said}<|im_start|>assistant\n"


def test_a_conversation_in_parts_continues():
    episode = Scripted(family_with(turn(PARTS)))
    messages = [SYSTEM, ASK]
    for said in ("five", "six", "seven"):
        episode.says(said, ids=[episode.encode(letter)[0] for letter in said])
        messages += [episode.ask(messages), MORE]
    first, second, third = episode.calls
    assert continues(first, second)
    assert continues(second, third)


SILENT = {
    # What is left out of the prompt, and a template that does it.
    "system": turn("{% if message.role != 'system' %}" + STRING + "{% endif %}"),
    "tool": turn(
        "{% if message.role in ('system', 'user', 'assistant') %}" + STRING + "{% endif %}"
    ),
    "assistant": turn("{% if message.role != 'assistant' %}" + STRING + "{% endif %}"),
    "user": turn("{{ message.text }}"),
    "tools": turn(STRING),
    "tool_calls": turn(STRING),
}


@pytest.mark.parametrize("left_out", SILENT)
def test_what_a_template_leaves_out_is_refused_by_name(left_out):
    family = family_with(SILENT[left_out])
    asked = {
        "system": [SYSTEM, ASK],
        "tool": [ASK, calling("{}"), RESULT],
        "assistant": [ASK, {"role": "assistant", "content": "five"}, MORE],
        "user": [ASK],
        "tools": [ASK],
        "tool_calls": [ASK, calling("{}"), RESULT],
    }[left_out]
    tools = (ADD,) if left_out == "tools" else ()
    with pytest.raises(RequestRefused, match=f"leaves this out of .*: .*{left_out}") as no:
        prompt_of(family, *asked, tools=tools)
    assert (no.value.status, no.value.code) == (400, "invalid_messages")


def test_what_is_not_left_out_is_taken():
    """The controls; and a template without tools takes them from who tells of them himself."""
    assert "2+3?" in prompt_of(family_with(SILENT["system"]), ASK)
    assert "2+3?" in prompt_of(family_with(SILENT["system"]), {**SYSTEM, "content": ""}, ASK)
    told = {"role": "system", "content": "You can call add."}
    assert "call add" in prompt_of(family_with(SILENT["tools"]), told, ASK, tools=(ADD,))
    for family in (QWEN25, QWEN3, LLAMA3):
        assert '"add"' in prompt_of(family, SYSTEM, ASK, tools=(ADD,))
    with pytest.raises(RequestRefused, match="tools"):
        prompt_of(GEMMA, ASK, tools=(ADD,))


# A call's arguments.


@pytest.mark.parametrize(
    ("written", "arguments", "expected"),
    [
        # As JSON text, which an object would be written in Python's way.
        ("{{ call.function.arguments }}", '{"a": 1}', '{"a": 1}'),
        ("{{ call.function.arguments }}", {"a": "b"}, '{"a": "b"}'),
        ("{{ call.function.arguments }}", "", "{}"),
        ("{{ call.function.arguments }}", None, "{}"),
        ("{{ '' + call.function.arguments }}", {"a": None}, '{"a": null}'),
        ("{{ call.function.arguments | tojson }}", "", "{}"),
        ("{{ call.function.arguments | tojson }}", {"a": 1}, '{"a": 1}'),
        ("{{ call.function.arguments | tojson }}", ' {"a":1}', '{"a": 1}'),
    ],
)
@pytest.mark.parametrize("route", ["chat/completions", "responses"])
def test_a_calls_arguments_are_json_in_the_prompt(written, arguments, expected, route):
    if route == "responses" and not isinstance(arguments, str):
        arguments = "" if arguments is None else json.dumps(arguments)
    episode = Scripted(family_with(turn(STRING, CALLS.replace("ARGUMENTS", written))))
    episode.says("five")
    body = {"messages": [ASK, calling(arguments), RESULT]}
    if route == "responses":
        call = {"type": "function_call", "call_id": "x", "name": "add", "arguments": arguments}
        output = {"type": "function_call_output", "call_id": "x", "output": "5"}
        body = {"input": [ASK, call, output]}
    status, answer = episode.post(route, body)
    assert status == 200, answer
    prompt = episode.tokenizer.decode(episode.calls[0].prompt_ids)
    assert f'{{"name": "add", "arguments": {expected}}}' in prompt


# End tokens.


def test_a_model_that_ends_with_another_of_its_end_tokens_continues():
    """The template writes one, the model sampled another: what was sampled stays, once."""
    for family, other in ((QWEN25, "<|endoftext|>"), (LLAMA3, "<|eom_id|>")):
        episode = Scripted(family)
        token = episode.tokenizer.convert_tokens_to_ids(other)
        messages = [ASK]
        for said in ("five", "six"):
            ids = [*(episode.encode(letter)[0] for letter in said), token]
            episode.says("", ids=ids, ended=False, finish_reason="stop")
            messages += [episode.ask(messages), MORE]
            assert messages[-2]["content"] == said
        first, second = episode.calls
        assert continues(first, second)
        added = episode.tokenizer.decode(second.prompt_ids[len(first.ids) :])
        assert not added.startswith(family.end_of_turn)
        assert "And now?" in added


def test_a_template_in_which_no_token_ends_a_reply():
    lines = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    episode = Scripted(family_with(lines))
    messages = [ASK]
    for said in ("five", "six", "seven"):
        episode.says(said, ids=[episode.encode(letter)[0] for letter in said])
        messages += [episode.ask(messages), MORE]
    first, second, third = episode.calls
    assert continues(first, second)
    assert continues(second, third)
    added = episode.tokenizer.decode(second.prompt_ids[len(first.ids) :])
    assert added == "\nuser: And now?\nassistant: "


def test_another_end_token_after_a_call():
    episode = Scripted(QWEN25)
    token = episode.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    text = '<tool_call>\n{"name": "add",  "arguments": {}}\n</tool_call>'
    ids = [*episode.encode(text), token]
    episode.says(text, ids=ids, ended=False, finish_reason="stop")
    reply = episode.ask([ASK], tools=[ADD])
    episode.says("done")
    result = {**RESULT, "tool_call_id": reply["tool_calls"][0]["id"]}
    episode.ask([ASK, reply, result], tools=[ADD])
    assert continues(*episode.calls)


def test_an_edited_answer_does_not_continue_for_that():
    episode = Scripted(QWEN25)
    token = episode.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    episode.says("five", ids=[*episode.encode("five"), token], ended=False, finish_reason="stop")
    reply = episode.ask([ASK])
    episode.says("done")
    episode.ask([ASK, {**reply, "content": "six"}, MORE])
    assert not continues(*episode.calls)


# Thinking that is cut, or switched off.


@pytest.mark.parametrize(
    ("family", "options", "text", "ended", "reasoning", "content"),
    [
        (QWEN3, {}, "five", True, "", "five"),
        (QWEN3, {}, "<think>\nhm", False, "hm", ""),
        (QWEN3, {}, "<think>\nhm\n</think>\n\nfi", False, "hm", "fi"),
        (QWEN3, {}, "<thi", False, "", "<thi"),
        (QWEN3, {"chat_template_kwargs": {"enable_thinking": False}}, "five", True, "", "five"),
        (QWEN3, {"chat_template_kwargs": {"enable_thinking": False}}, "fi", False, "", "fi"),
        (QWEN3, {"response_format": {"type": "json_object"}}, '{"a": 1}', True, "", '{"a": 1}'),
        # Its template has begun the thinking.
        (DEEPSEEK_R1, {}, "hm", False, "hm", ""),
        (DEEPSEEK_R1, {}, "hm\n</think>\n\nfive", True, "hm", "five"),
    ],
)
def test_what_was_thought_and_what_was_said(family, options, text, ended, reasoning, content):
    episode = Scripted(family)
    episode.says(text, ended=ended)
    reply = episode.ask([ASK], **options)
    found = (reply.get("reasoning_content") or "").strip(), (reply["content"] or "").strip()
    assert found == (reasoning, content)


def test_a_call_where_thinking_is_off():
    episode = Scripted(QWEN3)
    episode.says('<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>')
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    reply = episode.ask([ASK], tools=[ADD], **off)
    assert [call["function"]["name"] for call in reply["tool_calls"]] == ["add"]
    assert "reasoning_content" not in reply


def test_after_a_tools_result_r1_does_not_think():
    episode = Scripted(DEEPSEEK_R1)
    told = {"role": "system", "content": "You can call add."}
    episode.says("five")
    reply = episode.ask([told, ASK, calling("{}"), RESULT], tools=[ADD])
    assert reply == {"role": "assistant", "content": "five"}


# A date.

DATED = "{{ strftime_now('%d %b %Y') }}\n" + turn(STRING)


def test_a_prompt_does_not_depend_on_the_day(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "agentrl.serving")
    family, prompts = family_with(DATED), []

    class Clock:
        day = date(2026, 3, 1)

        @classmethod
        def now(cls):
            return cls.day

    monkeypatch.setattr(templates, "datetime", Clock)
    episode = Scripted(family)
    messages = [ASK]
    for day in (date(2026, 3, 1), date(2026, 3, 2)):
        Clock.day = day
        episode.says("five")
        messages += [episode.ask(messages), MORE]
        prompts.append(prompt_of(family, ASK))
    assert continues(*episode.calls)
    assert prompts[0] == prompts[1]
    assert prompts[0].startswith("01 Jan 2026\n")
    assert "writes the date, which is always 2026-01-01" in caplog.text


def test_an_agent_may_say_the_day():
    template = "{{ day if day is defined else strftime_now('%d %b %Y') }}\n" + turn(STRING)
    episode = Scripted(family_with(template))
    episode.says("five")
    episode.ask([ASK], chat_template_kwargs={"day": "2 Mar 2026"})
    assert episode.tokenizer.decode(episode.calls[0].prompt_ids).startswith("2 Mar 2026\n")
