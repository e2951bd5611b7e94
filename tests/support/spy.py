"""A scripted engine behind a real endpoint, for tests in which the model does not matter."""

import asyncio
import json
from concurrent.futures import Future
from typing import Any

from agentrl.serving.chat_template import Chat
from agentrl.serving.client import Serving
from agentrl.serving.engine import Engine
from agentrl.serving.handler import Handler
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.sampling import Completion
from agentrl.serving.server import Server
from tests.support.families import Family, tokenizer


class SpyEngine(Engine):
    """Answers at once with what it was told to say next, and notes both sides."""

    def __init__(self):
        self.log: list[tuple[list[int], list[int], list[float]]] = []
        self.next: list[Completion] = []
        self.samplings = []

    def enter(self, episode):
        pass

    leave = enter

    def submit(self, prompt_ids, sampling):
        done = Future()
        completion = self.next.pop(0)
        self.log.append((list(prompt_ids), list(completion.ids), list(completion.logprobs)))
        self.samplings.append(sampling)
        done.set_result(completion)
        return done


def make_serving(family: Family, own_tokenizer: Any = None) -> tuple[Serving, SpyEngine]:
    engine, tokens = SpyEngine(), own_tokenizer or tokenizer(family)
    output_parser = OutputParser(tokens, family.tool_parser, family.reasoning_parser)
    chat = Chat(tokens, output_parser)
    policy = Handler("m", engine, chat, temperature=1.0, max_tokens=999, max_model_len=10**6)
    return Serving(Server(), policy, seed=0), engine


def headers(door, *, is_retry: bool = False) -> dict[str, str]:
    """What a client of this door's sends."""
    return {
        "authorization": f"Bearer {door.api_key}",
        "x-stainless-retry-count": str(int(is_retry)),
    }


class Scripted:
    """An episode whose model says what the test wants."""

    def __init__(self, family: Family):
        self.serving, self.engine = make_serving(family)
        self.door, _ = self.serving.open(step=0, task_id="t", episode=0)
        self.tokenizer = tokenizer(family)

    def says(
        self, text: str, *, ended: bool = True, ids: list[int] | None = None, **fields
    ) -> None:
        """The next answer; ``ids``: in these tokens."""
        ids = ids or self.encode(text)
        ids = ids + [self.tokenizer.eos_token_id] * ended
        fields = {"finish_reason": "stop" if ended else "length", **fields}
        self.engine.next.append(Completion(ids, [-1.0] * len(ids), **fields))

    def ask(self, messages, *, is_retry: bool = False, door=None, **options) -> dict:
        """The answer's message."""
        body = {"messages": messages, **options}
        reply = asyncio.run(
            self.serving.endpoint.respond(
                "/v1/chat/completions",
                json.dumps(body).encode(),
                headers(door or self.door, is_retry=is_retry),
            )
        )
        answer = json.loads(reply.body)
        assert reply.status == 200, answer
        return answer["choices"][0]["message"]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    @property
    def calls(self):
        return self.door.calls
