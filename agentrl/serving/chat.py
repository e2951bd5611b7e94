"""Messages <-> token ids.

A conversation that only grows continues from the exact ids of its last call:

    new prompt = old prompt ids + sampled ids + ids of the text that was added

Text decides only whether and where that is possible: the recorded text is put back in place of what
the agent sent as the model's earlier turns, the whole list is rendered, and if the result begins
with the text of the old prompt and completion, only the rest is tokenised. Else the prompt is
rendered afresh. A sampled token is never tokenised again.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentrl.types import Message


@dataclass(frozen=True)
class Context:
    """A conversation up to some point, as the engine saw it and as the agent did."""

    ids: list[int]
    text: str
    messages: list[Message]
    """As rendered: the model's own turns hold their recorded text."""
    identity: tuple
    """The messages by value, as the agent knows them."""
    tools: str


class Chat:
    """The chat template and the tool-call format of one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tool_parser: str):
        from vllm.tool_parsers.abstract_tool_parser import ToolParserManager

        # They print a traceback for every malformed call; a model in training makes many.
        logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)
        if tokenizer.chat_template is None:
            raise ValueError("the model's tokenizer has no chat template: use an instruct model")
        self.tokenizer = tokenizer
        try:
            self._parser_class = ToolParserManager.get_tool_parser(tool_parser)
        except KeyError:
            raise ValueError(
                f"model.tool_parser is {tool_parser!r}, which vLLM does not have"
            ) from None

    def prompt(
        self, messages: Sequence[Message], tools: list[dict] | None, past: Sequence[Context]
    ) -> Context:
        """Render a request, continuing the longest of the past calls that it extends."""
        identity = tuple(_identity(message) for message in messages)
        tools_json = json.dumps(tools, sort_keys=True)
        plain = [_for_template(message) for message in messages]
        extended = [
            call
            for call in past
            if call.tools == tools_json and call.identity == identity[: len(call.identity)]
        ]
        for call in sorted(extended, key=lambda call: len(call.ids), reverse=True):
            restored = call.messages + plain[len(call.messages) :]
            text = self._render(restored, tools)
            if text.startswith(call.text):
                ids = call.ids + self._encode(text[len(call.text) :])
                return Context(ids, text, restored, identity, tools_json)
        text = self._render(plain, tools)
        return Context(self._encode(text), text, plain, identity, tools_json)

    def finished(self, prompt: Context, completion_ids: list[int], reply: Message) -> Context:
        """The prompt with the completion that the engine drew and the reply that the agent got."""
        text = self.tokenizer.decode(completion_ids)
        recorded = {"role": "assistant", "content": self._without_end(completion_ids, text)}
        return Context(
            prompt.ids + completion_ids,
            prompt.text + text,
            [*prompt.messages, recorded],
            (*prompt.identity, _identity(reply)),
            prompt.tools,
        )

    def reply(
        self, completion_ids: list[int], cut: str | None, tools: list[dict] | None, call_id: str
    ) -> Message:
        """Parse a completion into a message; ``cut`` is what a stop string left of its text."""
        whole = self.tokenizer.decode(completion_ids)
        text = self._without_end(completion_ids, whole) if cut is None else cut
        if not tools:
            return {"role": "assistant", "content": text}
        request = _request(json.dumps(tools, sort_keys=True))
        parsed = self._parser_class(self.tokenizer, request.tools).extract_tool_calls(text, request)
        message: Message = {"role": "assistant", "content": parsed.content}
        if parsed.tools_called:
            message["tool_calls"] = [
                {"id": f"{call_id}-{i}", "type": "function", "function": call.function.model_dump()}
                for i, call in enumerate(parsed.tool_calls)
            ]
        return message

    def _without_end(self, ids: list[int], text: str) -> str:
        """The text less the special token that ended the turn, which the template adds itself."""
        if ids and ids[-1] in self.tokenizer.all_special_ids:
            return text.removesuffix(self.tokenizer.decode(ids[-1:]))
        return text

    def _render(self, messages: list[Message], tools: list[dict] | None) -> str:
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


@lru_cache(maxsize=64)
def _request(tools_json: str) -> Any:
    """vLLM's parsers want the request that they parse an answer to; only its tools matter."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(messages=[], tools=json.loads(tools_json))


def _identity(message: Message) -> tuple:
    """What makes two messages the same: role, text and calls by value; not ids or formatting.

    >>> a = {"role": "tool", "content": [{"type": "text", "text": "3"}], "tool_call_id": "x"}
    >>> _identity(a) == _identity({"role": "tool", "content": "3", "tool_call_id": "y"})
    True
    """
    calls = tuple(
        (call["function"]["name"], json.dumps(_arguments(call), sort_keys=True))
        for call in message.get("tool_calls") or ()
    )
    return message["role"], _text(message.get("content")), calls


def _for_template(message: Message) -> Message:
    """Templates expect text in one piece and arguments as an object."""
    plain = {**message, "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        plain["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _arguments(call)}}
            for call in message["tool_calls"]
        ]
    return plain


def _arguments(call: dict) -> Any:
    arguments = call["function"]["arguments"]
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _text(content: str | list[dict] | None) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""
