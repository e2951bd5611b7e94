"""OpenAI's chat completions: ``POST /v1/chat/completions``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Required

from pydantic import Field

from agentrl.serving.dialects import Dialect, openai_error, text_of
from agentrl.serving.dialects.base import CompletionOptions, Known, NoArguments
from agentrl.serving.protocol import Choice, Request, Response
from agentrl.types import Message


class Part(Known, total=False):
    type: Required[Literal["text"]]
    text: Required[str]


class Function(Known, total=False):
    name: Required[str]
    arguments: Required[Annotated[str | dict[str, Any], NoArguments]]


class ToolCall(Known, total=False):
    id: str | None
    type: Literal["function"] | None
    function: Required[Function]


class ChatMessage(Known, total=False):
    role: Required[Literal["system", "developer", "user", "assistant", "tool"]]
    content: str | list[Part] | None
    name: str | None
    tool_calls: list[ToolCall] | None
    tool_call_id: str | None
    reasoning_content: str | None
    reasoning: str | None
    function_call: None
    """Of the API before tools; it would be lost."""


class Named(Known, total=False):
    name: Required[str]


class ToolChoice(Known, total=False):
    type: Required[Literal["function"]]
    function: Required[Named]


class ChatBody(CompletionOptions):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tool_choice: Literal["auto", "none", "required"] | ToolChoice = "auto"
    # vLLM says what is wrong in these two, when it makes a grammar of them.
    tools: tuple[dict[str, Any], ...] = ()
    response_format: dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    reasoning_effort: str | None = None
    """Handed to the chat template."""


def request(body: ChatBody, _: Any) -> Request:
    effort = {"reasoning_effort": body.reasoning_effort} if body.reasoning_effort else {}
    return Request(
        model=body.model,
        messages=tuple(_plain_message(message) for message in body.messages),
        tools=tuple(map(_plain_tool, body.tools)),
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=body.response_format,
        template_arguments={**effort, **body.chat_template_kwargs},
        n=body.n,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=body.stop,
        top_logprobs=body.top_logprobs if body.logprobs or body.top_logprobs else None,
        sampling=body.sampling,
    )


def _plain_message(message: dict[str, Any]) -> Message:
    """A message in the one form that templates, records and judges see."""
    role = "system" if message["role"] == "developer" else message["role"]
    plain: Message = {"role": role, "content": text_of(message.get("content"))}
    for name in ("name", "tool_call_id"):
        if message.get(name):
            plain[name] = message[name]
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = calls
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        plain["reasoning_content"] = reasoning
    return plain


def _plain_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Without what is for a provider's cache; keys in their order, as the template shows them."""
    return {name: tool[name] for name in tool if name in ("type", "function")}


def whole(response: Response, body: ChatBody, request: Request) -> dict:
    choices = [
        {
            "index": i,
            "message": _message(choice.message),
            "logprobs": _logprobs(choice, request),
            "finish_reason": choice.finish_reason,
            **body.token_ids(token_ids=choice.call.completion_ids),
        }
        for i, choice in enumerate(response.choices)
    ]
    return {**_envelope(response, body, request, "", choices), "usage": usage(response)}


def events(response: Response, body: ChatBody, request: Request) -> Iterator[tuple[None, Any]]:
    extra = {"usage": None} if body.include_usage else {}
    for i, choice in enumerate(response.choices):
        ending = {"index": i, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason}
        for said in (*_deltas(choice, i, body, request), ending):
            yield None, _envelope(response, body, request, ".chunk", [said]) | extra
    if body.include_usage:
        last = _envelope(response, body, request, ".chunk", [])
        yield None, {**last, "usage": usage(response)}
    yield None, "[DONE]"


def usage(response: Response) -> dict:
    return {
        "prompt_tokens": response.prompt_tokens,
        "completion_tokens": response.completion_tokens,
        "total_tokens": response.prompt_tokens + response.completion_tokens,
        # Some agents look into these without asking whether they are there.
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _message(reply: Message) -> dict:
    content = reply["content"]
    return {**reply, "content": content or None if reply.get("tool_calls") else content}


def _deltas(choice: Choice, index: int, body: ChatBody, request: Request) -> Iterator[dict]:
    """A choice in parts; what each token has to it comes with the first that says something."""
    said = list(_parts(choice.message))
    for j, delta in enumerate(({"role": "assistant", "content": ""}, *said)):
        written = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if j == min(1, len(said)):
            written["logprobs"] = _logprobs(choice, request)
            written |= body.token_ids(token_ids=choice.call.completion_ids)
        yield written


def _parts(reply: Message) -> Iterator[dict]:
    for name in ("reasoning_content", "content"):
        if reply.get(name):
            yield {name: reply[name]}
    for i, call in enumerate(reply.get("tool_calls") or ()):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opened = {"index": i, "id": call["id"], "type": "function"}
        yield {"tool_calls": [{**opened, "function": {"name": name, "arguments": ""}}]}
        yield {"tool_calls": [{"index": i, "function": {"arguments": arguments}}]}


def _envelope(
    response: Response, body: ChatBody, request: Request, kind: str, choices: list[dict]
) -> dict:
    return {
        "id": f"chatcmpl-{response.id}",
        "object": f"chat.completion{kind}",
        "created": response.created,
        "model": request.model,
        "choices": choices,
        **body.token_ids(prompt_token_ids=response.prompt_ids),
    }


def _logprobs(choice: Choice, request: Request) -> dict | None:
    if request.top_logprobs is None:
        return None
    return {"content": token_logprobs(choice), "refusal": None}


def token_logprobs(choice: Choice) -> list[dict]:
    """Every token that was drawn, with its log-probability and the likeliest alternatives."""
    return [
        {**_token(said.text, said.logprob), "top_logprobs": [_token(*other) for other in said.top]}
        for said in choice.tokens
    ]


def _token(text: str, logprob: float) -> dict:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


DIALECT = Dialect("/v1/chat/completions", ChatBody, request, whole, events, openai_error)
