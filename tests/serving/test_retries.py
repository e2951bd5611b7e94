"""Who goes away leaves nothing, who retries is counted once: real clients over real sockets."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import Future

import anthropic
import openai
import pytest
import requests
from fastapi import Request

from agentrl.serving import http_reply
from agentrl.serving.sampling import Completion
from tests.support.families import QWEN25
from tests.support.spy import Scripted, headers

ASK = [{"role": "user", "content": "2+3?"}]


class Slow(Scripted):
    """The first calls hang in the engine until they are cancelled; then it answers at once."""

    def __init__(self, hanging: int):
        super().__init__(QWEN25)
        self.hanging: list[Future] = []
        answer = self.engine.submit

        def submit(prompt_ids, sampling):
            if len(self.hanging) >= hanging:
                return answer(prompt_ids, sampling)
            self.hanging.append(Future())
            return self.hanging[-1]

        self.engine.submit = submit

    @property
    def http(self) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=self.client.api_key, base_url=self.client.base_url, timeout=0.3, max_retries=1
        )


@pytest.fixture
def make(request):
    made = []

    def make(hanging: int) -> Slow:
        made.append(Slow(hanging))
        return made[-1]

    yield make
    for episode in made:
        episode.client.close()
        episode.serving.server.close()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_times_out_is_aborted_and_its_retry_counts_once(make, stream):
    episode = make(hanging=1)
    episode.says("five")
    answer = episode.http.chat.completions.create(model="m", messages=ASK, stream=stream)
    if stream:
        assert "".join(c.choices[0].delta.content or "" for c in answer if c.choices) == "five"
    else:
        assert answer.choices[0].message.content == "five"
    wait_for(episode.hanging[0].cancelled)
    assert [call.text for call in episode.calls] == ["five<|im_end|>"]


def test_a_lost_request_does_not_take_an_independent_one_with_it(make):
    """A is answered; B, the same, times out and is retried: both stay."""
    episode = make(hanging=0)
    episode.says("five")
    episode.ask(ASK, model="m")
    episode.engine.submit, hang = lambda *_: episode.hanging[0], episode.engine.submit
    episode.hanging.append(Future())
    body = {"messages": ASK, "model": "m"}
    headers = {"Authorization": f"Bearer {episode.client.api_key}"}
    url = f"{episode.client.base_url}/chat/completions"
    # The same bytes as the first request, over a socket that is closed too early.
    with pytest.raises(requests.Timeout):
        requests.post(url, data=json.dumps(body), headers=headers, timeout=0.2)
    wait_for(episode.hanging[0].cancelled)
    episode.engine.submit = hang
    episode.says("six")
    retried = requests.post(
        url, data=json.dumps(body), headers={**headers, "x-stainless-retry-count": "1"}
    )
    assert retried.status_code == 200
    assert [call.text for call in episode.calls] == ["five<|im_end|>", "six<|im_end|>"]


def test_an_answer_that_was_delivered_is_superseded_by_its_retry(make):
    episode = make(hanging=0)
    for text, is_retry in (("five", False), ("six", True)):
        episode.says(text)
        reply = episode.ask(ASK, is_retry=is_retry)
    assert [call.text for call in episode.calls] == ["six<|im_end|>"]
    # And the conversation continues from the answer that counts.
    episode.says("done")
    episode.ask([*ASK, reply, *ASK])
    six, done = episode.calls
    assert done.prompt_ids[: len(six.ids)] == six.ids


def test_a_client_that_hangs_up_leaves_nothing(make):
    episode = make(hanging=1)
    port = int(episode.serving.server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "?"}]}'
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
            % (episode.client.api_key.encode(), len(body), body)
        )
        wait_for(lambda: episode.hanging)
    wait_for(episode.hanging[0].cancelled)
    assert episode.calls == ()


def test_a_cancelled_task_leaves_nothing(make):
    episode = make(hanging=2)

    async def cancel(stream: bool):
        waiting = asyncio.create_task(
            episode.client.openai.chat.completions.create(model="m", messages=ASK, stream=stream)
        )
        while len(episode.hanging) <= stream:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    for stream in (False, True):
        asyncio.run(cancel(stream))
    assert [future.cancelled() for future in episode.hanging] == [True, True]
    assert episode.calls == ()


def test_the_end_of_an_episode_is_an_error_that_is_not_retried(make):
    episode = make(hanging=1)
    client, errors = episode.http.with_options(timeout=30, max_retries=5), []

    def ask():
        try:
            client.chat.completions.create(model="m", messages=ASK)
        except openai.AuthenticationError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: episode.hanging)
    episode.client.close()
    thread.join(5)
    (error,) = errors
    assert error.response.headers["x-should-retry"] == "false"
    assert len(episode.hanging) == 1
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="m", messages=ASK)


def test_keys_of_agents_die_with_the_episode(make):
    episode = make(hanging=0)
    stranger, _ = episode.serving.open(step=0, task_id="t", episode=1)
    seer = episode.client.agent("seer")
    assert len({episode.client.api_key, seer.api_key, stranger.api_key}) == 3
    assert episode.client.agent("seer") is seer
    episode.says("five")
    episode.ask(ASK, client=seer)
    assert [call.agent for call in episode.calls] == ["seer"]
    assert stranger.calls == ()
    episode.client.close()
    for model, status in ((episode.client, 401), (seer, 401), (stranger, 200)):
        url, key = f"{model.base_url}/models", model.api_key
        got = requests.get(url, headers={"Authorization": f"Bearer {key}"})
        assert got.status_code == status
    stranger.close()


def test_what_an_agent_samples_with_is_honoured_outside_training(make):
    episode = make(hanging=0)
    evaluated, _ = episode.serving.open(step=0, task_id="t", episode=0, own_sampling=True)
    asked = {"temperature": 0.3, "top_p": 0.5, "seed": 7, "max_tokens": 5000}
    for model in (episode.client, evaluated):
        episode.says("five")
        episode.ask(ASK, client=model, **asked)
    training, evaluation = episode.engine.samplings
    assert (training.temperature, training.others, training.max_tokens) == (1.0, {}, 999)
    assert training.seed != 7
    assert (evaluation.temperature, evaluation.others) == (0.3, {"top_p": 0.5})
    assert (evaluation.seed, evaluation.max_tokens) == (7, 5000)
    evaluated.close()


def test_an_evaluation_has_a_temperature_of_its_own(make):
    """Where the agent names none, or may not; 0 is one, too."""
    episode = make(hanging=0)
    for own_sampling, asked, used in ((False, {"temperature": 0.3}, 0.0), (True, {}, 0.5)):
        options = {"own_sampling": own_sampling, "temperature": used}
        client, _ = episode.serving.open(step=-1, task_id="t", episode=0, **options)
        episode.says("five")
        episode.ask(ASK, client=client, **asked)
        assert episode.engine.samplings[-1].temperature == used
        client.close()


def test_many_requests_of_one_episode_at_once(make):
    """Threads over HTTP and tasks in process, on one record: nothing is lost or mixed up."""
    episode = make(hanging=0)
    answered, lock = [], threading.Lock()
    drawn = iter(range(10**6))
    answer = episode.engine.submit

    def submit(prompt_ids, sampling):
        with lock:
            episode.says(f"answer {next(drawn)}")
            return answer(prompt_ids, sampling)

    episode.engine.submit = submit
    client = episode.http.with_options(timeout=60)

    def over_http():
        for _ in range(10):
            said = client.chat.completions.create(model="m", messages=ASK)
            answered.append(said.choices[0].message.content)

    async def in_process():
        asked = [
            episode.client.openai.chat.completions.create(model="m", messages=ASK)
            for _ in range(40)
        ]
        answered.extend(a.choices[0].message.content for a in await asyncio.gather(*asked))

    threads = [threading.Thread(target=over_http) for _ in range(8)]
    for thread in threads:
        thread.start()
    asyncio.run(in_process())
    for thread in threads:
        thread.join()
    recorded = [call.reply["content"] for call in episode.calls]
    assert len(recorded) == 120
    assert sorted(recorded) == sorted(answered)
    assert len(set(recorded)) == 120
    ids = {sampling.seed for sampling in episode.engine.samplings}
    assert len(ids) == 120


def test_an_answer_that_is_ready_as_the_client_hangs_up_is_taken_back(make):
    episode = make(hanging=0)
    episode.says("five")
    body = json.dumps({"messages": ASK}).encode()

    async def disconnected():
        return {"type": "http.disconnect"}

    gone = Request({"type": "http"}, disconnected)

    async def both_at_once():
        work = episode.serving.server.respond("/v1/chat/completions", body, headers(episode.client))
        reply = await work
        assert len(episode.calls) == 1

        async def ready():
            return reply

        return await http_reply.answer(gone, body, ready())

    assert asyncio.run(both_at_once()).status_code == 499
    assert episode.calls == ()


@pytest.fixture
def waiting(make, monkeypatch):
    """A stream that has begun, and waits for its answer."""
    monkeypatch.setattr(http_reply, "PATIENCE", 0.02)
    episode = make(hanging=1)
    begun = requests.post(
        f"{episode.client.base_url}/chat/completions",
        json={"model": "m", "messages": ASK, "stream": True},
        headers={"Authorization": f"Bearer {episode.client.api_key}"},
        stream=True,
    )
    lines = (line for line in begun.iter_lines() if line)
    assert [next(lines), next(lines)] == [b": still drawn"] * 2
    yield episode, begun, lines
    begun.close()


def test_a_stream_that_waits_for_its_answer_says_so(waiting):
    episode, _, lines = waiting
    ids = [*episode.encode("five"), episode.tokenizer.eos_token_id]
    episode.hanging[0].set_result(Completion(ids, [-1.0] * len(ids), "stop"))
    events = [line for line in lines if line != b": still drawn"]
    assert {line[:6] for line in events} == {b"data: "}
    assert events[-1] == b"data: [DONE]"
    assert [call.completion_ids for call in episode.calls] == [ids]


def test_what_fails_in_a_stream_that_has_begun_is_an_event(waiting):
    episode, _, lines = waiting
    episode.hanging[0].set_exception(RuntimeError("no engine"))
    kind, data = (line for line in lines if line != b": still drawn")
    assert kind == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["message"] == "RuntimeError: no engine"
    assert episode.calls == ()


def test_who_leaves_a_stream_that_has_begun_leaves_nothing(waiting):
    episode, begun, _ = waiting
    begun.close()
    wait_for(episode.hanging[0].cancelled)
    assert episode.calls == ()


@pytest.mark.parametrize("api", ["openai", "anthropic"])
@pytest.mark.parametrize("fails", [False, True])
def test_clients_wait_for_a_stream(make, monkeypatch, api, fails):
    """Comments are nothing to them, and an event that tells of an error is one."""
    monkeypatch.setattr(http_reply, "PATIENCE", 0.02)
    episode = make(hanging=1)
    ids = [*episode.encode("five"), episode.tokenizer.eos_token_id]

    def finish():
        wait_for(lambda: episode.hanging)
        time.sleep(0.1)
        if fails:
            episode.hanging[0].set_exception(RuntimeError("no engine"))
        else:
            episode.hanging[0].set_result(Completion(ids, [-1.0] * len(ids), "stop"))

    threading.Thread(target=finish).start()
    if fails:
        kind = openai.APIError if api == "openai" else anthropic.APIStatusError
        with pytest.raises(kind, match="no engine"):
            STREAMED[api](episode)
    else:
        assert STREAMED[api](episode) == "five"
    assert len(episode.calls) == 1 - fails


def streamed_by_openai(episode) -> str:
    client = episode.http.with_options(max_retries=0)
    with client.chat.completions.stream(model="m", messages=ASK) as stream:
        return stream.get_final_completion().choices[0].message.content


def streamed_by_anthropic(episode) -> str:
    url, key = episode.client.environment["ANTHROPIC_BASE_URL"], episode.client.api_key
    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    with client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        return stream.get_final_text()


STREAMED = {"openai": streamed_by_openai, "anthropic": streamed_by_anthropic}
