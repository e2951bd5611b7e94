"""A model behind the endpoint: how a turn becomes an answer, and a record.

What would bias training is not the agent's to choose: every call of the trained model is drawn from
the model's own distribution, at one temperature, with a seed of ours. The importance ratio of a
token that was drawn otherwise would be wrong.
"""

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from agentrl.serving.chat_template import Chat
from agentrl.serving.engine import Engine
from agentrl.serving.history import Context, Prompt
from agentrl.serving.protocol import Answer, Choice, RequestRefused, Token, Turn
from agentrl.serving.recording import AgentKey, Attempt, Session
from agentrl.serving.sampling import Completion, Sampling
from agentrl.types import Call

log = logging.getLogger(__name__)

NEUTRAL = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
NEUTRAL |= {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}}


@dataclass(frozen=True)
class Prepared:
    """A request that can be answered."""

    seat: AgentKey
    turn: Turn
    prompt: Prompt
    grammar: Any
    """vLLM's, where the completion must follow one."""


class Handler:
    """An engine and a chat template, and how to sample from them."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        chat: Chat,
        *,
        temperature: float,
        max_tokens: int,
        max_model_len: int,
    ):
        self.name, self.engine, self.chat = name, engine, chat
        self.num_tokens = 0
        """Completion tokens drawn so far, for the progress display."""
        self._temperature, self._max_tokens, self._max_model_len = (
            temperature,
            max_tokens,
            max_model_len,
        )
        self._has_warned = self._has_warned_of_grammar = False

    async def answer(self, seat: AgentKey, turn: Turn, attempt: Attempt) -> Answer:
        """Draw what a turn asks for and record it; cancelling aborts it.

        Raises RequestRefused where the turn cannot be answered, or the episode ends meanwhile.
        """
        request = self._prepare(seat, turn)
        drawn = await self._draw(request, attempt)
        answer, calls, contexts = self._read(request, attempt, drawn)
        if not seat.session.deliver(attempt, calls, contexts):
            raise _ended(seat.session)
        self.num_tokens += answer.completion_tokens
        return answer

    def _prepare(self, seat: AgentKey, turn: Turn) -> Prepared:
        session = seat.session
        if turn.tool_choice not in ("auto", "none") and not turn.tools:
            raise RequestRefused(
                400, "invalid_request", "tool_choice asks for a tool without tools"
            )
        grammar = self.chat.output_parser.grammar(turn)
        # As it is now: other threads of the episode may deliver meanwhile.
        past = dict(session.past.get(seat.agent, {}))
        if turn.prompt is None:
            prompt = self.chat.prompt(turn, past)
        else:
            prompt = self.chat.plain_prompt(turn.prompt, past)
        if not prompt.ids:
            raise RequestRefused(400, "invalid_request", "the prompt is empty")
        if len(prompt.ids) >= self._max_model_len:
            session.context_full = True
            raise RequestRefused(
                400,
                "context_length_exceeded",
                f"This model's maximum context length is {self._max_model_len} tokens, "
                f"and the prompt comes to {len(prompt.ids)}.",
            )
        return Prepared(seat, turn, prompt, grammar)

    async def _draw(self, request: Prepared, attempt: Attempt) -> list[Completion]:
        session = request.seat.session
        places = [(session.seed, attempt.number, i) for i in range(request.turn.n)]
        futures = [
            self.engine.submit(request.prompt.ids, self._sampling(request, place))
            for place in places
        ]
        session.add(attempt, futures)
        waiting = [asyncio.wrap_future(future) for future in futures]
        try:
            return [await future for future in waiting]
        except asyncio.CancelledError:
            # Either our caller was cancelled, or the engine's calls were, by whoever ended them.
            if attempt.state == "running" and session.is_open:
                raise
            raise _ended(session) from None
        except ValueError as error:
            raise RequestRefused(400, "invalid_request", str(error)) from error
        finally:
            for future in waiting:
                future.cancel()

    def _sampling(self, request: Prepared, place: tuple) -> Sampling:
        turn, room = request.turn, self._max_model_len - len(request.prompt.ids)
        own = {}
        if request.seat.session.own_sampling:
            own = dict(turn.sampling)
        else:
            self._say_what_is_overridden(turn)
            self._say_what_is_not_trained(request)
            room = min(room, self._max_tokens)
        return Sampling(
            temperature=own.pop("temperature", self._temperature),
            max_tokens=min(room, turn.max_tokens or self._max_tokens),
            seed=own.pop("seed", _seed(*place[0], *place[1:])),
            stop=turn.stop,
            top_logprobs=turn.top_logprobs or 0,
            grammar=request.grammar,
            place=place,
            others=own,
        )

    def _read(
        self, request: Prepared, attempt: Attempt, drawn: list[Completion]
    ) -> tuple[Answer, list[Call], list[Context]]:
        turn, prompt, place = request.turn, request.prompt, request.seat.session.seed
        choices, calls, contexts = [], [], []
        for i, completion in enumerate(drawn):
            if completion.finish_reason not in ("stop", "length"):
                status = 400 if request.grammar else 500
                reason = f"vLLM ended with {completion.finish_reason!r}, as for a bad schema"
                raise RequestRefused(status, "invalid_request", reason)
            text = self.chat.decode(completion.ids)
            place_of_choice = (*place, attempt.number, i)
            choice, context = self._choice(turn, prompt, completion, text, place_of_choice)
            choices.append(choice)
            contexts += [context] if context else []
            calls.append(
                Call(
                    prompt_ids=prompt.ids,
                    completion_ids=completion.ids,
                    logprobs=completion.logprobs,
                    finish_reason=completion.finish_reason,
                    agent=request.seat.agent,
                    text=text,
                    messages=turn.messages,
                    tools=turn.tools,
                    template_arguments=turn.template_arguments,
                    reply=choice.message,
                    shown_whole=context is not None,
                    under_grammar=request.grammar is not None,
                )
            )
        answer_id = _id(*place, attempt.number)
        num_drawn = sum(len(completion.ids) for completion in drawn)
        answer = Answer(answer_id, int(time.time()), len(prompt.ids), num_drawn, tuple(choices))
        return answer, calls, contexts

    def _choice(
        self, turn: Turn, prompt: Prompt, completion: Completion, text: str, place: tuple
    ) -> tuple[Choice, Context | None]:
        chat, ids = self.chat, completion.ids
        ended = completion.finish_reason == "stop" and completion.cut_text is None
        said = completion.cut_text
        if said is None:
            said = text.removesuffix(chat.decode_token(ids[-1])) if ended else text
        if turn.prompt is None:
            reply = chat.output_parser.parse(turn, prompt.ids, ids, said)
        else:
            reply = {"role": "assistant", "content": said}
        calls = reply.get("tool_calls", [])
        for j, call in enumerate(calls):
            call["id"] = _id(*place, j)
        kept = calls if turn.parallel_tool_calls else calls[:1]
        if calls:
            reply["tool_calls"] = kept
        # An agent that saw less than was drawn cannot go on from there.
        saw_all = completion.cut_text is None and len(kept) == len(calls)
        context = chat.context(prompt, ids, text, reply, ended) if saw_all else None
        return Choice(completion, reply, self._tokens(turn, completion)), context

    def _tokens(self, turn: Turn, completion: Completion) -> tuple[Token, ...]:
        if turn.top_logprobs is None:
            return ()
        text = self.chat.decode_token
        top = completion.top or ((),) * len(completion.ids)
        return tuple(
            Token(text(i), logprob, tuple((text(other), p) for other, p in top))
            for i, logprob, top in zip(completion.ids, completion.logprobs, top, strict=True)
        )

    def _say_what_is_not_trained(self, request: Prepared) -> None:
        if request.grammar is not None and not self._has_warned_of_grammar:
            self._has_warned_of_grammar = True
            log.warning(
                "the agent asked for a schema, or for a forced or strict tool: what is drawn from "
                "such a masked distribution is recorded, and not trained (said once; "
                "tokens/under_grammar counts it)"
            )

    def _say_what_is_overridden(self, turn: Turn) -> None:
        if self._has_warned or not turn.sampling:
            return
        same = {**NEUTRAL, "temperature": self._temperature}
        asked = {name for name, value in turn.sampling.items() if same.get(name) != value}
        if asked:
            self._has_warned = True
            log.warning(
                "the agent chose its own %s; every call is drawn at temperature %g instead, "
                "so that what is trained is what was sampled (said once)",
                ", ".join(sorted(asked)),
                self._temperature,
            )


def _ended(session: Session) -> RequestRefused:
    if session.is_open:
        return RequestRefused(409, "superseded", "a retry of this request has taken its place")
    return RequestRefused(401, "invalid_api_key", "the episode has ended")


def _id(*place: Any) -> str:
    """Nine letters and digits, on which Mistral's template insists; no two places share them."""
    return _digest(place).hex()[:9]


def _seed(*place: Any) -> int:
    return int.from_bytes(_digest(place), "big") >> 1


def _digest(place: tuple) -> bytes:
    return hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
