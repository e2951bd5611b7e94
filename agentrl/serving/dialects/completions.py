"""OpenAI's text completions: ``POST /v1/completions``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from agentrl.serving.dialects import Dialect, openai_error
from agentrl.serving.dialects.base import Sampled, StopStrings, StreamOptions
from agentrl.serving.dialects.chat_completions import usage
from agentrl.serving.protocol import Choice, Request, Response

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


Prompt = Annotated[str, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]


class CompletionBody(Sampled):
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    """Text, or token ids, or a list of one of them. A prompt that begins with an earlier one and
    its completion continues from their ids."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    stop: Annotated[str, Field(min_length=1)] | StopStrings | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


def request(body: CompletionBody, _: dict) -> Request:
    prompt = body.prompt
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        (prompt,) = prompt
    return Request(
        model=body.model,
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        n=body.n or 1,
        max_tokens=body.max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        top_logprobs=body.logprobs,
        sampling=body.sampling,
    )


def whole(response: Response, body: CompletionBody, request: Request) -> dict:
    choices = [_choice(i, choice, request) for i, choice in enumerate(response.choices)]
    return {**_envelope(response, request, choices), "usage": usage(response)}


def events(
    response: Response, body: CompletionBody, request: Request
) -> Iterator[tuple[None, Any]]:
    for i, choice in enumerate(response.choices):
        yield None, _envelope(response, request, [_choice(i, choice, request)])
    if body.stream_options and body.stream_options.get("include_usage"):
        yield None, {**_envelope(response, request, []), "usage": usage(response)}
    yield None, "[DONE]"


def _envelope(response: Response, request: Request, choices: list[dict]) -> dict:
    return {
        "id": f"cmpl-{response.id}",
        "object": "text_completion",
        "created": response.created,
        "model": request.model,
        "choices": choices,
    }


def _choice(index: int, choice: Choice, request: Request) -> dict:
    return {
        "index": index,
        "text": choice.message["content"],
        "logprobs": _logprobs(choice) if request.top_logprobs is not None else None,
        "finish_reason": choice.finish_reason,
    }


def _logprobs(choice: Choice) -> dict:
    starts = [0]
    for said in choice.tokens:
        starts.append(starts[-1] + len(said.text))
    return {
        "tokens": [said.text for said in choice.tokens],
        "token_logprobs": [max(said.logprob, -9999.0) for said in choice.tokens],
        "top_logprobs": [
            {text: max(logprob, -9999.0) for text, logprob in said.top} for said in choice.tokens
        ],
        "text_offset": starts[:-1],
    }


DIALECT = Dialect("/v1/completions", CompletionBody, request, whole, events, openai_error)
