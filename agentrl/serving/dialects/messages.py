"""Anthropic's messages: ``POST /v1/messages``. Its base URL is the server's, without ``/v1``."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Required

from pydantic import Field

from agentrl.serving.dialects import Dialect, text_of
from agentrl.serving.dialects.base import Body, Known, Stop
from agentrl.serving.protocol import Choice, Request, RequestRefused, Response
from agentrl.types import Message

log = logging.getLogger(__name__)

BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 409: "api_error"}


class TextBlock(Known, total=False):
    type: Required[Literal["text"]]
    text: Required[str]


class ToolUseBlock(Known, total=False):
    type: Required[Literal["tool_use"]]
    id: Required[str]
    name: Required[str]
    input: dict[str, Any]


class ToolResultBlock(Known, total=False):
    type: Required[Literal["tool_result"]]
    tool_use_id: Required[str]
    content: str | list[TextBlock] | None


class ThinkingBlock(Known, total=False):
    type: Required[Literal["thinking"]]
    thinking: Required[str]


Block = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock, Field(discriminator="type")
]


class AnthropicMessage(Known, total=False):
    role: Required[Literal["user", "assistant", "system"]]
    content: Required[str | list[Block]]


class Tool(Known, total=False):
    type: Literal["custom"] | None
    name: Required[str]
    description: str
    input_schema: Required[dict[str, Any]]
    strict: bool


class ToolChoice(Known, total=False):
    type: Required[Literal["auto", "any", "tool", "none"]]
    name: str
    disable_parallel_tool_use: bool


class OutputFormat(Known, total=False):
    type: Required[Literal["json_schema"]]
    schema: Required[dict[str, Any]]


class OutputConfig(Known, total=False):
    format: OutputFormat | None


class Thread(Known, total=False):
    type: Required[Literal["create", "continue"]]
    previous_message_id: str


class MessagesBody(Body):
    # Among them what would shorten the context, which is kept whole here.
    ignored = frozenset(
        {"thinking", "metadata", "service_tier", "cache_control", "context_management", "speed"}
        | {"inference_geo", "diagnostics", "billing_policy", "fallbacks", "fallback_credit_token"}
    )
    neutral: ClassVar = {"mcp_servers": []}

    max_tokens: Annotated[int, Field(ge=1)]
    messages: Annotated[list[AnthropicMessage], Field(min_length=1)]
    system: str | list[TextBlock] = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = Field(default_factory=lambda: {"type": "auto"})
    stop_sequences: Stop = ()
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    output_config: OutputConfig = Field(default_factory=dict)
    thread: Thread | None = None


class CountBody(MessagesBody):
    max_tokens: int = 1


def request(body: MessagesBody, conversations: dict[str, Request]) -> Request:
    if body.messages[-1]["role"] == "assistant":
        refused = "an answer that is begun for the model (a prefill) is not supported here"
        raise RequestRefused(400, "unsupported_parameter", refused, "messages")
    begun, form = _begun(body, conversations), body.output_config.get("format")
    system = [{"role": "system", "content": body.system}] if body.system else []
    said = [plain for m in (*system, *body.messages) for plain in _plain_messages(m)]
    if [m["role"] for m in said[:2]] == ["system", "system"]:
        # Templates take one, and some no second.
        said[:2] = [{**said[0], "content": f"{said[0]['content']}\n\n{said[1]['content']}"}]
    return Request(
        model=body.model,
        messages=(*begun.messages, *said),
        tools=begun.tools or tuple(map(_plain_tool, body.tools)),
        tool_choice=_plain_choice(body.tool_choice),
        parallel_tool_calls=not body.tool_choice.get("disable_parallel_tool_use"),
        response_format=form
        and {"type": "json_schema", "json_schema": {"name": "output", "schema": form["schema"]}},
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        sampling=body.sampling,
    )


def _begun(body: MessagesBody, conversations: dict[str, Request]) -> Request:
    """What a thread holds already: its messages, the system's among them, and its tools."""
    if not body.thread or body.thread["type"] == "create":
        return Request()
    before = body.thread.get("previous_message_id")
    if before not in conversations:
        reason = f"this episode has no message {before}: send the whole conversation"
        raise RequestRefused(404, "thread_not_found", reason, "thread")
    return conversations[before]


def conversation(response: Response, body: MessagesBody, request: Request) -> dict[str, Request]:
    """What the id of a message brings back, in a thread."""
    if not body.thread:
        return {}
    said = (*request.messages, response.choices[0].message)
    return {_id(response): replace(request, messages=said)}


def whole(response: Response, body: MessagesBody, request: Request) -> dict:
    (choice,) = response.choices
    return {
        "id": _id(response),
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": _blocks(choice.message),
        **_ending(choice),
        "usage": _usage(response),
    }


def events(response: Response, body: MessagesBody, request: Request) -> Iterator[tuple[str, Any]]:
    done = whole(response, body, request)
    opened = {"content": [], "stop_reason": None, "stop_sequence": None}
    opened["usage"] = {**done["usage"], "output_tokens": 0}
    yield _event("message_start", message={**done, **opened})
    for i, block in enumerate(done["content"]):
        empty, delta = _as_delta(block)
        yield _event("content_block_start", index=i, content_block=empty)
        yield _event("content_block_delta", index=i, delta=delta)
        yield _event("content_block_stop", index=i)
    yield _event("message_delta", delta=_ending(response.choices[0]), usage=done["usage"])
    yield _event("message_stop")


def error(refusal: RequestRefused) -> dict:
    default = "api_error" if refusal.status >= 500 else "invalid_request_error"
    kind = ERROR_TYPES.get(refusal.status, default)
    # By its code a client knows a thread that it has to send from the beginning.
    said = {"message": refusal.message, "details": {"error_code": refusal.code}}
    return {"type": "error", "error": {"type": kind, **said}}


def _plain_messages(message: dict[str, Any]) -> Iterator[Message]:
    """One message of Anthropic's: tool results come first, each a message of its own."""
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in content:
        if block["type"] == "tool_result":
            text = text_of(block.get("content"))
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
    texts = [block["text"] for block in content if block["type"] == "text"]
    thoughts = [block["thinking"] for block in content if block["type"] == "thinking"]
    calls = [_plain_call(block) for block in content if block["type"] == "tool_use"]
    if message["role"] == "system":
        texts = _without_billing(texts)
    plain: Message = {"role": message["role"], "content": "".join(texts)}
    if thoughts:
        plain["reasoning_content"] = "".join(thoughts)
    if calls:
        plain["tool_calls"] = calls
    if texts or thoughts or calls or message["role"] == "assistant":
        yield plain


def _without_billing(texts: list[str]) -> list[str]:
    """Claude Code's first line holds a number for the bill, another one in each request: with it in
    the prompt, no conversation would continue."""
    kept = [BILLING.sub("", text) for text in texts]
    if kept != texts:
        _tell_of_billing()
    return [text for text in kept if text]


@cache
def _tell_of_billing() -> None:
    log.warning("the agent's x-anthropic-billing-header is no part of the prompt (said once)")


def _plain_call(block: dict[str, Any]) -> dict:
    function = {"name": block["name"], "arguments": json.dumps(block.get("input") or {})}
    return {"id": block["id"], "type": "function", "function": function}


def _plain_tool(tool: dict[str, Any]) -> dict:
    named = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    return {"type": "function", "function": {**named, "parameters": tool["input_schema"]}}


def _plain_choice(chosen: dict[str, Any]) -> str | dict:
    if chosen["type"] == "tool":
        return {"type": "function", "function": {"name": chosen.get("name", "")}}
    return {"any": "required"}.get(chosen["type"], chosen["type"])


def _id(response: Response) -> str:
    return f"msg_{response.id}"


def _usage(response: Response) -> dict:
    return {"input_tokens": response.prompt_tokens, "output_tokens": response.completion_tokens}


def _blocks(reply: Message) -> list[dict]:
    blocks = []
    if reply.get("reasoning_content"):
        thinking = reply["reasoning_content"]
        blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
    if reply["content"]:
        blocks.append({"type": "text", "text": reply["content"]})
    for call in reply.get("tool_calls") or ():
        name, given = call["function"]["name"], json.loads(call["function"]["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": given})
    return blocks


def _as_delta(block: dict) -> tuple[dict, dict]:
    """A block as it is opened, and all that it then says."""
    if block["type"] == "tool_use":
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        return {**block, "input": {}}, delta
    name = block["type"]
    return {**block, name: ""}, {"type": f"{name}_delta", name: block[name]}


def _ending(choice: Choice) -> dict:
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    reason = "stop_sequence" if choice.stop is not None else reasons[choice.finish_reason]
    return {"stop_reason": reason, "stop_sequence": choice.stop}


def _event(name: str, /, **data: Any) -> tuple[str, dict]:
    return name, {"type": name, **data}


DIALECT = Dialect("/v1/messages", MessagesBody, request, whole, events, error, conversation)
COUNT = replace(DIALECT, path="/v1/messages/count_tokens", body=CountBody, counts=True)
