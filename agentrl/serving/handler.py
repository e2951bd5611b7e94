"""Handler of a model's requests: Request -> prompt -> completions -> Response and Calls.

What would bias training is not the agent's to choose: every call of the trained model is sampled
from the model's own distribution, at one temperature, with a seed of ours. The importance ratio of
a token that was sampled otherwise would be wrong.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.history import Prompt
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.protocol import Choice, Request, RequestRefused, Response, Token
from agentrl.serving.recording import Attempt, Recording
from agentrl.serving.sampling import Completion, EngineClient, Sampling
from agentrl.types import Call

log = logging.getLogger(__name__)

NEUTRAL = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
NEUTRAL |= {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}}


class Handler:
    """One model: its engine, chat template and output parser, and how it is sampled from."""

    def __init__(
        self,
        name: str,
        engine: EngineClient,
        chat_template: ChatTemplate,
        output_parser: OutputParser,
        *,
        temperature: float,
        max_tokens: int,
        max_model_len: int,
    ):
        self.name, self.engine = name, engine
        self.chat_template, self.output_parser = chat_template, output_parser
        self.num_tokens = 0
        """Completion tokens sampled so far, for the progress display."""
        self._temperature, self._max_tokens = temperature, max_tokens
        self._max_model_len = max_model_len
        self._has_warned = self._has_warned_of_grammar = False

    async def respond(self, recording: Recording, request: Request, attempt: Attempt) -> Response:
        """Sample what a request asks for and record it; cancelling aborts it.

        Raises RequestRefused where the request cannot be answered, or the episode ends meanwhile.
        """
        _check_tool_choice(request)
        grammar = self.output_parser.grammar(request)
        prompt = self._prompt(recording, request, attempt.agent)
        completions = await self._sample(recording, request, attempt, prompt, grammar)
        _check_finished(completions, grammar)
        key = (*recording.rng_key, attempt.number)
        choices = [
            self._choice(request, prompt, completion, (*key, i))
            for i, completion in enumerate(completions)
        ]
        calls = [_call(request, prompt, one, attempt.agent, grammar) for one in choices]
        if not recording.deliver(attempt, prompt, calls):
            raise _ended(recording)
        num_sampled = sum(len(completion.ids) for completion in completions)
        self.num_tokens += num_sampled
        return Response(_id(*key), int(time.time()), len(prompt.ids), num_sampled, tuple(choices))

    def _prompt(self, recording: Recording, request: Request, agent: str) -> Prompt:
        # As it is now: other threads of the episode may deliver meanwhile.
        history = dict(recording.histories.get(agent, {}))
        prompt = self.chat_template.prompt(request, history)
        if not prompt.ids:
            raise RequestRefused(400, "invalid_request", "the prompt is empty")
        if len(prompt.ids) >= self._max_model_len:
            recording.context_full = True
            raise RequestRefused(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is {self._max_model_len} tokens, "
                f"and the prompt comes to {len(prompt.ids)}.",
            )
        return prompt

    async def _sample(
        self,
        recording: Recording,
        request: Request,
        attempt: Attempt,
        prompt: Prompt,
        grammar: Any,
    ) -> list[Completion]:
        if not recording.own_sampling:
            self._say_what_is_overridden(request)
            self._say_what_is_not_trained(grammar)
        own = dict(request.sampling) if recording.own_sampling else None
        keys = [(recording.rng_key, attempt.number, i) for i in range(request.n)]
        futures = [
            self.engine.submit(prompt.ids, self._sampling(request, prompt, grammar, own, key))
            for key in keys
        ]
        recording.add(attempt, futures)
        return await _completions(recording, attempt, futures)

    def _sampling(
        self, request: Request, prompt: Prompt, grammar: Any, own: dict | None, rng_key: tuple
    ) -> Sampling:
        """own: what the agent asked to sample with; None where that is not its to choose."""
        others, max_tokens = dict(own or {}), self._max_model_len - len(prompt.ids)
        if own is None:
            max_tokens = min(max_tokens, self._max_tokens)
        return Sampling(
            temperature=others.pop("temperature", self._temperature),
            max_tokens=min(max_tokens, request.max_tokens or self._max_tokens),
            seed=others.pop("seed", _seed(*rng_key[0], *rng_key[1:])),
            stop=request.stop,
            top_logprobs=request.top_logprobs or 0,
            grammar=grammar,
            rng_key=rng_key,
            others=others,
        )

    def _choice(
        self, request: Request, prompt: Prompt, completion: Completion, key: tuple
    ) -> Choice:
        """What the agent gets of a completion; key: what the ids of its tool calls depend on."""
        text, said = self._texts(completion)
        if request.prompt is None:
            reply = self.output_parser.parse(request, prompt.ids, completion.ids, said)
        else:
            reply = {"role": "assistant", "content": said}
        calls = reply.get("tool_calls", [])
        for j, call in enumerate(calls):
            call["id"] = _id(*key, j)
        kept = calls if request.parallel_tool_calls else calls[:1]
        if calls:
            reply["tool_calls"] = kept
        shown_whole = completion.cut_text is None and len(kept) == len(calls)
        tokens = () if request.top_logprobs is None else self._tokens(completion)
        return Choice(completion, text, reply, shown_whole, tokens)

    def _texts(self, completion: Completion) -> tuple[str, str]:
        """The whole text, and what of it the model said: neither its end token nor a stop string"""
        text = self.chat_template.decode(completion.ids)
        if completion.cut_text is not None:
            return text, completion.cut_text
        if completion.finish_reason != "stop":
            return text, text
        return text, text.removesuffix(self.chat_template.decode_token(completion.ids[-1]))

    def _tokens(self, completion: Completion) -> tuple[Token, ...]:
        text = self.chat_template.decode_token
        top = completion.top or ((),) * len(completion.ids)
        return tuple(
            Token(text(i), logprob, tuple((text(other), p) for other, p in top))
            for i, logprob, top in zip(completion.ids, completion.logprobs, top, strict=True)
        )

    def _say_what_is_not_trained(self, grammar: Any) -> None:
        if grammar is not None and not self._has_warned_of_grammar:
            self._has_warned_of_grammar = True
            log.warning(
                "the agent asked for a schema, or for a forced or strict tool: what is drawn from "
                "such a masked distribution is recorded, and not trained (said once; "
                "tokens/under_grammar counts it)"
            )

    def _say_what_is_overridden(self, request: Request) -> None:
        if self._has_warned or not request.sampling:
            return
        same = {**NEUTRAL, "temperature": self._temperature}
        asked = {name for name, value in request.sampling.items() if same.get(name) != value}
        if asked:
            self._has_warned = True
            log.warning(
                "the agent chose its own %s; every call is drawn at temperature %g instead, "
                "so that what is trained is what was sampled (said once)",
                ", ".join(sorted(asked)),
                self._temperature,
            )


def _check_tool_choice(request: Request) -> None:
    if request.tool_choice not in ("auto", "none") and not request.tools:
        raise RequestRefused(400, "invalid_request", "tool_choice asks for a tool without tools")


async def _completions(
    recording: Recording, attempt: Attempt, futures: Sequence[Future]
) -> list[Completion]:
    waiting = [asyncio.wrap_future(future) for future in futures]
    try:
        return [await future for future in waiting]
    except asyncio.CancelledError:
        # Either our caller was cancelled, or the engine's calls were, by whoever ended them.
        if attempt.state == "running" and recording.is_open:
            raise
        raise _ended(recording) from None
    except ValueError as error:
        raise RequestRefused(400, "invalid_request", str(error)) from error
    finally:
        for future in waiting:
            future.cancel()


def _check_finished(completions: Sequence[Completion], grammar: Any) -> None:
    for completion in completions:
        if completion.finish_reason not in ("stop", "length"):
            reason = f"vLLM ended with {completion.finish_reason!r}, as for a bad schema"
            raise RequestRefused(400 if grammar else 500, "invalid_request", reason)


def _call(request: Request, prompt: Prompt, choice: Choice, agent: str, grammar: Any) -> Call:
    return Call(
        prompt_ids=prompt.ids,
        completion_ids=choice.completion.ids,
        logprobs=choice.completion.logprobs,
        finish_reason=choice.completion.finish_reason,
        agent=agent,
        text=choice.text,
        messages=request.messages,
        tools=request.tools,
        template_arguments=request.template_arguments,
        reply=choice.message,
        shown_whole=choice.shown_whole,
        under_grammar=grammar is not None,
    )


def _ended(recording: Recording) -> RequestRefused:
    if recording.is_open:
        return RequestRefused(409, "superseded", "a retry of this request has taken its place")
    return RequestRefused(401, "invalid_api_key", "the episode has ended")


def _id(*key: Any) -> str:
    """Nine letters and digits, on which Mistral's template insists; no two keys share them."""
    return _digest(key).hex()[:9]


def _seed(*key: Any) -> int:
    return int.from_bytes(_digest(key), "big") >> 1


def _digest(key: tuple) -> bytes:
    return hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
