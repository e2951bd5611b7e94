"""OpenAI's chat completions: ``POST /v1/chat/completions``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from agentrl.serving.dialects import Dialect, openai_error, text_of
from agentrl.serving.dialects.base import Known, Sampled, StopStrings, StreamOptions
from agentrl.serving.protocol import Choice, Request, Response
from agentrl.types import Message


class Part(Known, total=False):
    type: Required[Literal["text", "refusal"]]
    text: str
    refusal: str


class Function(Known, total=False):
    name: Required[str]
    arguments: Required[str | dict[str, Any] | None]


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


class FunctionTool(TypedDict):
    type: Literal["function"]
    function: dict[str, Any]


class ToolName(TypedDict):
    name: str


class NamedTool(TypedDict):
    type: Literal["function"]
    function: ToolName


class JsonSchema(Known, total=False):
    name: Required[str]
    schema: Required[dict[str, Any]]
    strict: bool | None


class ResponseFormat(Known, total=False):
    type: Required[Literal["text", "json_object", "json_schema"]]
    json_schema: JsonSchema


class ChatBody(Sampled):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    stop: Annotated[str, Field(min_length=1)] | StopStrings | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    """Handed to the chat template."""


def plain_message(message: dict[str, Any]) -> Message:
    """A message in the one form that templates, records and judges see."""
    role = "system" if message["role"] == "developer" else message["role"]
    plain: Message = {"role": role, "content": text_of(message.get("content"))}
    for name in ("name", "tool_call_id"):
        if message.get(name):
            plain[name] = message[name]
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [_plain_call(call) for call in calls]
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        plain["reasoning_content"] = reasoning
    return plain


def _plain_call(call: dict[str, Any]) -> dict[str, Any]:
    if call["function"]["arguments"] is None:
        call = {**call, "function": {**call["function"], "arguments": "{}"}}
    return call


def request(body: ChatBody, _: dict) -> Request:
    effort = {"reasoning_effort": body.reasoning_effort} if body.reasoning_effort else {}
    wants_logprobs = body.logprobs or body.top_logprobs
    return Request(
        model=body.model,
        messages=tuple(plain_message(message) for message in body.messages),
        tools=tuple(body.tools or ()),
        tool_choice=body.tool_choice or "auto",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_format=body.response_format,
        template_arguments={**effort, **(body.chat_template_kwargs or {})},
        n=body.n or 1,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        top_logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
        sampling=body.sampling,
    )


def whole(response: Response, body: ChatBody, request: Request) -> dict:
    choices = [
        {
            "index": i,
            "message": _message(choice.message),
            "logprobs": _logprobs(choice, request),
            "finish_reason": choice.finish_reason,
        }
        for i, choice in enumerate(response.choices)
    ]
    return _envelope(response, request, "chat.completion", choices, usage(response))


def events(response: Response, body: ChatBody, request: Request) -> Iterator[tuple[None, Any]]:
    include_usage = bool(body.stream_options and body.stream_options.get("include_usage"))
    extra = {"usage": None} if include_usage else {}
    for i, choice in enumerate(response.choices):
        deltas = list(_deltas(choice.message))
        for j, delta in enumerate(deltas):
            logprobs = _logprobs(choice, request) if j == 1 or len(deltas) == 1 else None
            yield None, _chunk(response, request, i, delta, logprobs, None) | extra
        yield None, _chunk(response, request, i, {}, None, choice.finish_reason) | extra
    if include_usage:
        yield None, _envelope(response, request, "chat.completion.chunk", [], usage(response))
    yield None, "[DONE]"


def usage(response: Response) -> dict:
    return {
        "prompt_tokens": response.prompt_tokens,
        "completion_tokens": response.completion_tokens,
        "total_tokens": response.prompt_tokens + response.completion_tokens,
    }


def _message(reply: Message) -> dict:
    return {
        **reply,
        "content": reply["content"] or None if reply.get("tool_calls") else reply["content"],
    }


def _deltas(reply: Message) -> Iterator[dict]:
    yield {"role": "assistant", "content": ""}
    for name in ("reasoning_content", "content"):
        if reply.get(name):
            yield {name: reply[name]}
    for i, call in enumerate(reply.get("tool_calls") or ()):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        opened = {"index": i, "id": call["id"], "type": "function"}
        yield {"tool_calls": [{**opened, "function": {"name": name, "arguments": ""}}]}
        yield {"tool_calls": [{"index": i, "function": {"arguments": arguments}}]}


def _chunk(
    response: Response,
    request: Request,
    index: int,
    delta: dict,
    logprobs: dict | None,
    finish_reason: str | None,
) -> dict:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return _envelope(response, request, "chat.completion.chunk", [choice])


def _envelope(
    response: Response, request: Request, kind: str, choices: list[dict], usage: dict | None = None
) -> dict:
    body = {
        "id": f"chatcmpl-{response.id}",
        "object": kind,
        "created": response.created,
        "model": request.model,
        "choices": choices,
    }
    return body if usage is None else {**body, "usage": usage}


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
    # JSON knows no infinity; OpenAI writes -9999.
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


DIALECT = Dialect("/v1/chat/completions", ChatBody, request, whole, events, openai_error)
