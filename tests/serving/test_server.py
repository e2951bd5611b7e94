"""The server of an episode: the real client and the real engine, and what is recorded of them."""

import asyncio
import json
import logging
import threading
import time

import httpx2
import openai
import pytest
from openai.resources.chat.completions import AsyncCompletions
from openai.types.chat import ChatCompletionMessage

from agentrl.agents.tools import PYTHON_TOOL

HELLO = [{"role": "user", "content": "Tom has 3 pens."}]


def open_client(serving, step=1, episode=0, **options):
    return serving.open(step=step, task_id="t", episode=episode, **options)[0]


@pytest.fixture
def model(serving):
    model = open_client(serving)
    yield model
    model.close()


async def ask(model, messages=HELLO, **options):
    return await model.openai.chat.completions.create(model="policy", messages=messages, **options)


def test_what_the_engine_was_given_and_returned_is_recorded(serving, model, monkeypatch):
    consumed = []
    submit = serving.engine._submit

    def spy(prompt_ids, params, read, rng_key):
        def read_and_note(output):
            drawn = output.outputs[0]
            logprobs = [drawn.logprobs[i][t].logprob for i, t in enumerate(drawn.token_ids)]
            consumed.append((output.prompt_token_ids, list(drawn.token_ids), logprobs))
            return read(output)

        return submit(prompt_ids, params, read_and_note, rng_key)

    monkeypatch.setattr(serving.engine, "_submit", spy)

    async def converse():
        messages = list(HELLO)
        for _ in range(4):
            answer = await ask(model, messages, tools=[PYTHON_TOOL])
            messages += [answer.choices[0].message.model_dump(), {"role": "user", "content": "?"}]

    asyncio.run(converse())
    recorded = [(c.prompt_ids, c.completion_ids, c.logprobs) for c in model.calls]
    assert len(recorded) == 4
    assert recorded == consumed
    for before, after in zip(model.calls, model.calls[1:]):
        assert after.prompt_ids[: len(before.ids)] == before.ids


ANSWERED = ChatCompletionMessage.model_validate(
    {
        "role": "assistant",
        "content": "so",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "python", "arguments": "{}"}}
        ],
    }
)


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": HELLO},
        {"messages": tuple(HELLO), "tools": [PYTHON_TOOL], "tool_choice": "auto"},
        {"messages": HELLO * 2, "temperature": 0.5},
        {"messages": [*HELLO, ANSWERED, {"role": "tool", "tool_call_id": "c", "content": "1"}]},
        {"messages": [*HELLO, ANSWERED.model_dump()], "tools": openai.omit},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Say \u00e9"}]}]},
        {"messages": HELLO, "extra_body": {"top_k": 3}, "stream": True, "seed": openai.omit},
        {"messages": HELLO, "extra_headers": {"x-mine": "1"}, "timeout": 5.0},
    ],
)
def test_the_client_sends_what_openais_own_would(model, asked):
    def sent(completions_of) -> list[tuple]:
        requests = []

        def answer(request):
            names = ("x-mine", "accept", "content-type", "authorization")
            headers = {name: request.headers.get(name) for name in names}
            seconds = request.extensions["timeout"]
            requests.append((request.url.path, json.loads(request.content), headers, seconds))
            return httpx2.Response(400, json={"error": {"message": "seen"}})

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        client = openai.AsyncOpenAI(
            api_key="k", base_url="http://agentrl/v1", http_client=http, max_retries=0
        )
        with pytest.raises(openai.BadRequestError):
            asyncio.run(completions_of(client).create(model="policy", **asked))
        return requests

    mine = type(model.openai.chat.completions)
    assert mine is not AsyncCompletions
    assert sent(mine) == sent(AsyncCompletions)


def test_usage_and_finish_reason(model):
    answer = asyncio.run(ask(model, max_tokens=3))
    (call,) = model.calls
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(call.prompt_ids), 3)
    assert answer.choices[0].finish_reason == call.finish_reason == "length"
    assert model.truncated


def test_logprobs_are_those_of_the_record(model):
    plain = asyncio.run(ask(model, logprobs=True)).choices[0].logprobs.content
    top = asyncio.run(ask(model, logprobs=True, top_logprobs=3)).choices[0].logprobs.content
    for said, call in zip((plain, top), model.calls, strict=True):
        assert [token.logprob for token in said] == call.logprobs
    assert {len(token.top_logprobs) for token in plain} == {0}
    assert {len(token.top_logprobs) for token in top} <= {3, 4}
    for token in top:
        likeliest = max(other.logprob for other in token.top_logprobs)
        assert likeliest >= token.logprob


def test_the_agent_may_ask_for_less_than_the_limit_but_not_for_more(model):
    asyncio.run(ask(model, max_completion_tokens=5))
    asyncio.run(ask(model, max_tokens=500))
    assert [len(call.completion_ids) <= n for call, n in zip(model.calls, (5, 16))] == [True, True]


def test_with_tools_and_a_schema_one_or_the_other_is_drawn(model):
    schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asyncio.run(ask(model, tools=[PYTHON_TOOL], response_format=form, n=8))
    assert [call.under_grammar for call in model.calls] == [True] * 8
    assert {call.text.lstrip()[:1] for call in model.calls} <= {"{", "<"}


def test_seeds_are_ours_and_differ_from_call_to_call(serving):
    def draw(step, episode):
        model = open_client(serving, step, episode)
        asyncio.run(ask(model, seed=1))
        asyncio.run(ask(model, seed=1))
        model.close()
        return tuple(tuple(call.completion_ids) for call in model.calls)

    assert draw(1, 0) == draw(1, 0)
    drawn = [draw(step, episode) for step in range(3) for episode in range(3)]
    assert len({call for calls in drawn for call in calls}) == 18


def test_what_would_bias_training_is_overridden_and_said_once(serving, model, caplog):
    with caplog.at_level(logging.WARNING):
        asyncio.run(ask(model, temperature=0.0, top_p=0.1))
        asyncio.run(ask(model, temperature=0.0, top_p=0.1))
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "agentrl.serving.handler"]
    assert "its own temperature, top_p" in warning
    first, second = (call.completion_ids for call in model.calls)
    assert first != second


def test_a_stop_string_ends_the_answer_but_not_the_record(serving):
    model = open_client(serving, 5)
    whole = asyncio.run(ask(model)).choices[0].message.content
    again = open_client(serving, 5)
    stop = whole[len(whole) // 2]
    cut = asyncio.run(ask(again, stop=stop)).choices[0].message.content
    assert cut == whole[: whole.index(stop)]
    (call,) = again.calls
    assert call.completion_ids == model.calls[0].completion_ids[: len(call.completion_ids)]
    assert len(call.logprobs) == len(call.completion_ids)
    assert stop in call.text

    # What the agent goes on from is not what was drawn: the next call starts afresh.
    messages = [*HELLO, {"role": "assistant", "content": cut}, {"role": "user", "content": "?"}]
    asyncio.run(ask(again, messages))
    assert again.calls[1].prompt_ids[: len(call.ids)] != call.ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_body": {"ignore_eos": True}}, "ignore_eos is not supported here"),
        ({"modalities": ["audio"]}, "modalities is not supported here"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"content": "no role"}]}, "messages.0.role: Field required"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"tool_choice": "required"}, "tool"),
        ({"extra_body": {"chat_template_kwargs": {"tools": 1}}}, "not tools"),
    ],
)
def test_refusals_are_openais_errors(model, options, message):
    with pytest.raises(openai.BadRequestError, match=message):
        asyncio.run(ask(model, **options))
    assert model.calls == ()


def test_a_context_that_is_full(model):
    with pytest.raises(openai.BadRequestError) as refused:
        asyncio.run(ask(model, [{"role": "user", "content": "3" * 600}]))
    assert refused.value.code == "context_length_exceeded"
    assert model.truncated
    assert model.calls == ()


def test_a_key_opens_its_own_episode_while_that_lives(serving, model):
    other = open_client(serving, episode=1)
    assert model.api_key != other.api_key
    asyncio.run(ask(model))
    assert (len(model.calls), len(other.calls)) == (1, 0)
    client = other.openai
    other.close()
    with pytest.raises(openai.AuthenticationError):
        asyncio.run(client.chat.completions.create(model="policy", messages=HELLO))
    assert other.calls == ()


def test_agents_have_keys_of_their_own_and_one_record(model):
    solver, checker = model.agent("solver"), model.agent("checker")
    assert len({model.api_key, solver.api_key, checker.api_key}) == 3
    for one in (solver, checker, model, solver):
        asyncio.run(ask(one))
    assert [call.agent for call in model.calls] == ["solver", "checker", "agent", "solver"]
    assert solver.calls == checker.calls == model.calls


def test_two_clients_of_one_name_are_one_agent(model):
    async def converse():
        answer = await ask(model.agent("solver"))
        grown = [*HELLO, answer.choices[0].message.model_dump(), {"role": "user", "content": "?"}]
        await ask(model.agent("solver"), grown)

    asyncio.run(converse())
    first, second = model.calls
    assert second.prompt_ids[: len(first.ids)] == first.ids


def test_the_end_of_the_episode_closes_every_agents_key(serving):
    model = open_client(serving, episode=5)
    clients = [model.agent("solver").openai, model.agent("checker").openai, model.openai]
    model.close()
    clients.append(model.agent("late").openai)
    for client in clients:
        with pytest.raises(openai.AuthenticationError):
            asyncio.run(client.chat.completions.create(model="policy", messages=HELLO))
    assert model.calls == ()


def test_an_answer_that_comes_after_the_end_is_not_recorded(serving):
    model = open_client(serving, episode=2)

    async def close_while_waiting():
        waiting = asyncio.create_task(ask(model))
        await asyncio.sleep(0)
        while not serving.engine._waiting:
            await asyncio.sleep(0.001)
        model.close()
        with pytest.raises(openai.AuthenticationError):
            await waiting

    asyncio.run(close_while_waiting())
    assert model.calls == ()


def test_closing_the_client_aborts_what_runs(serving):
    model = open_client(serving, episode=3)

    async def left_behind():
        with pytest.raises(openai.AuthenticationError):
            await ask(model)

    thread = threading.Thread(target=asyncio.run, args=(left_behind(),))
    thread.start()
    while not serving.engine._waiting:
        time.sleep(0.001)
    model.close()
    thread.join(5)
    deadline = time.monotonic() + 5
    while serving.engine._llm.has_unfinished_requests() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not thread.is_alive()
    assert not serving.engine._llm.has_unfinished_requests()


def test_an_agent_that_closes_its_client_closes_only_its_own(serving, model):
    async def close():
        async with open_client(serving, episode=4).openai:
            pass

    asyncio.run(close())
    asyncio.run(ask(model))
    assert len(model.calls) == 1


def test_what_breaks_on_our_side_says_so(serving, model, monkeypatch):
    monkeypatch.setattr(serving.policy.chat_template, "prompt", lambda *_: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as refused:
        asyncio.run(ask(model))
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert model.calls == ()


def test_no_other_path_is_answered(model):
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        asyncio.run(model.openai.embeddings.create(model="policy", input="x"))
