"""What current clients send beside what the APIs once had: taken, ignored, or refused by name."""

import asyncio
import json
import logging
import re

import anthropic
import pytest
from anthropic import beta_tool
from anthropic.types import MessageTokensCount

from agentrl.serving.dialects import messages as messages_dialect
from tests.support.families import QWEN3, QWEN25
from tests.support.spy import Scripted

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
CLAUDE_TOOL = {"name": "add", "description": "Adds.", "input_schema": PARAMETERS}
ASK = [{"role": "user", "content": "2+3?"}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 5}}\n</tool_call>'
IMAGE = {"type": "base64", "media_type": "image/png", "data": "AA=="}
PICTURE = {"url": "data:image/png;base64,AA=="}


@pytest.fixture
def qwen():
    return Scripted(QWEN25)


@pytest.fixture
def claude():
    """An episode, and Anthropic's client of it, over HTTP."""
    episode = Scripted(QWEN25)
    yield (
        episode,
        anthropic.Anthropic(
            api_key=episode.client.api_key,
            base_url=episode.client.environment["ANTHROPIC_BASE_URL"],
            max_retries=0,
            _strict_response_validation=True,
        ),
    )
    episode.client.close()
    episode.serving.server.close()


def prompt_of(episode, number: int = -1) -> str:
    return episode.tokenizer.decode(episode.calls[number].prompt_ids)


def prompt_with(route: str, body: dict) -> str:
    """The prompt that a request comes to."""
    episode = Scripted(QWEN25)
    episode.says("five")
    status, answer = episode.post(route, body)
    assert status == 200, answer
    return prompt_of(episode)


# Fields that change nothing, and those that would.

CHAT = ("chat/completions", {"messages": ASK})
RESPONSES = ("responses", {"input": ASK})
MESSAGES = ("messages", {"max_tokens": 9, "messages": ASK})
COMPLETIONS = ("completions", {"prompt": "Once"})


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (MESSAGES, {"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}),
        (MESSAGES, {"speed": "fast", "inference_geo": "eu", "diagnostics": {}, "fallbacks": []}),
        (MESSAGES, {"mcp_servers": [], "container": None, "thread": None}),
        (CHAT, {"prompt_cache_retention": "24h", "prediction": {"type": "content"}}),
        (CHAT, {"modalities": ["text"], "add_generation_prompt": True, "priority": 1}),
        (CHAT, {"ignore_eos": False, "continue_final_message": False, "cache_salt": "a"}),
        (RESPONSES, {"truncation": "disabled", "background": False, "max_tool_calls": 3}),
        (COMPLETIONS, {"echo": False, "best_of": 1, "min_tokens": 0}),
    ],
)
def test_a_field_that_changes_nothing_is_ignored(request_, field):
    route, body = request_
    assert prompt_with(route, body | field) == prompt_with(route, body)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (MESSAGES, {"mcp_servers": [{"type": "url"}]}),
        (MESSAGES, {"compaction": {"type": "summarize"}}),
        (MESSAGES, {"prefill": "Sure"}),
        (CHAT, {"modalities": ["text", "audio"]}),
        (CHAT, {"ignore_eos": True}),
        (CHAT, {"web_search_options": {}}),
        (CHAT, {"functions": [FUNCTION]}),
        (RESPONSES, {"truncation": "auto"}),
        (RESPONSES, {"conversation": "conv_1"}),
        (COMPLETIONS, {"echo": True}),
        (COMPLETIONS, {"suffix": "end"}),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(qwen, request_, field):
    route, body = request_
    status, answer = qwen.post(route, body | field)
    (name,) = field
    assert (status, answer["error"]["message"]) == (400, f"{name} is not supported here")
    assert qwen.calls == ()


# What clients put beside a tool.


@pytest.mark.parametrize(
    ("route", "tool"),
    [
        ("chat/completions", {**TOOL, "strict": True}),
        ("chat/completions", {**TOOL, "cache_control": {"type": "ephemeral"}}),
        ("chat/completions", {"id": "tool-1", **TOOL}),
        ("chat/completions", {**TOOL, "function": {**FUNCTION, "strict": True}}),
        ("responses", {"type": "function", **FUNCTION, "strict": True}),
        ("messages", {**CLAUDE_TOOL, "type": "custom", "strict": True}),
        ("messages", {**CLAUDE_TOOL, "cache_control": {"type": "ephemeral"}}),
        ("messages", {**CLAUDE_TOOL, "eager_input_streaming": True, "input_examples": []}),
    ],
)
def test_what_stands_beside_a_tool_is_no_part_of_the_prompt(route, tool):
    asked = {"chat/completions": CHAT, "responses": RESPONSES, "messages": MESSAGES}[route][1]
    plain = prompt_with("chat/completions", CHAT[1] | {"tools": [TOOL]})
    assert prompt_with(route, asked | {"tools": [tool]}) == plain
    assert json.dumps(TOOL) in plain


# Ids of tokens.


def test_the_ids_of_tokens_are_given_where_asked_for(qwen):
    for _ in range(2):
        qwen.says("five")
    status, answer = qwen.post("chat/completions", CHAT[1] | {"return_token_ids": True, "n": 2})
    assert status == 200
    assert answer["prompt_token_ids"] == qwen.calls[0].prompt_ids
    assert [c["token_ids"] for c in answer["choices"]] == [c.completion_ids for c in qwen.calls]
    qwen.says("six")
    _, answer = qwen.post("completions", COMPLETIONS[1] | {"return_token_ids": True})
    assert answer["prompt_token_ids"] == qwen.calls[2].prompt_ids
    assert answer["choices"][0]["token_ids"] == qwen.calls[2].completion_ids
    qwen.says("six")
    _, answer = qwen.post(*CHAT)
    assert "prompt_token_ids" not in answer
    assert "token_ids" not in answer["choices"][0]


@pytest.mark.parametrize("said", ["five", "", CALL])
def test_the_ids_of_tokens_come_once_in_a_stream(qwen, said):
    async def chunks():
        return [chunk.model_dump() async for chunk in await create()]

    def create():
        return qwen.client.openai.chat.completions.create(
            model="m",
            messages=ASK,
            tools=[TOOL],
            stream=True,
            extra_body={"return_token_ids": True},
        )

    qwen.says(said)
    found = asyncio.run(chunks())
    ids = [i for c in found for choice in c["choices"] for i in choice.get("token_ids") or ()]
    assert ids == qwen.calls[0].completion_ids
    assert found[0]["prompt_token_ids"] == qwen.calls[0].prompt_ids


# Anthropic's API as Claude Code and its own tool runner use it.

BILLED = "x-anthropic-billing-header: cc_version=2.1.{n}; cc_entrypoint=cli; cch=a{n}f;"


@pytest.mark.parametrize(
    "system",
    [
        [{"type": "text", "text": BILLED}, {"type": "text", "text": "Be brief."}],
        [{"type": "text", "text": BILLED + "\n"}, {"type": "text", "text": "Be brief."}],
        BILLED + "\nBe brief.",
        # No system field: the first message is the system's.
        [],
    ],
    ids=["blocks", "a line's end", "text", "message"],
)
def test_the_line_for_the_bill_is_no_part_of_the_prompt(qwen, caplog, system):
    messages_dialect._tell_of_billing.cache_clear()
    said = list(ASK)
    if not system:
        said.insert(0, {"role": "system", "content": BILLED + "\nBe brief."})
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            qwen.says("five")
            body = json.dumps({"max_tokens": 9, "system": system, "messages": said})
            status, answer = qwen.post("messages", body.replace("{n}", str(number)).encode())
            assert status == 200, answer
            said += [{"role": "assistant", "content": answer["content"]}, *ASK]
    assert prompt_of(qwen, 0) == prompt_with(*CHAT[:1], {"messages": [SYSTEM, *ASK]})
    for earlier, later in zip(qwen.calls, qwen.calls[1:]):
        assert later.prompt_ids[: len(earlier.ids)] == earlier.ids
    assert [r.getMessage() for r in caplog.records if "billing" in r.getMessage()] == [
        "the agent's x-anthropic-billing-header is no part of the prompt (said once)"
    ]


SYSTEM = {"role": "system", "content": "Be brief."}


def test_words_of_a_user_that_look_like_the_line_stay():
    said = [{"role": "user", "content": BILLED}]
    assert "cch=" in prompt_with("messages", {"max_tokens": 9, "messages": said})


@pytest.mark.parametrize(
    ("system", "first", "rendered"),
    [
        ("", "Be brief.", "Be brief."),
        ("You add.", [{"type": "text", "text": "Be brief."}], "You add.\n\nBe brief."),
    ],
)
def test_a_first_message_of_the_systems(system, first, rendered):
    body = {"max_tokens": 9, "messages": [{"role": "system", "content": first}, *ASK]}
    plain = prompt_with("chat/completions", {"messages": [{**SYSTEM, "content": rendered}, *ASK]})
    assert prompt_with("messages", body | {"system": system}) == plain


def test_a_later_message_of_the_systems_stays_where_it_is():
    said = [*ASK, SYSTEM, *ASK]
    body = {"max_tokens": 9, "messages": said}
    assert prompt_with("messages", body) == prompt_with("chat/completions", {"messages": said})


def test_tokens_are_counted(claude):
    episode, client = claude
    asked = {"model": "m", "messages": ASK, "system": "Add.", "tools": [CLAUDE_TOOL]}
    counted = client.messages.count_tokens(**asked)
    assert isinstance(counted, MessageTokensCount)
    assert episode.calls == ()
    episode.says("five")
    answer = client.messages.create(**asked, max_tokens=9)
    assert counted.input_tokens == answer.usage.input_tokens == len(episode.calls[0].prompt_ids)
    # A conversation's next prompt goes on from exact ids, and is as long as that.
    more = [*ASK, {"role": "assistant", "content": answer.content}, *ASK]
    counted = client.beta.messages.count_tokens(**asked | {"messages": more})
    episode.says("six")
    answer = client.messages.create(**asked | {"messages": more}, max_tokens=9)
    assert counted.input_tokens == answer.usage.input_tokens == len(episode.calls[1].prompt_ids)
    with pytest.raises(anthropic.BadRequestError, match="messages: List should have at least 1"):
        client.messages.count_tokens(model="m", messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="no").messages.count_tokens(**asked)


@beta_tool
def add(a: int) -> str:
    """Adds."""
    return str(a + 1)


def test_anthropics_tool_runner_in_a_thread(claude):
    """Its later requests have the new messages alone; tools and system's are the first's."""
    episode, client = claude
    for said in (CALL, CALL, "seven"):
        episode.says(said)
    asked = {"model": "m", "max_tokens": 99, "system": "Add.", "tools": [add]}
    last = client.beta.messages.tool_runner(**asked, messages=ASK).until_done()
    assert last.content[0].text == "seven"
    first, second, third = episode.calls
    assert second.prompt_ids[: len(first.ids)] == first.ids
    assert third.prompt_ids[: len(second.ids)] == second.ids
    roles = ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert [m["role"] for m in third.messages] == roles
    assert [m["content"] for m in third.messages if m["role"] == "tool"] == ["6", "6"]
    assert third.tools == first.tools
    # The control: all of it in each request comes to the same prompts.
    for said in (CALL, CALL, "seven"):
        episode.says(said)
    client.beta.messages.tool_runner(**asked, messages=ASK, thread=False).until_done()
    prompts = [call.prompt_ids for call in episode.calls]
    assert prompts[3:] == prompts[:3]


def test_a_thread_that_this_episode_does_not_have_is_begun_again(claude):
    """The client sends the whole conversation when it is told so."""
    episode, client = claude
    episode.says("five")
    thread = client.beta.messages.thread(model="m", max_tokens=9, messages=ASK)
    thread.send()
    for recording in (episode.client._recording,):
        recording.conversations.clear()
    episode.says("six")
    thread.send(*ASK)
    assert [m["content"] for m in episode.calls[1].messages] == ["2+3?", "five", "2+3?"]


def test_a_thread_forks_from_any_of_its_messages(qwen):
    def send(thread: dict, content: str, said: str) -> str:
        qwen.says(said)
        asked = {"max_tokens": 9, "messages": [{"role": "user", "content": content}]}
        status, answer = qwen.post("messages", asked | {"thread": thread})
        assert status == 200, answer
        return answer["id"]

    first = send({"type": "create"}, "a", "one")
    for content in ("b", "c"):
        send({"type": "continue", "previous_message_id": first}, content, "two")
    assert [[m["content"] for m in call.messages] for call in qwen.calls] == [
        ["a"],
        ["a", "one", "b"],
        ["a", "one", "c"],
    ]
    status, answer = qwen.post(
        "messages",
        MESSAGES[1] | {"thread": {"type": "continue", "previous_message_id": "msg_x"}},
    )
    assert (status, answer["error"]["details"]) == (404, {"error_code": "thread_not_found"})
    status, answer = qwen.post("messages", MESSAGES[1] | {"thread": {"type": "fork"}})
    assert "thread.type: Input should be 'create' or 'continue'" in answer["error"]["message"]


# OpenAI's responses as Vercel's SDK goes on from them.


def test_an_items_id_stands_for_the_item():
    """Of a message, of a call and of reasoning; the prompt is that of the items as they came."""
    episode = Scripted(QWEN3)
    asked = {"tools": [{"type": "function", **FUNCTION}]}
    episode.says(f"<think>\nhm\n</think>\n\nSo:\n{CALL}")
    _, answer = episode.post("responses", asked | {"input": "2+3?"})
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message", "function_call"]
    call = answer["output"][2]["call_id"]
    result = {"type": "function_call_output", "call_id": call, "output": "5"}
    named = [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]
    for items in (answer["output"], named):
        episode.says("<think>\n\n</think>\n\nfive")
        status, after = episode.post("responses", asked | {"input": [*ASK, *items, result]})
        assert status == 200, after
    first, whole, by_ids = episode.calls
    assert by_ids.prompt_ids == whole.prompt_ids
    assert by_ids.prompt_ids[: len(first.ids)] == first.ids
    assert by_ids.messages == whole.messages


def test_an_item_that_this_episode_does_not_have_is_named(qwen):
    for name in ("msg_x", "fc", ""):
        asked = {"input": [*ASK, {"type": "item_reference", "id": name}]}
        status, answer = qwen.post("responses", asked)
        assert (status, answer["error"]["message"]) == (404, f"this episode has no item {name}")
    assert qwen.calls == ()


# Errors name what is wrong, where it is, and what is taken.


@pytest.mark.parametrize(
    ("route", "body", "sentence"),
    [
        (
            "chat/completions",
            {"messages": [*ASK, {"role": "user", "content": [
                {"type": "text", "text": "?"}, {"type": "image_url", "image_url": PICTURE}]}]},
            "messages.1.content.1.type: Input should be 'text', not 'image_url'",
        ),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type: Input should be 'input_text', .*, not 'input_image'",
        ),
        (
            "responses",
            {"input": [*ASK, {"type": "computer_call", "id": "x"}]},
            "input.1: .*'computer_call' .*expected tags: 'function_call', .*'message'",
        ),
        (
            "messages",
            {"max_tokens": 9, "messages": [{"role": "user", "content": [
                {"type": "image", "source": IMAGE}]}]},
            "messages.0.content.0: .*'image' .*expected tags: 'text', 'tool_use', 'tool_result'",
        ),
        (
            "messages",
            {"max_tokens": 9, "messages": [{"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "x", "content": [
                    {"type": "text", "text": "?"}, {"type": "image", "source": IMAGE}]}]}]},
            "messages.0.content.0.content.1.type: Input should be 'text', not 'image'",
        ),
        (
            "messages",
            {"max_tokens": 9, "messages": ASK, "tools": [{"type": "web_search_20250305",
                                                         "name": "web_search"}]},
            "tools.0.type: Input should be 'custom', not 'web_search_20250305'",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tools": [TOOL], "tool_choice": "any"},
            "tool_choice: Input should be 'auto', 'none' or 'required', or: Input should be a val"
            "id dictionary, not 'any'",
        ),
        (
            "responses",
            {"input": ASK, "tools": [{"type": "function", **FUNCTION}], "tool_choice": "any"},
            "tool_choice: Input should be 'auto', 'none' or 'required', or: .*, not 'any'",
        ),
        (
            "messages",
            {"max_tokens": 9, "messages": ASK, "tools": [CLAUDE_TOOL],
             "tool_choice": {"type": "required"}},
            "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none', not 'required'",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "function", "content": "5"}]},
            "messages.0.role: Input should be 'system', .* or 'tool', not 'function'",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "assistant", "content": None,
                           "tool_calls": [{"id": "a", "function": {"name": "add"}}]}]},
            "messages.0.tool_calls.0.function.arguments: Field required",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": {"text": "?"}}]},
            "messages.0.content: Input should be a valid string, or: .* valid list",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tools": [{"type": "custom", "custom": {"name": "x"}}]},
            "tools.0.type: Input should be 'function', not 'custom'",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tools": [TOOL],
             "tool_choice": {"type": "function", "name": "add"}},
            "tool_choice.function: Field required",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tools": [TOOL], "tool_choice": {"type": "any"}},
            "tool_choice.type: Input should be 'function', not 'any'",
        ),
        (
            "responses",
            {"input": ASK, "tools": [{"type": "web_search"}]},
            "tools.0.type: Input should be 'function', not 'web_search'",
        ),
        (
            "responses",
            {"input": ASK, "tools": [{"type": "function", **FUNCTION}],
             "tool_choice": {"type": "function"}},
            "tool_choice.name: Field required",
        ),
        (
            "chat/completions",
            {"messages": ASK, "tools": [TOOL],
             "tool_choice": {"type": "function", "function": {"name": "look_up"}}},
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
        ),
        (
            "chat/completions",
            {"messages": ASK, "response_format": {"type": "xml"}},
            "response_format.*type: Input should be 'text', .*, not 'xml'",
        ),
        (
            "chat/completions",
            {"messages": ASK, "stop": ["a", ""]},
            "stop.1: String should have at least 1 character",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(qwen, route, body, sentence):
    status, answer = qwen.post(route, body)
    assert status == 400
    assert re.match(sentence, answer["error"]["message"]), answer["error"]["message"]
    assert qwen.calls == ()
