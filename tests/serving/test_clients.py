"""The official clients, in strict validation, over HTTP, on every route, plain and streamed."""

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import anthropic
import openai
import pytest
import requests
from agentscope.message import UserMsg
from langchain_openai import ChatOpenAI
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent
from pydantic import BaseModel

from agentrl.algorithms.advantages import credit, trainable
from agentrl.types import Episode, Group

NODE = Path(__file__).parents[1] / "node"
FUNCTION = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
TOOL = {"type": "function", "function": FUNCTION}
ASK = [{"role": "user", "content": "2+3?"}]
THINKING, TEXT = "<think>\nhm\n</think>\n\n", "Let me see."
CALLS = [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2}}]
SAYS = {
    "text": TEXT,
    "thinking": THINKING + TEXT,
    "calls": "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n" for call in CALLS),
}
SAYS["all"] = THINKING + TEXT + SAYS["calls"]


@pytest.fixture
def client(episode):
    return openai.OpenAI(
        api_key=episode.client.api_key,
        base_url=episode.client.base_url,
        max_retries=0,
        _strict_response_validation=True,
    )


@pytest.fixture
def claude(episode):
    return anthropic.Anthropic(
        api_key=episode.client.api_key,
        base_url=episode.client.environment["ANTHROPIC_BASE_URL"],
        max_retries=0,
        _strict_response_validation=True,
    )


def said_by(episode, kind, **fields):
    episode.says(SAYS[kind], **fields)
    return SAYS[kind]


def parsed(kind) -> tuple[str, str, list[dict]]:
    """Reasoning, content and calls of what is said."""
    return (
        "hm" if kind in ("thinking", "all") else "",
        TEXT if kind != "calls" else "",
        CALLS if kind in ("calls", "all") else [],
    )


def plain(message) -> tuple[str, str, list[dict]]:
    calls = [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in message.tool_calls or ()
    ]
    reasoning = getattr(message, "reasoning_content", None) or ""
    return reasoning.strip(), (message.content or "").strip(), calls


@pytest.mark.parametrize("kind", [kind for kind in SAYS if kind != "text"])
def test_chat_completions(episode, client, kind):
    said_by(episode, kind)
    answer = client.chat.completions.create(model="m", messages=ASK, tools=[TOOL])
    assert plain(answer.choices[0].message) == parsed(kind)
    said_by(episode, kind)
    with client.chat.completions.stream(
        model="m", messages=ASK, tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        streamed = stream.get_final_completion()
    _, content, calls = plain(streamed.choices[0].message)
    assert (content, calls) == parsed(kind)[1:]
    one, two = episode.calls
    assert (
        streamed.usage.completion_tokens
        == len(two.completion_ids)
        == answer.usage.completion_tokens
    )
    assert answer.choices[0].finish_reason == streamed.choices[0].finish_reason
    assert answer.choices[0].finish_reason == ("tool_calls" if calls else "stop")
    assert one.reply | {"tool_calls": None} == two.reply | {"tool_calls": None}


def test_logprobs_of_the_tokens_that_were_drawn(episode, client):
    ids = episode.encode("five")
    top = tuple(((i, -1.0), (i + 1, -2.0)) for i in [*ids, episode.tokenizer.eos_token_id])
    episode.says("five", top=top)
    answer = client.chat.completions.create(
        model="m", messages=ASK, logprobs=True, top_logprobs=2, reasoning_effort="low"
    )
    said = answer.choices[0].logprobs.content
    assert [token.token for token in said][-1] == "<|im_end|>"
    assert [token.logprob for token in said] == [-1.0] * len(episode.calls[0].completion_ids)
    assert [len(token.top_logprobs) for token in said] == [2] * len(said)
    assert episode.engine.samplings[0].top_logprobs == 2


def test_several_choices(episode, client):
    for text in ("one", "two", "three"):
        episode.says(f"{THINKING}{text}")
    answer = client.chat.completions.create(model="m", messages=ASK, n=3)
    assert [choice.message.content.strip() for choice in answer.choices] == ["one", "two", "three"]
    assert len({sampling.seed for sampling in episode.engine.samplings}) == 3
    for text in ("one", "two"):
        episode.says(f"{THINKING}{text}")
    chunks = client.chat.completions.create(model="m", messages=ASK, n=2, stream=True)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert {i: text.strip() for i, text in texts.items()} == {0: "one", 1: "two"}


def test_completions(episode, client):
    episode.says(" upon a time")
    answer = client.completions.create(model="m", prompt="Once", logprobs=1, max_tokens=5)
    assert answer.choices[0].text == " upon a time"
    assert "".join(answer.choices[0].logprobs.tokens) == " upon a time<|im_end|>"
    episode.says(" there was")
    chunks = client.completions.create(
        model="m",
        prompt="Once upon a time",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(chunks)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == " there was"
    first, second = episode.calls
    assert second.prompt_ids == first.ids[:-1]
    assert chunks[-1].usage.prompt_tokens == len(second.prompt_ids)


@pytest.mark.parametrize("kind", [kind for kind in SAYS if kind != "text"])
def test_responses(episode, client, kind):
    tools = [{"type": "function", **FUNCTION}]
    said_by(episode, kind)
    answer = client.responses.create(model="m", input="2+3?", tools=tools, instructions="Add.")
    said_by(episode, kind)
    with client.responses.stream(model="m", input=ASK, tools=tools) as stream:
        events = list(stream)
    for response in (answer, events[-1].response):
        reasoning, content, calls = parsed(kind)
        by_type = {item.type: item for item in response.output}
        assert response.output_text.strip() == content
        assert [
            {"name": item.name, "arguments": json.loads(item.arguments)}
            for item in response.output
            if item.type == "function_call"
        ] == calls
        assert ("reasoning" in by_type) == bool(reasoning)
        assert response.usage.output_tokens == len(episode.calls[0].completion_ids)
    assert isinstance(events[-1], ResponseCompletedEvent)
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(events)))

    # The output goes back as it came, and the conversation continues.
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "3"}
        for item in answer.output
        if item.type == "function_call"
    ]
    episode.says(f"{THINKING}five")
    again = client.responses.create(
        model="m",
        input=[*ASK, *answer.output, *(results or ASK)],
        tools=tools,
        instructions="Add.",
    )
    first, _, later = episode.calls
    assert again.output_text.strip() == "five"
    assert (later.prompt_ids[: len(first.ids)] == first.ids) == bool(results)
    episode.says(f"{THINKING}six")
    by_id = client.responses.create(
        model="m",
        previous_response_id=again.id,
        input="and?",
        tools=tools,
        instructions="Add.",
    )
    assert by_id.output_text.strip() == "six"
    assert [m["role"] for m in episode.calls[-1].messages[-2:]] == ["assistant", "user"]


def test_a_response_cut_by_its_limit_is_incomplete(episode, client):
    episode.says(f"{THINKING}fi", ended=False)
    with client.responses.stream(model="m", input="2+3?", max_output_tokens=1) as stream:
        last = list(stream)[-1]
    assert isinstance(last, ResponseIncompleteEvent)
    assert last.response.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.NotFoundError, match="no response resp_x"):
        client.responses.create(model="m", input="?", previous_response_id="resp_x")


@pytest.mark.parametrize("kind", [kind for kind in SAYS if kind != "text"])
def test_messages(episode, claude, kind):
    tools = [
        {
            "name": "add",
            "description": "Adds.",
            "input_schema": FUNCTION["parameters"],
            "cache_control": {"type": "ephemeral"},
        }
    ]
    asked = {"model": "m", "max_tokens": 99, "messages": ASK, "tools": tools, "system": "Add."}
    said_by(episode, kind)
    answer = claude.messages.create(**asked)
    said_by(episode, kind)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    reasoning, content, calls = parsed(kind)
    for message in (answer, streamed):
        blocks = [block.type for block in message.content]
        expected = ["thinking"] * bool(reasoning) + ["text"] * bool(content)
        assert blocks == expected + ["tool_use"] * len(calls)
        inputs = [block.input for block in message.content if block.type == "tool_use"]
        assert inputs == [call["arguments"] for call in calls]
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        assert message.usage.output_tokens == len(episode.calls[0].completion_ids)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "3"}
        for block in answer.content
        if block.type == "tool_use"
    ]
    if results:
        episode.says(f"{THINKING}five")
        turn = {"role": "assistant", "content": answer.content}
        more = [*ASK, turn, {"role": "user", "content": results}]
        assert (
            claude.messages.create(**asked | {"messages": more}).content[-1].text.strip() == "five"
        )
        first, _, later = episode.calls
        assert later.prompt_ids[: len(first.ids)] == first.ids


def test_the_ways_a_message_of_anthropics_stops(episode, claude):
    episode.says(f"{THINKING}fi", ended=False)
    asked = {"model": "m", "max_tokens": 9, "messages": ASK}
    assert claude.messages.create(**asked).stop_reason == "max_tokens"
    episode.says("five!", ended=False, finish_reason="stop", stop="v", cut_text=f"{THINKING}fi")
    stopped = claude.messages.create(**asked, stop_sequences=["v"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "v")
    with pytest.raises(anthropic.BadRequestError, match=r"messages.0.role"):
        claude.messages.create(**asked | {"messages": [{"role": "tool", "content": "x"}]})
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="no").messages.create(**asked)


def test_models(episode, client, claude):
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.models.retrieve("m").owned_by == "agentrl"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="no").models.list()


def test_in_process_and_over_http_are_the_same(episode, client):
    """But for the clock and the number of the call."""

    def without_numbers(answer) -> dict:
        return answer.model_dump(exclude={"created", "id"})

    asked = {"model": "m", "messages": ASK, "tools": [TOOL]}
    said_by(episode, "thinking")
    over_http = client.chat.completions.create(**asked)
    said_by(episode, "thinking")
    in_process = asyncio.run(episode.client.openai.chat.completions.create(**asked))
    assert without_numbers(over_http) == without_numbers(in_process)

    async def chunks():
        stream = await episode.client.openai.chat.completions.create(**asked, stream=True)
        return [without_numbers(chunk) async for chunk in stream]

    said_by(episode, "thinking")
    stream = client.chat.completions.create(**asked, stream=True)
    streamed = [without_numbers(chunk) for chunk in stream]
    said_by(episode, "thinking")
    assert asyncio.run(chunks()) == streamed


async def listed(model) -> list[str]:
    return [listed.id async for listed in model.openai.models.list()]


def test_models_in_process(episode):
    assert asyncio.run(listed(episode.client)) == ["m"]


def test_langchain_in_an_event_loop_of_each_episode(episode):
    """It keeps one client a base URL for the whole process, bound to the loop of its first call."""
    for number in range(3):
        model, _ = episode.serving.open(step=0, task_id="t", episode=number)
        episode.says(f"{THINKING}five")
        chat = ChatOpenAI(model="m", base_url=model.base_url, api_key=model.api_key, max_retries=0)
        assert asyncio.run(chat.ainvoke("2+3?")).content.strip() == "five"
        assert len(model.calls) == 1
        model.close()


def test_agentscopes_structured_output(episode):
    class Answer(BaseModel):
        number: int

    call = {"name": "generate_structured_output", "arguments": {"number": 5}}
    episode.says(f"{THINKING}<tool_call>\n{json.dumps(call)}\n</tool_call>")
    answer = asyncio.run(
        episode.client.agentscope.generate_structured_output([UserMsg("user", "2+3?")], Answer)
    )
    assert answer.content == {"number": 5}
    (recorded,) = episode.calls
    # The tool was forced: recorded, and not trained.
    assert recorded.under_grammar
    free = dataclasses.replace(recorded, under_grammar=False)
    episode = Episode(task={}, index=0, calls=(recorded, free), reward=1.0)
    trained = trainable(credit([Group({}, (episode,))]), None)
    assert [sample.call for sample in trained] == [free]


def test_errors_have_openais_shape(episode):
    url, headers = f"{episode.client.base_url}/chat/completions", {}
    assert requests.post(url, json={}).status_code == 401
    headers["Authorization"] = f"Bearer {episode.client.api_key}"
    for body, parameter in ((b"{", None), (b"[]", None), (b'{"messages": 3}', "messages")):
        refused = requests.post(url, data=body, headers=headers)
        assert refused.status_code == 400
        assert refused.headers["x-should-retry"] == "false"
        error = refused.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", parameter)
    assert requests.get(url, headers=headers).status_code == 405
    assert requests.post(f"{episode.client.base_url}/embeddings", json={}).status_code == 404


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
def test_the_node_client(episode):
    """openai's Node package: the same routes, plain and streamed."""
    said = [f"{THINKING}five", f"{THINKING}five", SAYS["all"], SAYS["all"]]
    said += [f"{THINKING}six", f"{THINKING}six", "seven", "seven"]
    for text in said:
        episode.says(text)
    environment = episode.client.environment
    printed = subprocess.run(
        ["node", NODE / "client.mjs"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert printed.returncode == 0, printed.stderr
    calls = [["add", {"a": 1}], ["add", {"a": 2}]]
    assert json.loads(printed.stdout) == {
        "chat": ["five", "five"],
        "calls": [calls, calls],
        "responses": ["six", "six"],
        "completions": ["seven", "seven"],
        "models": ["m"],
    }
    assert len(episode.calls) == 8
