"""Thousands of random conversations over six families' templates, through the server itself.

The engine is scripted and spied on: what it is given and what it returns is noted where requests
enter it, and compared with what the episode recorded. The model writes as its family does, in
tokens that its tokenizer would never choose, with JSON spaced its own way; the agent appends,
edits, forks, retries, calls in parallel, changes its tools, and sends back what clients make of a
turn.
"""

import asyncio
import copy
import json
import random
import re
from collections import Counter
from itertools import accumulate

import pytest

from agentrl.learning.packing import pack
from agentrl.records.forks import merge
from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.sampling import Completion
from agentrl.types import Sample, message_key
from kernels.tree import build_tree
from tests.support.families import (
    DEEPSEEK_R1,
    FAMILIES,
    GEMMA,
    LLAMA3,
    MISTRAL,
    QWEN3,
    QWEN25,
    tokenizer,
    write,
)
from tests.support.sizes import sizes
from tests.support.spy import headers, make_serving

WORDS = ["yes", "no", "five", "naïve", "日本", "🙂🎉", "e\u0301", "\n", "\n\n", " \n", ".\n", "  "]
WORDS += ["<b>", "</", '"quoted"', "{", "\\n", "user", "assistant", "\u200d", "123", "\t"]


def tool(name: str) -> dict:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


class Writer:
    """Draws turns in the way of a family."""

    def __init__(self, family, rng):
        self.family, self.rng, self.tokenizer = family, rng, tokenizer(family)
        self.num_texts = 0

    def completion(self, tools) -> Completion:
        rng, family = self.rng, self.family
        reasoning = self.text() if family.reasoning_parser and rng.random() < 0.7 else None
        calls = []
        if tools and family.tool_parser and rng.random() < 0.6:
            several = 1 if family is LLAMA3 and rng.random() < 0.8 else rng.randint(1, 3)
            calls = [
                {"name": rng.choice(tools)["function"]["name"], "arguments": self.arguments()}
                for _ in range(several)
            ]
        beside = not calls or (family not in (LLAMA3, MISTRAL) and rng.random() < 0.3)
        text = write(family, reasoning, self.text() if beside else "", calls)
        if rng.random() < 0.2:
            # JSON in spacing of its own.
            text = text.replace('": ', '":  ').replace('{"', '{ "')
        return self.drawn(text)

    def drawn(self, text: str) -> Completion:
        ended = self.rng.random() < 0.9
        ids = self.split(text) + [self.tokenizer.eos_token_id] * ended
        logprobs = [-self.rng.random() for _ in ids]
        return Completion(ids, logprobs, "stop" if ended else "length")

    def split(self, text: str) -> list[int]:
        """Tokenised part by part: other tokens than the whole text would get."""
        parts, marks = [], [*self.family.markup, *self.family.special_tokens]
        while text:
            mark = next((mark for mark in marks if text.startswith(mark)), None)
            length = len(mark) if mark else self.rng.randint(1, 9)
            for other in marks:
                if not mark and 0 < (at := text.find(other)) < length:
                    length = at
            parts.append(text[:length])
            text = text[length:]
        return [i for part in parts for i in self.tokenizer.encode(part, add_special_tokens=False)]

    def text(self) -> str:
        """No two are the same: else a turn without its reasoning could be one or another."""
        words = [self.rng.choice(WORDS) for _ in range(self.rng.randint(1, 5))]
        self.num_texts += 1
        return self.rng.choice([" ", "", "\n"]).join([f"so{self.num_texts}", *words])

    def arguments(self) -> dict:
        return self.rng.choice([{}, {"a": self.rng.randint(0, 99)}, {"a": 1, "b": self.text()}])


class Agent:
    """A random agent: the conversation as it is, and as it sends it."""

    def __init__(self, family, rng, serving, engine, number):
        self.family, self.rng, self.engine = family, rng, engine
        self.writer = Writer(family, rng)
        self.client, _ = serving.open(step=0, task_id="t", episode=number)
        self.current = self.client
        self.server = serving.server
        # Gemma's template has no tools; DeepSeek's leaves them to a message.
        self.tools = [] if family is GEMMA else [tool("add"), tool("look_up")]
        self.superseded, self.requests = [], []
        self.text, self.texts = "", {}
        """What the template says of the messages, and what it said at each call."""
        self.start_over(with_system=rng.random() < 0.5)

    async def live(self) -> None:
        for _ in range(self.rng.randint(2, 7)):
            fate = self.rng.random()
            if fate < 0.16 and self.requests:
                again = self.rng.choice(self.requests)
                self.text = again[2]
                await self.ask(*again[:2])
            elif fate < 0.24:
                self.edit()
            elif fate < 0.30 and self.family not in (GEMMA, DEEPSEEK_R1):
                self.tools = [tool("add"), tool(f"look_up_{len(self.requests)}")]
                self.becomes_another_conversation()
            elif fate < 0.36:
                self.current = self.client.agent(f"agent-{len(self.requests)}")
                self.becomes_another_conversation()
            await self.step()

    async def step(self) -> None:
        client = self.current
        body = {"model": "m", "messages": self.sent(), "tools": self.tools}
        n = self.rng.choice([1, 1, 1, 2])
        body |= {"n": n} if n > 1 else {}
        before, drawn_before = list(client.calls), len(self.engine.log)
        self.text = self.rendered()
        status, answer = await self.ask(body, client)
        if status == 200 and self.rng.random() < 0.15:
            # That answer got lost on its way: the client sends the same again.
            self.superseded += self.engine.log[drawn_before:]
            status, answer = await self.ask(body, client, is_retry=True)
        if status != 200:
            # Some templates refuse what this agent says; what they refuse is not recorded.
            assert answer["error"]["code"] == "invalid_messages", answer
            assert list(client.calls) == before
            self.start_over()
            return
        new = client.calls[-len(answer["choices"]) :]
        self.check_text(new[-1])
        self.check_growth(new[-1])
        chosen = self.rng.randrange(len(new))
        self.grows_from, reply = new[chosen], answer["choices"][chosen]["message"]
        self.messages.append(reply)
        self.go_on(reply)

    def go_on(self, reply: dict) -> None:
        if reply.get("tool_calls"):
            for call in reply["tool_calls"]:
                content = self.writer.text()
                self.messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": content}
                )
        else:
            self.messages.append({"role": "user", "content": self.writer.text()})

    def start_over(self, with_system: bool = False) -> None:
        self.messages: list[dict] = []
        self.num_foreign = 0
        """Messages at the start that are sent as they are."""
        if with_system or self.family is DEEPSEEK_R1:
            content = f"You have add and look_up. {self.writer.text()}"
            self.messages.append({"role": "system", "content": content})
        self.messages.append({"role": "user", "content": self.writer.text()})
        self.grows_from = None
        """The call that gave the last turn, while the agent only appends to it."""

    def edit(self) -> None:
        """Change an earlier message of the user's, and forget what came after."""
        users = [i for i, m in enumerate(self.messages) if m["role"] == "user"]
        at = self.rng.choice(users)
        self.messages = [*self.messages[:at], {"role": "user", "content": self.writer.text()}]
        self.num_foreign, self.grows_from = min(self.num_foreign, at), None

    def becomes_another_conversation(self) -> None:
        """With other tools or under another name, what was recorded is not put back."""
        self.messages = self.sent()
        self.num_foreign, self.grows_from = len(self.messages), None

    def sent(self) -> list[dict]:
        """The messages as some client sends them."""
        messages = copy.deepcopy(self.messages)
        drops_reasoning, uses_parts = self.rng.random() < 0.5, self.rng.random() < 0.3
        renames, respaces = self.rng.random() < 0.3, self.rng.random() < 0.5
        for message in messages[self.num_foreign :]:
            if drops_reasoning and message["content"] and message["content"].strip():
                message.pop("reasoning_content", None)
            if uses_parts and isinstance(message["content"], str) and message["content"]:
                message["content"] = [{"type": "text", "text": message["content"]}]
            for call in message.get("tool_calls") or ():
                call["id"] = f"x{call['id']}" if renames else call["id"]
                if respaces:
                    arguments = json.loads(call["function"]["arguments"])
                    call["function"]["arguments"] = json.dumps(arguments, indent=1, sort_keys=True)
            if renames and message["role"] == "tool":
                message["tool_call_id"] = f"x{message['tool_call_id']}"
        return messages

    async def ask(self, body: dict, client, *, is_retry: bool = False) -> tuple[int, dict]:
        self.engine.next = [self.writer.completion(self.tools) for _ in range(body.get("n", 1))]
        reply = await self.server.respond(
            "/v1/chat/completions", json.dumps(body).encode(), headers(client, is_retry=is_retry)
        )
        if reply.status == 200:
            self.requests.append((body, client, self.text))
            new = len(json.loads(reply.body)["choices"])
            self.texts |= {id(call): self.text for call in self.client.calls[-new:]}
        return reply.status, json.loads(reply.body)

    def check_growth(self, call) -> None:
        """Where the template only appends, every token of the call before is where it was."""
        appends = self.family in (QWEN25, LLAMA3, GEMMA)
        appends |= self.family is QWEN3 and self.messages[-1]["role"] == "tool"
        if self.grows_from is None or not appends:
            return
        # Another call may have got the same answer to the same question.
        said = message_key(self.grows_from.reply)
        same = [c.ids for c in self.client.calls if message_key(c.reply) == said]
        assert any(call.prompt_ids[: len(ids)] == ids for ids in same)

    def rendered(self) -> str | None:
        try:
            return self.writer.tokenizer.apply_chat_template(
                [for_template(self.family, message) for message in self.messages],
                tools=self.tools,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception:
            return None

    def check_text(self, call) -> None:
        """The prompt says what the template says, to the letter, but for the model's own turns."""
        if self.text is None:
            assert self.family is LLAMA3  # Several calls in one turn: the raw text stands in.
            return
        decode = self.writer.tokenizer.decode
        begun = [
            c
            for c in self.client.calls
            if c is not call
            and call.prompt_ids[: len(c.ids)] == c.ids
            and self.texts[id(c)] is not None
        ]
        if not begun:
            assert decode(call.prompt_ids) == self.text
            return
        last = max(begun, key=lambda c: len(c.ids))
        before = self.texts[id(last)]
        assert self.text.startswith(before)
        rest, added = self.text[len(before) :], decode(call.prompt_ids[len(last.ids) :])
        if last.finish_reason == "stop":
            assert rest.partition(self.family.end_of_turn)[2] == added
        else:
            assert rest.endswith(added)
            assert self.family.end_of_turn in added
        assert squeezed(decode(call.prompt_ids)) == squeezed(self.text)


def for_template(family, message: dict) -> dict:
    if isinstance(message["content"], list):
        message = {**message, "content": message["content"][0]["text"]}
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": arguments(family, call)}}
        for call in message["tool_calls"]
    ]
    return {**message, "content": message["content"] or None, "tool_calls": calls}


def arguments(family, call: dict):
    given = call["function"]["arguments"]
    return given if family is DEEPSEEK_R1 else json.loads(given)


def squeezed(text: str) -> str:
    """Without what the model may write otherwise than the template: space, the marks of thinking
    (vLLM takes unmarked text for reasoning), and the ids of calls, which are ours. What is not the
    model's own is compared to the letter."""
    return re.sub(r',"id":"\w{9}"|</?think>', "", "".join(text.split()))


def rolling_hashes(ids: list[int]) -> list[int]:
    """One number for each prefix."""
    return list(accumulate(ids, lambda before, token: hash((before, token)), initial=0))[1:]


@pytest.mark.parametrize("how_many", [10, *sizes(100, soak=1000)])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_random_conversations(family, how_many):
    """Of each family, so many."""
    serving, engine = make_serving(family)
    rng = random.Random(f"{family.name}, {how_many}")
    shared, causes = 0, Counter()

    async def run():
        nonlocal shared
        for number in range(how_many):
            engine.log.clear()
            agent = Agent(family, rng, serving, engine, number)
            await agent.live()
            calls = agent.client.calls
            agent.client.close()

            # What the engine consumed and produced is what is recorded, less what was superseded.
            recorded = [(c.prompt_ids, c.completion_ids, c.logprobs) for c in calls]
            kept = [entry for entry in engine.log if entry not in agent.superseded]
            assert recorded == kept

            # Every distinct prefix is one token of the tree, every sampled token one loss term.
            tree = build_tree([call.ids for call in calls])
            prefixes = {prefix for call in calls for prefix in rolling_hashes(call.ids)}
            assert len(tree.ids) == len(prefixes)
            micro_batches = pack([Sample(call, 1.0) for call in calls], 300)
            terms = sorted(p for micro in micro_batches for p in micro.sampler_logprobs.tolist())
            drawn = sorted(p for call in calls for p in call.logprobs)
            assert terms == pytest.approx(drawn)
            shared += sum(len(call.ids) for call in calls) / len(prefixes)

            # Each fork is where a call goes another way than all before it, and has a cause.
            found = {fork.call: fork for fork in merge(calls)[1]}
            assert {i: fork.position for i, fork in found.items()} == forks_among(calls)
            causes.update(fork.kind for fork in found.values())

    asyncio.run(run())
    assert shared / how_many > 1.5
    assert causes["sampled again"] > causes["edited history"]
    if how_many >= 100:
        assert causes.keys() >= {"edited history", "new conversation", "another agent"}


def forks_among(calls) -> dict[int, int]:
    """The calls that part from earlier ones, each with how many tokens it has in common."""
    forks = {}
    for i, call in enumerate(calls):
        shared = [num_shared(call.ids, other.ids) for other in calls[:i]]
        position = max(shared, default=0)
        if position < len(call.ids) and any(
            position == n < len(other.ids) for n, other in zip(shared, calls)
        ):
            forks[i] = position
    return forks


def num_shared(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def tokenised_again(template, prefix, text):
    return template.encode(text)


def with_less_space(template, prefix, text):
    ids = continues(template, prefix, text)
    kept = len(prefix.call.ids)
    return ids and ids[:kept] + [i for i in ids[kept:] if template.decode([i]).strip()]


continues = ChatTemplate._continue


@pytest.mark.parametrize("wrong", [tokenised_again, with_less_space])
def test_the_controls_are_caught(monkeypatch, wrong):
    monkeypatch.setattr(ChatTemplate, "_continue", wrong)
    with pytest.raises(AssertionError):
        test_random_conversations(QWEN25, 20)
