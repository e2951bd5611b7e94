"""Somebody's OpenAI-compatible server behind our endpoint, in the place of a model of our own.

Agents speak to the endpoint in any of its dialects, and episodes are recorded as ever, but for what
such a server does not tell: the token ids.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx2

from agentrl.serving.dialects.chat_completions import plain_message
from agentrl.serving.protocol import Answer, Choice, RequestRefused, Token, Turn
from agentrl.serving.recording import AgentKey, Attempt
from agentrl.serving.sampling import Completion
from agentrl.types import Call

PATIENCE_SECONDS = 600.0


class NoEngine:
    """In the place of an engine, where nothing is drawn in this process."""

    def enter(self, episode: tuple) -> None: ...

    def leave(self, episode: tuple) -> None: ...

    def raise_if_stopped(self) -> None: ...

    def close(self) -> None: ...


class Forwarded:
    """A model at ``base_url``, ``/v1`` included.

    Raises ValueError, a sentence, where there is none. name: absent where it has one model only.
    """

    def __init__(self, base_url: str, api_key: str, name: str | None = None):
        self.engine, self.num_tokens = NoEngine(), 0
        self._base_url = base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"}
        self.name = self._find_model(name)

    async def answer(self, seat: AgentKey, turn: Turn, attempt: Attempt) -> Answer:
        """What the server says, and a record of it; cancelling hangs up on it."""
        is_chat = turn.prompt is None
        answer = await self._post(
            "chat/completions" if is_chat else "completions", _body(turn, self.name), seat
        )
        choices = tuple(_choice(given, is_chat) for given in answer["choices"])
        calls = [
            Call(
                prompt_ids=[],
                completion_ids=[],
                logprobs=[],
                finish_reason=choice.completion.finish_reason,
                agent=seat.agent,
                text=choice.message["content"],
                messages=turn.messages,
                tools=turn.tools,
                template_arguments=turn.template_arguments,
                reply=choice.message,
            )
            for choice in choices
        ]
        if not seat.session.deliver(attempt, calls, []):
            raise RequestRefused(401, "invalid_api_key", "the episode has ended")
        usage = answer.get("usage") or {}
        drawn = usage.get("completion_tokens", 0)
        self.num_tokens += drawn
        number = f"{attempt.number:09d}"
        return Answer(number, int(time.time()), usage.get("prompt_tokens", 0), drawn, choices)

    async def _post(self, route: str, body: dict, seat: AgentKey) -> dict:
        url = f"{self._base_url}/{route}"
        # A client for each, because one belongs to the event loop that it was first used in.
        try:
            async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
                response = await client.post(url, json=body, headers=self._headers)
        except httpx2.TransportError as error:
            cause = str(error) or type(error).__name__
            raise RequestRefused(502, "unreachable", f"{url} does not answer ({cause})") from error
        if response.status_code != 200:
            code, message = _refusal(response)
            if code == "context_length_exceeded" or "maximum context length" in message:
                seat.session.context_full = True
            raise RequestRefused(response.status_code, code, f"{url} refuses: {message}")
        return response.json()

    def _find_model(self, name: str | None) -> str:
        url = f"{self._base_url}/models"
        try:
            response = httpx2.get(url, headers=self._headers, timeout=10.0)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ValueError(
                f"--base-url {self._base_url} is no address: give one like http://127.0.0.1:8000/v1"
            ) from error
        except httpx2.TransportError as error:
            raise ValueError(
                f"nothing answers at --base-url {self._base_url} ({error}): is the server running?"
            ) from error
        if response.status_code in (401, 403):
            raise ValueError(f"{self._base_url} does not take this key: give its own, --api-key")
        if name is not None:
            return name
        try:
            names = [model["id"] for model in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            names = []
        if response.status_code != 200 or not names:
            raise ValueError(
                f"{url} lists no models: does --base-url end in /v1? Else name one with --model"
            )
        if len(names) > 1:
            raise ValueError(f"{url} lists {', '.join(names)}: choose one with --model")
        return names[0]


def _body(turn: Turn, name: str) -> dict[str, Any]:
    arguments = dict(turn.template_arguments)
    asked = {
        "model": name,
        turn.limit: turn.max_tokens,
        "stop": list(turn.stop) or None,
        "n": turn.n if turn.n > 1 else None,
        **turn.sampling,
    }
    if turn.prompt is not None:
        given = turn.prompt if isinstance(turn.prompt, str) else list(turn.prompt)
        asked |= {"prompt": given, "logprobs": turn.top_logprobs}
    else:
        asked |= {
            "messages": list(turn.messages),
            "response_format": turn.response_format,
            # To us an argument of the template, to others an option.
            "reasoning_effort": arguments.pop("reasoning_effort", None),
            "chat_template_kwargs": arguments or None,
            "logprobs": True if turn.top_logprobs is not None else None,
            "top_logprobs": turn.top_logprobs,
        }
    if turn.tools:
        asked |= {"tools": list(turn.tools), "tool_choice": turn.tool_choice}
        asked |= {} if turn.parallel_tool_calls else {"parallel_tool_calls": False}
    return {option: value for option, value in asked.items() if value is not None}


def _choice(given: Mapping[str, Any], is_chat: bool) -> Choice:
    if not is_chat:
        message = {"role": "assistant", "content": given["text"]}
        return Choice(Completion([], [], given["finish_reason"]), message)
    message = plain_message({**given["message"], "role": "assistant"})
    finish = "stop" if given["finish_reason"] == "tool_calls" else given["finish_reason"]
    return Choice(Completion([], [], finish), message, _tokens(given.get("logprobs")))


def _tokens(logprobs: Mapping[str, Any] | None) -> tuple[Token, ...]:
    return tuple(
        Token(
            entry["token"],
            entry["logprob"],
            tuple((top["token"], top["logprob"]) for top in entry.get("top_logprobs") or ()),
        )
        for entry in (logprobs or {}).get("content") or ()
    )


def _refusal(response: httpx2.Response) -> tuple[str, str]:
    """The code and the message of an error, as far as the server gives them."""
    try:
        error = response.json()["error"]
        return str(error.get("code") or "refused"), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "refused", f"{response.status_code} {response.text[:200]}"
