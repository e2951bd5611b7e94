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
from dataclasses import replace
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
        strict_tools: bool = False,
    ):
        """strict_tools: see ``SamplingConfig``."""
        self.name, self.engine = name, engine
        self.chat_template, self.output_parser = chat_template, output_parser
        self.num_tokens = 0
        """Completion tokens sampled so far, for the progress display."""
        self._temperature, self._max_tokens = temperature, max_tokens
        self.max_model_len, self._strict_tools = max_model_len, strict_tools
        self._warnings: set[str] = set()

    async def respond(self, request: Request, attempt: Attempt) -> Response:
        """Sample what a request asks for and record it; cancelling aborts it.

        Raises RequestRefused where the request cannot be answered, or the episode ends meanwhile.
        """
        if request.tool_choice not in ("auto", "none") and not request.tools:
            message = "tool_choice asks for a tool without tools"
            raise RequestRefused(400, "invalid_request", message)
        request = self._as_drawn(request)
        grammar = self.output_parser.grammar(request)
        prompt = self._fitting_prompt(request, attempt)
        completions = await self._sample(request, attempt, prompt, grammar)
        _check_finished(completions, grammar)
        key = (*attempt.recording.rng_key, attempt.number)
        choices = tuple(
            self._choice(request, prompt, completion, attempt.agent, grammar, (*key, i))
            for i, completion in enumerate(completions)
        )
        if not attempt.recording.deliver(attempt, prompt, [choice.call for choice in choices]):
            raise _ended(attempt)
        response = Response(_id(*key), int(time.time()), choices)
        self.num_tokens += response.completion_tokens
        return response

    def count(self, request: Request, recording: Recording, agent: str) -> int:
        """How many tokens a request's prompt would have."""
        return len(self._prompt(self._as_drawn(request), recording, agent).ids)

    def _as_drawn(self, request: Request) -> Request:
        if self._strict_tools:
            return request
        return replace(request, tools=tuple(map(_not_strict, request.tools)))

    def _prompt(self, request: Request, recording: Recording, agent: str) -> Prompt:
        # As it is now: other threads of the episode may deliver meanwhile.
        history = dict(recording.histories.get(agent, {}))
        return self.chat_template.prompt(request, history)

    def _fitting_prompt(self, request: Request, attempt: Attempt) -> Prompt:
        prompt = self._prompt(request, attempt.recording, attempt.agent)
        if len(prompt.ids) >= self.max_model_len:
            attempt.recording.context_full = True
            raise RequestRefused(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is {self.max_model_len} tokens, "
                f"and the prompt comes to {len(prompt.ids)}.",
            )
        return prompt

    async def _sample(
        self, request: Request, attempt: Attempt, prompt: Prompt, grammar: Any
    ) -> list[Completion]:
        recording = attempt.recording
        if not recording.own_sampling:
            self._say_what_training_decides(request, recording, grammar)
        keys = [(recording.rng_key, attempt.number, i) for i in range(request.n)]
        futures = [
            self.engine.submit(prompt.ids, self._sampling(request, prompt, grammar, recording, key))
            for key in keys
        ]
        recording.add(attempt, futures)
        return await _completions(attempt, futures)

    def _sampling(
        self, request: Request, prompt: Prompt, grammar: Any, recording: Recording, rng_key: tuple
    ) -> Sampling:
        others, max_tokens = {}, self.max_model_len - len(prompt.ids)
        if recording.own_sampling:
            others = dict(request.sampling)
        else:
            max_tokens = min(max_tokens, self._max_tokens)
        return Sampling(
            temperature=others.pop("temperature", self._temperature_of(recording)),
            max_tokens=min(max_tokens, request.max_tokens or self._max_tokens),
            seed=others.pop("seed", seed_of(*rng_key[0], *rng_key[1:])),
            stop=request.stop,
            top_logprobs=request.top_logprobs or 0,
            grammar=grammar,
            rng_key=rng_key,
            others=others,
        )

    def _choice(
        self,
        request: Request,
        prompt: Prompt,
        completion: Completion,
        agent: str,
        grammar: Any,
        key: tuple,
    ) -> Choice:
        """What is recorded of a completion; key: what the ids of its tool calls depend on."""
        call = Call(
            prompt_ids=prompt.ids,
            completion_ids=completion.ids,
            logprobs=completion.logprobs,
            finish_reason=completion.finish_reason,
            agent=agent,
            text=self.chat_template.decode(completion.ids),
            messages=request.messages,
            tools=request.tools,
            template_arguments=request.template_arguments,
            shown_whole=completion.cut_text is None,
            under_grammar=grammar is not None,
        )
        said = completion.cut_text
        if said is None:
            said, _ = self.chat_template.said_and_end(call)
        call = self._with_reply(call, request, said, key)
        tokens = () if request.top_logprobs is None else self._tokens(completion)
        return Choice(call, completion.stop, tokens)

    def _with_reply(self, call: Call, request: Request, said: str, key: tuple) -> Call:
        """said: its text, without an end token or a stop string."""
        if request.prompt is not None:
            return replace(call, reply={"role": "assistant", "content": said})
        reply = self.output_parser.parse(request, call.prompt_ids, call.completion_ids, said)
        calls = reply.get("tool_calls", [])
        for j, tool_call in enumerate(calls):
            tool_call["id"] = _id(*key, j)
        if len(calls) > 1 and not request.parallel_tool_calls:
            return replace(call, reply={**reply, "tool_calls": calls[:1]}, shown_whole=False)
        return replace(call, reply=reply)

    def _tokens(self, completion: Completion) -> tuple[Token, ...]:
        def token(token_id: int, logprob: float) -> tuple[str, float]:
            # JSON knows no infinity; OpenAI writes -9999.
            return self.chat_template.decode_token(token_id), max(logprob, -9999.0)

        top = completion.top or ((),) * len(completion.ids)
        return tuple(
            Token(*token(i, logprob), tuple(token(*other) for other in others))
            for i, logprob, others in zip(completion.ids, completion.logprobs, top, strict=True)
        )

    def _temperature_of(self, recording: Recording) -> float:
        return self._temperature if recording.temperature is None else recording.temperature

    def _say_what_training_decides(
        self, request: Request, recording: Recording, grammar: Any
    ) -> None:
        temperature = self._temperature_of(recording)
        same = {**NEUTRAL, "temperature": temperature}
        asked = {name for name, value in request.sampling.items() if same.get(name) != value}
        if asked:
            self._warn_once(
                "the agent chose its own %s; every call is drawn at temperature %g instead, "
                "so that what is trained is what was sampled",
                *(", ".join(sorted(asked)), temperature),
            )
        if grammar is not None:
            self._warn_once(
                "the agent asked for a schema, or for a forced or strict tool: what is drawn from "
                "such a masked distribution is recorded, counted as tokens/under_grammar, and not "
                "trained"
            )

    def _warn_once(self, message: str, *values: Any) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            log.warning(f"{message} (said once)", *values)


async def _completions(attempt: Attempt, futures: Sequence[Future]) -> list[Completion]:
    waiting = [asyncio.wrap_future(future) for future in futures]
    try:
        return [await future for future in waiting]
    except asyncio.CancelledError:
        # Either our caller was cancelled, or the engine's calls were, by whoever ended them.
        if attempt.state == "running" and attempt.recording.is_open:
            raise
        raise _ended(attempt) from None
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


def _not_strict(tool: dict) -> dict:
    """A tool whose arguments the model writes freely, as it does where nobody says ``strict``."""
    function = tool.get("function")
    if not isinstance(function, dict) or "strict" not in function:
        return tool
    return {**tool, "function": {k: v for k, v in function.items() if k != "strict"}}


def _ended(attempt: Attempt) -> RequestRefused:
    if attempt.recording.is_open:
        return RequestRefused(409, "superseded", "a retry of this request has taken its place")
    return RequestRefused(401, "invalid_api_key", "the episode has ended")


def _id(*key: Any) -> str:
    """Nine letters and digits, on which Mistral's template insists; no two keys share them."""
    return _digest(key).hex()[:9]


def seed_of(*key: Any) -> int:
    """A number below 2**63, the same for equal keys in every process."""
    return int.from_bytes(_digest(key), "big") >> 1


def _digest(key: tuple) -> bytes:
    return hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
