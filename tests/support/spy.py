"""A scripted engine behind a real server, for tests in which the model does not matter."""

import asyncio
import json
from concurrent.futures import Future
from typing import Any

from pydantic_core import from_json

from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.client import Serving
from agentrl.serving.handler import Handler
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.sampling import Completion
from agentrl.serving.server import Server
from tests.support.families import Family, tokenizer


class SpyEngine:
    """An ``EngineClient`` that answers at once what it was told to, and notes both sides."""

    def __init__(self):
        self.log: list[tuple[list[int], list[int], list[float]]] = []
        self.next: list[Completion] = []
        self.samplings = []

    def enter(self, episode):
        pass

    leave = enter

    def raise_if_stopped(self):
        pass

    close = raise_if_stopped

    def submit(self, prompt_ids, sampling):
        done = Future()
        completion = self.next.pop(0)
        self.log.append((list(prompt_ids), list(completion.ids), list(completion.logprobs)))
        self.samplings.append(sampling)
        done.set_result(completion)
        return done


def make_serving(family: Family, own_tokenizer: Any = None) -> tuple[Serving, SpyEngine]:
    engine, tokens = SpyEngine(), own_tokenizer or tokenizer(family)
    parsers = family.tool_parser, family.reasoning_parser
    policy = make_handler("m", engine, tokens, *parsers, max_tokens=999, max_model_len=10**6)
    return Serving(Server(), policy, seed=0), engine


def make_handler(
    name: str,
    engine: Any,
    tokenizer: Any,
    tool_parser: str | None,
    reasoning_parser: str | None = None,
    temperature: float = 1.0,
    **limits: int,
) -> Handler:
    """A model; limits: max_tokens and max_model_len."""
    parser = OutputParser(tokenizer, tool_parser, reasoning_parser)
    template = ChatTemplate(tokenizer, parser.reasoning_end)
    return Handler(name, engine, template, parser, temperature=temperature, **limits)


def headers(client, *, is_retry: bool = False) -> dict[str, str]:
    """The headers that a client sends."""
    return {
        "authorization": f"Bearer {client.api_key}",
        "x-stainless-retry-count": str(int(is_retry)),
    }


class Scripted:
    """An episode whose model says what the test wants."""

    def __init__(self, family: Family):
        self.serving, self.engine = make_serving(family)
        self.client, _ = self.serving.open(step=0, task_id="t", episode=0)
        self.tokenizer = tokenizer(family)

    def says(
        self, text: str, *, ended: bool = True, ids: list[int] | None = None, **fields
    ) -> None:
        """The next answer; ``ids``: in these tokens."""
        ids = ids or self.encode(text)
        ids = ids + [self.tokenizer.eos_token_id] * ended
        fields = {"finish_reason": "stop" if ended else "length", **fields}
        self.engine.next.append(Completion(ids, [-1.0] * len(ids), **fields))

    def ask(self, messages, *, is_retry: bool = False, client=None, **options) -> dict:
        """The answer's message."""
        body = {"messages": messages, **options}
        status, answer = self.post("chat/completions", body, client=client, is_retry=is_retry)
        assert status == 200, answer
        return answer["choices"][0]["message"]

    def post(self, route: str, body: Any, *, client=None, is_retry=False) -> tuple[int, Any]:
        """Status and JSON of what is answered to a body, or to bytes; the JSON as strict readers
        have it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = headers(client or self.client, is_retry=is_retry)
        reply = asyncio.run(self.serving.server.respond(f"/v1/{route}", raw, sent))
        return reply.status, from_json(reply.body, allow_inf_nan=False)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    @property
    def calls(self):
        return self.client.calls
