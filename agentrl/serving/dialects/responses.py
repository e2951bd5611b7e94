"""OpenAI's responses: ``POST /v1/responses``."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Annotated, Any, Literal, Required

from pydantic import Discriminator, Field, Tag

from agentrl.serving.dialects import Dialect, openai_error, text_of
from agentrl.serving.dialects.base import Known, NoArguments, OpenAIBody
from agentrl.serving.dialects.chat_completions import token_logprobs
from agentrl.serving.protocol import Request, RequestRefused, Response
from agentrl.types import Message


class TextPart(Known, total=False):
    type: Required[Literal["input_text", "output_text", "text", "reasoning_text"]]
    text: Required[str]


class MessageItem(Known, total=False):
    type: Literal["message"]
    role: Required[Literal["system", "developer", "user", "assistant"]]
    content: Required[str | list[TextPart]]


class CallItem(Known, total=False):
    type: Required[Literal["function_call"]]
    call_id: Required[str]
    name: Required[str]
    arguments: Required[Annotated[str, NoArguments]]


class OutputItem(Known, total=False):
    type: Required[Literal["function_call_output"]]
    call_id: Required[str]
    output: Required[str | list[TextPart]]


class ReasoningItem(Known, total=False):
    type: Required[Literal["reasoning"]]
    content: list[TextPart] | None


class ItemReference(Known, total=False):
    type: Required[Literal["item_reference"]]
    id: Required[str]


def _type_of(item: Any) -> str:
    return item.get("type", "message") if isinstance(item, dict) else ""


Item = Annotated[
    Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[MessageItem, Tag("message")],
    Discriminator(_type_of),
]


class TextFormat(Known, total=False):
    type: Required[Literal["text", "json_object", "json_schema"]]
    name: str
    schema: dict[str, Any]


class ToolChoice(Known, total=False):
    type: Required[Literal["function"]]
    name: Required[str]


class Tool(ToolChoice, total=False):
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class TextOptions(Known, total=False):
    format: TextFormat | None


class ResponsesBody(OpenAIBody):
    ignored = OpenAIBody.ignored | {"stream_options", "max_tool_calls", "context_management"}

    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | ToolChoice = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions = Field(default_factory=dict)
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    include: tuple[str, ...] = ()
    reasoning: dict[str, Any] = Field(default_factory=dict)


def request(body: ResponsesBody, conversations: dict[str, Request]) -> Request:
    before = body.previous_response_id
    if before is not None and before not in conversations:
        reason = f"this episode has no response {before}"
        raise RequestRefused(404, "previous_response_not_found", reason, "previous_response_id")
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    given = [_referenced(item, conversations) for item in given]
    said_before = conversations[before].messages if before else ()
    effort = body.reasoning.get("effort")
    wants_logprobs = body.top_logprobs or "message.output_text.logprobs" in body.include
    return Request(
        model=body.model,
        messages=(*instructions, *said_before, *_plain_messages(given)),
        tools=tuple(map(_plain_tool, body.tools)),
        tool_choice=_plain_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_plain_format(body.text.get("format")),
        template_arguments={"reasoning_effort": effort} if effort else {},
        max_tokens=body.max_output_tokens,
        top_logprobs=body.top_logprobs if wants_logprobs else None,
        sampling=body.sampling,
    )


def _referenced(item: dict[str, Any], conversations: dict[str, Request]) -> dict[str, Any]:
    """An item, or the one of an earlier response that a client names by its id alone."""
    if item.get("type") != "item_reference":
        return item
    for name, said in conversations.items():
        for _, earlier in _items(name.removeprefix("resp_"), said.messages[-1]):
            if earlier["id"] == item["id"]:
                return earlier
    raise RequestRefused(404, "item_not_found", f"this episode has no item {item['id']}", "input")


def conversation(response: Response, body: ResponsesBody, request: Request) -> dict[str, Request]:
    """What ``previous_response_id`` brings back: all but the instructions, which hold once."""
    said = request.messages[1:] if body.instructions else request.messages
    return {_id(response): replace(request, messages=(*said, response.choices[0].message))}


def whole(response: Response, body: ResponsesBody, request: Request) -> dict:
    cut = response.choices[0].finish_reason == "length"
    written = _object(response, body, request, "incomplete" if cut else "completed")
    written["output"] = [item for _, item in _said(response)]
    written["usage"] = {
        "input_tokens": response.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": response.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": response.prompt_tokens + response.completion_tokens,
    }
    written["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    return written


def events(response: Response, body: ResponsesBody, request: Request) -> Iterator[tuple[str, Any]]:
    numbers = count()

    def event(name: str, /, **data: Any) -> tuple[str, dict]:
        return name, {"type": name, "sequence_number": next(numbers), **data}

    begun = _object(response, body, request, "in_progress")
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for i, (empty, item) in enumerate(_said(response)):
        yield event("response.output_item.added", output_index=i, item=empty)
        for name, data in _contents(item):
            yield event(name, output_index=i, item_id=item["id"], **data)
        yield event("response.output_item.done", output_index=i, item=item)
    done = whole(response, body, request)
    yield event(f"response.{done['status']}", response=done)


def _plain_messages(items: list[dict[str, Any]]) -> list[Message]:
    """Items as messages: reasoning, text and calls that follow each other are one message."""
    messages: list[Message] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call_output":
            text = text_of(item["output"])
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
        elif kind == "message" and item["role"] != "assistant":
            role = "user" if item["role"] == "user" else "system"
            messages.append({"role": role, "content": text_of(item["content"])})
        elif kind == "message":
            said = _open_message(messages, "content", "tool_calls")
            said["content"] = text_of(item["content"])
        elif kind == "reasoning":
            if text := text_of(item.get("content")):
                said = _open_message(messages, "content", "tool_calls", "reasoning_content")
                said["reasoning_content"] = text
        else:
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            _open_message(messages).setdefault("tool_calls", []).append(call)
    return messages


def _open_message(messages: list[Message], *closed_by: str) -> Message:
    """The assistant's message that an item belongs to: the last one, or a new one."""
    last = messages[-1] if messages else {"role": "user"}
    if last["role"] != "assistant" or any(last.get(name) for name in closed_by):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _plain_tool(tool: dict[str, Any]) -> dict:
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _plain_choice(chosen: str | dict[str, Any]) -> str | dict:
    if isinstance(chosen, str):
        return chosen
    return {"type": "function", "function": {"name": chosen["name"]}}


def _plain_format(form: dict[str, Any] | None) -> dict | None:
    if not form or form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return {"type": "json_object"}
    named = {"name": form.get("name", "output"), "schema": form.get("schema", {})}
    return {"type": "json_schema", "json_schema": named}


def _id(response: Response) -> str:
    return f"resp_{response.id}"


def _object(response: Response, body: ResponsesBody, request: Request, status: str) -> dict:
    return {
        "id": _id(response),
        "object": "response",
        "created_at": response.created,
        "status": status,
        "model": request.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "metadata": {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "temperature": None,
        "tool_choice": body.tool_choice,
        "tools": [{"parameters": None, "strict": None, **tool} for tool in body.tools],
        "top_p": None,
        "usage": None,
    }


def _said(response: Response) -> Iterator[tuple[dict, dict]]:
    (choice,) = response.choices
    return _items(response.id, choice.message, token_logprobs(choice))


def _items(
    response_id: str, reply: Message, logprobs: Sequence[dict] = ()
) -> Iterator[tuple[dict, dict]]:
    """Of each output item, how it looks when it is opened and when it is done."""
    if reply.get("reasoning_content"):
        part = {"type": "reasoning_text", "text": reply["reasoning_content"]}
        item = {"id": f"rs_{response_id}", "type": "reasoning", "summary": []}
        yield {**item, "content": []}, {**item, "content": [part]}
    if reply["content"] or not reply.get("tool_calls"):
        part = {"type": "output_text", "text": reply["content"], "annotations": []}
        part["logprobs"] = logprobs
        item = {"id": f"msg_{response_id}", "type": "message", "role": "assistant"}
        opened = {**item, "status": "in_progress", "content": []}
        yield opened, {**item, "status": "completed", "content": [part]}
    for i, call in enumerate(reply.get("tool_calls") or ()):
        item = {"id": f"fc_{response_id}_{i}", "type": "function_call", "call_id": call["id"]}
        item |= call["function"]
        opened = {**item, "status": "in_progress", "arguments": ""}
        yield opened, {**item, "status": "completed"}


def _contents(item: dict) -> Iterator[tuple[str, dict]]:
    """The events between an item's opening and its end."""
    if item["type"] == "function_call":
        yield "response.function_call_arguments.delta", {"delta": item["arguments"]}
        done = {"arguments": item["arguments"], "name": item["name"]}
        yield "response.function_call_arguments.done", done
        return
    (part,) = item["content"]
    kind, at = part["type"], {"content_index": 0}
    logprobs = {"logprobs": part["logprobs"]} if kind == "output_text" else {}
    yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
    yield f"response.{kind}.delta", {**at, "delta": part["text"], **logprobs}
    yield f"response.{kind}.done", {**at, "text": part["text"], **logprobs}
    yield "response.content_part.done", {**at, "part": part}


DIALECT = Dialect(
    "/v1/responses", ResponsesBody, request, whole, events, openai_error, conversation
)
