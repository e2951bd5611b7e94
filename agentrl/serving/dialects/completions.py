"""OpenAI's text completions: ``POST /v1/completions``."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field

from agentrl.serving.dialects import Dialect, openai_error
from agentrl.serving.dialects.base import CompletionOptions
from agentrl.serving.dialects.chat_completions import usage
from agentrl.serving.protocol import Choice, Request, Response

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Prompt = Annotated[str, Field(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]


class CompletionBody(CompletionOptions):
    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    """Text, or token ids, or a list of one of them. A prompt that begins with an earlier one and
    its completion continues from their ids."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


def request(body: CompletionBody, _: Any) -> Request:
    prompt = body.prompt
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        (prompt,) = prompt
    return Request(
        model=body.model,
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        n=body.n,
        max_tokens=body.max_tokens,
        stop=body.stop,
        top_logprobs=body.logprobs,
        sampling=body.sampling,
    )


def whole(response: Response, body: CompletionBody, request: Request) -> dict:
    choices = [_choice(i, choice, body, request) for i, choice in enumerate(response.choices)]
    return {**_envelope(response, body, request, choices), "usage": usage(response)}


def events(
    response: Response, body: CompletionBody, request: Request
) -> Iterator[tuple[None, Any]]:
    for i, choice in enumerate(response.choices):
        yield None, _envelope(response, body, request, [_choice(i, choice, body, request)])
    if body.include_usage:
        yield None, {**_envelope(response, body, request, []), "usage": usage(response)}
    yield None, "[DONE]"


def _envelope(
    response: Response, body: CompletionBody, request: Request, choices: list[dict]
) -> dict:
    return {
        "id": f"cmpl-{response.id}",
        "object": "text_completion",
        "created": response.created,
        "model": request.model,
        "choices": choices,
        **body.token_ids(prompt_token_ids=response.prompt_ids),
    }


def _choice(index: int, choice: Choice, body: CompletionBody, request: Request) -> dict:
    return {
        "index": index,
        "text": choice.message["content"],
        "logprobs": _logprobs(choice) if request.top_logprobs is not None else None,
        "finish_reason": choice.finish_reason,
        **body.token_ids(token_ids=choice.call.completion_ids),
    }


def _logprobs(choice: Choice) -> dict:
    texts = [said.text for said in choice.tokens]
    return {
        "tokens": texts,
        "token_logprobs": [said.logprob for said in choice.tokens],
        "top_logprobs": [dict(said.top) for said in choice.tokens],
        "text_offset": list(accumulate(map(len, texts[:-1]), initial=0)),
    }


DIALECT = Dialect("/v1/completions", CompletionBody, request, whole, events, openai_error)
