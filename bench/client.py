"""Cost of a call at the server, with an engine that answers at once: ``make bench``.

CPU time, not latency: of this process for our own share, of the clients apart. The conversations
are four turns on Qwen2.5's template, plain ones and ones that call a tool each time. Amortised over
64 concurrent episodes, several rounds; and then 1,000 concurrent episodes over HTTP, of which
nothing may be lost.
"""

import asyncio
import gc
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import openai
import psutil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentrl.agents.tools import PYTHON_TOOL
from agentrl.serving.process import freeze_garbage, prepare_process
from agentrl.serving.sampling import Completion
from tests.support.families import QWEN25, tokenizer, write
from tests.support.spy import headers, make_serving

EPISODES, ROUNDS, TURNS = 64, 9, 4
CROWD, CROWD_ROUNDS = 1000, 5
CODE = {"name": "python", "arguments": {"code": "print(48 // 2 + 48)"}}
START = [
    {"role": "system", "content": "Solve the problem. Calculate with the python tool."},
    {"role": "user", "content": "Natalia sold 48 clips in April and half as many in May. " * 4},
]
GROUP = 8
"""Episodes of one task, which begin with the same messages."""
Ask = Callable[[list[dict]], Awaitable[dict]]


@dataclass(frozen=True)
class Workload:
    name: str
    says: str
    """The model, at every turn."""
    tools: list[dict]


PLAIN = Workload("four plain turns", "She sold 72 clips in all, 48 and then 24.", [])
TOOLS = Workload("four turns with a tool", write(QWEN25, None, "", [CODE]), [PYTHON_TOOL])


def instant_serving(workload: Workload = TOOLS):
    serving, engine = make_serving(QWEN25, make_tokenizer())
    template = serving.policy.chat_template
    ids = [*template.encode(workload.says), template.tokenizer.eos_token_id]
    serving.workload = workload
    completion = Completion(ids, [-1.0] * len(ids), "stop")

    def submit(prompt_ids, sampling):
        done = Future()
        done.set_result(completion)
        return done

    engine.submit = submit
    return serving


def make_tokenizer():
    """Qwen2.5's template on tokens as long as a real tokenizer's: a word or so."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    text = tokenizer(QWEN25).apply_chat_template(START, tools=[PYTHON_TOOL], tokenize=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [text, TOOLS.says, PLAIN.says] * 9,
        trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=QWEN25.end_of_turn,
        additional_special_tokens=list(QWEN25.special_tokens),
        chat_template=QWEN25.template,
    )


async def converse(task: int, ask: Ask) -> None:
    messages = [*START, {"role": "user", "content": f"Problem {task}."}]
    for _ in range(TURNS):
        reply = await ask(messages)
        calls = reply.get("tool_calls") or ()
        results = [{"role": "tool", "tool_call_id": c["id"], "content": "72"} for c in calls]
        messages += [reply, *(results or [{"role": "user", "content": "Are you sure?"}])]


async def crowd(asks: list[Ask]) -> None:
    started = random.getrandbits(32)
    await asyncio.gather(*(converse(started + i // GROUP, ask) for i, ask in enumerate(asks)))


def direct(serving) -> list[Ask]:
    """The server alone: bytes in, bytes out."""

    def make(model) -> Ask:
        sent = headers(model)

        async def ask(messages):
            body = json.dumps(body_of(serving, messages))
            reply = await serving.server.respond("/v1/chat/completions", body.encode(), sent)
            return json.loads(reply.body)["choices"][0]["message"]

        return ask

    return [make(open_client(serving)) for _ in range(EPISODES)]


def nothing(serving) -> list[Ask]:
    """The same without the server: what asking, encoding and decoding cost by themselves."""
    canned = canned_reply(serving)

    def make() -> Ask:
        async def ask(messages):
            json.dumps(body_of(serving, messages)).encode()
            return json.loads(canned)["choices"][0]["message"]

        return ask

    return [make() for _ in range(EPISODES)]


def in_process(serving) -> list[Ask]:
    """model.openai, as workflows use it."""
    return [openai_ask(open_client(serving).openai) for _ in range(EPISODES)]


def client_alone(serving) -> list[Ask]:
    """The same client with a canned answer in the server's place."""
    canned = canned_reply(serving)

    class Canned(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await request.aread()
            headers = {"content-type": "application/json"}
            return httpx2.Response(200, content=canned, headers=headers, request=request)

    http_client = httpx2.AsyncClient(transport=Canned())
    return [
        openai_ask(openai.AsyncOpenAI(api_key="k", base_url="http://x/v1", http_client=http_client))
        for _ in range(EPISODES)
    ]


def openai_ask(client: openai.AsyncOpenAI) -> Ask:
    async def ask(messages):
        answer = await client.chat.completions.create(
            model="m", messages=messages, tools=[PYTHON_TOOL]
        )
        return answer.choices[0].message.model_dump(exclude_none=True)

    return ask


def body_of(serving, messages: list[dict]) -> dict:
    tools = {"tools": serving.workload.tools} if serving.workload.tools else {}
    return {"model": "m", "messages": messages, **tools}


def open_client(serving):
    open_client.number = getattr(open_client, "number", 0) + 1
    return serving.open(step=0, task_id="t", episode=open_client.number)[0]


def canned_reply(serving) -> bytes:
    body = body_of(serving, START)
    raw, sent = json.dumps(body).encode(), headers(open_client(serving))
    return asyncio.run(serving.server.respond("/v1/chat/completions", raw, sent)).body


def cpu_per_call(serving, make: Callable[[Any], list[Ask]]) -> list[float]:
    """Milliseconds of this process's CPU time a call, of every round."""
    rounds = []
    for _ in range(ROUNDS):
        asks = make(serving)
        started = time.process_time()
        asyncio.run(crowd(asks))
        rounds.append(1000 * (time.process_time() - started) / (EPISODES * TURNS))
        serving.server.agent_keys.clear()
    return rounds[1:]


def load(url: str, keys: list[str], client: str, tools: list[dict], done: Any) -> None:
    """In a process of its own: one episode a key, all at once; reports its CPU time."""

    async def run() -> int:
        if client == "openai":
            http_client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None))
            asks = [
                openai_ask(
                    openai.AsyncOpenAI(
                        api_key=key, base_url=f"{url}/v1", http_client=http_client, max_retries=0
                    )
                )
                for key in keys
            ]
            await crowd(asks)
            return len(keys) * TURNS
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await crowd([aiohttp_ask(session, url, key, tools) for key in keys])
        return len(keys) * TURNS

    started = time.process_time()
    answered = asyncio.run(run())
    done.put((answered, time.process_time() - started))


def aiohttp_ask(session: aiohttp.ClientSession, url: str, key: str, tools: list[dict]) -> Ask:
    headers = {"Authorization": f"Bearer {key}"}

    async def ask(messages):
        body = {"model": "m", "messages": messages, **({"tools": tools} if tools else {})}
        async with session.post(
            f"{url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["choices"][0]["message"]

    return ask


def over_http(serving, client: str, episodes: int) -> tuple[float, float, int, int]:
    """CPU milliseconds a call of this process and of the client's; calls answered and recorded."""
    context = multiprocessing.get_context("spawn")
    models = [open_client(serving) for _ in range(episodes)]
    keys, done = [model.api_key for model in models], context.Queue()
    asked = (serving.server.url, keys, client, serving.workload.tools, done)
    process = context.Process(target=load, args=asked)
    started = time.process_time()
    process.start()
    answered, client_seconds = done.get()
    ours = time.process_time() - started
    process.join()
    recorded = sum(len(model.calls) for model in models)
    for model in models:
        model.close()
    calls = episodes * TURNS
    return 1000 * ours / calls, 1000 * client_seconds / calls, answered, recorded


def row(name: str, rounds: list[float]) -> None:
    median = statistics.median(rounds)
    print(f"{name:52} {median:6.3f}   {min(rounds):6.3f} .. {max(rounds):6.3f}")


def loopback(serving, client: str) -> None:
    rounds = [over_http(serving, client, EPISODES) for _ in range(ROUNDS)][1:]
    row(f"=> our share over loopback ({client} in another process)", [r[0] for r in rounds])
    row(f"   that {client}, in its process", [r[1] for r in rounds])


def main() -> None:
    # As ``serve`` does.
    prepare_process()
    freeze_garbage()
    print(f"{'CPU milliseconds a call':52} median   least .. most, {ROUNDS - 1} rounds")
    plain = instant_serving(PLAIN)
    rounds = zip(cpu_per_call(plain, direct), cpu_per_call(plain, nothing), strict=True)
    print(f"{PLAIN.name}:")
    row("=> our share, in process", [a - b for a, b in rounds])
    loopback(plain, "aiohttp")
    plain.server.close()
    print(f"{TOOLS.name}:")
    serving, measured = instant_serving(TOOLS), {}
    for name, make in {
        "encoding and decoding alone": nothing,
        "the server, bytes to bytes, and that": direct,
        "openai's client alone, in process": client_alone,
        "openai's client and the server, in process": in_process,
    }.items():
        measured[name] = cpu_per_call(serving, make)
        row(name, measured[name])
    encoding, server, client, both = measured.values()
    row("=> our share, in process", [a - b for a, b in zip(server, encoding)])
    row("=> our share, in process, beside openai's client", [a - b for a, b in zip(both, client)])
    for client in ("aiohttp", "openai"):
        loopback(serving, client)

    print(f"\n{CROWD} concurrent episodes over HTTP, {TURNS} calls each, one round a line")
    for _ in range(CROWD_ROUNDS):
        ours, client_ms, answered, recorded = over_http(serving, "aiohttp", CROWD)
        gc.collect()
        memory = psutil.Process().memory_info().rss / 2**20
        print(
            f"  answered {answered}, recorded {recorded}, lost {CROWD * TURNS - recorded}, "
            f"{ours:.2f} ms a call of ours, {client_ms:.2f} of the client's, "
            f"{memory:.0f} MiB resident"
        )
        assert answered == recorded == CROWD * TURNS, "a call was lost"
    serving.server.close()


if __name__ == "__main__":
    main()
