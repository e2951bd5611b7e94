"""Messages <-> token ids.

A conversation that only grows continues from the exact ids of its last call:

    new prompt = old prompt ids + sampled ids + ids of the text that was added

The template decides whether that is possible, as text. A request's messages are matched by value to
what was said before, and the whole list is rendered:

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n<|im_start|>user\\nBye...
    [---------- the old prompt as it was rendered ----------][ turn ][ end ][------- added -------]

It continues where the rendered text begins with that of the old prompt and the turn still says
what the model said. Then the sampled ids stand in the place of the turn, whatever tokens, spaces or
order of JSON keys they were made of, and only the added text is tokenised. Where the template
changed the past (Qwen3 drops the thinking of earlier turns) the prompt is tokenised afresh, and the
token tree forks. Text decides only where to continue; a sampled token is never tokenised again.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from agentrl.serving.turn import RequestRefused, Turn
from agentrl.types import Message


@dataclass(frozen=True, eq=False)
class Prompt:
    """A rendered request."""

    ids: list[int]
    text: str
    """As the template renders it; the ids say the same, with the model's own turns as sampled."""
    messages: list[Message]
    """As rendered: the model's own turns as they were recorded."""
    key: int | None
    """Of the conversation by value: tools and template arguments, then every message. None: the
    prompt was no conversation."""


@dataclass(frozen=True, eq=False)
class Context:
    """A prompt with what was sampled for it: where a conversation can continue."""

    prompt: Prompt
    reply: Message
    ids: list[int]
    end: str | None
    """The special token that the model ended its turn with, or None where a length limit did."""
    said: str
    """The completion's text up to there."""


Past = dict[int | None, list[Context]]
"""The contexts of one agent in one episode, by the key of the conversation up to each reply."""


class Chat:
    """The chat template, the tool calls and the reasoning of one model."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
    ):
        from vllm.parser import ParserManager

        # They print a traceback for every malformed call; a model in training makes many.
        for room in ("vllm.tool_parsers", "vllm.parser", "vllm.reasoning"):
            logging.getLogger(room).setLevel(logging.CRITICAL)
        if tokenizer.chat_template is None:
            raise ValueError("the model's tokenizer has no chat template: use an instruct model")
        self.tokenizer = tokenizer
        try:
            self._parser_class = ParserManager.get_parser(
                tool_parser_name=tool_parser,
                reasoning_parser_name=reasoning_parser,
                enable_auto_tools=tool_parser is not None,
                tokenizer=tokenizer,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"model.tool_parser {tool_parser!r} and model.reasoning_parser "
                f"{reasoning_parser!r} are not both parsers of vLLM that fit this model ({error})"
            ) from None
        self._has_tool_parser = tool_parser is not None
        parser = self._parser_class and self._parser_class(tokenizer).reasoning_parser
        self._reasoning_end = parser.reasoning_end_str if parser else ""
        self._arguments_are_text = False
        self._arguments_are_text = self._wants_text_arguments()
        self._turn_end = self._find_turn_end()

    def prompt(self, turn: Turn, past: Past) -> Prompt:
        """Render a request, continuing the longest past call that it extends.

        Raises RequestRefused where the template does not accept the messages.
        """
        messages = list(turn.messages)
        tools = list(turn.tools) or None
        keys = _keys(turn, messages)
        candidates = [
            (i, context)
            for i in range(len(messages) - 1, -1, -1)
            for context in reversed(past.get(keys[i], ()))
            if _reasoning_agrees(messages, context)
        ]
        if candidates:
            messages = _restore(messages, *candidates[0])
        try:
            text = self._render(messages, tools, turn.template_arguments)
        except RequestRefused:
            if not candidates:
                raise
            # Llama's template takes one call a turn. What the model said instead is text to it.
            i, context = candidates[0]
            messages[i] = {"role": "assistant", "content": context.said}
            text = self._render(messages, tools, turn.template_arguments)
        for _, context in candidates:
            if (ids := self._continue(context, text)) is not None:
                return Prompt(ids, text, messages, keys[-1])
        return Prompt(self.encode(text), text, messages, keys[-1])

    def plain_prompt(self, given: str | Sequence[int], past: Past) -> Prompt:
        """A prompt that is no conversation: token ids as they are; text continues the longest past
        prompt and completion that it begins with."""
        if not isinstance(given, str):
            ids = list(given)
            return Prompt(ids, self.decode(ids), [], None)
        begun = [c for c in past.get(None, ()) if given.startswith(_plain_text(c))]
        if not begun:
            return Prompt(self.tokenizer.encode(given), given, [], None)
        context = max(begun, key=lambda c: len(_plain_text(c)))
        said = context.ids[:-1] if context.end else context.ids
        return Prompt(said + self.encode(given[len(_plain_text(context)) :]), given, [], None)

    def context(self, prompt: Prompt, ids: list[int], reply: Message, ended: bool) -> Context:
        """Where the conversation can go on; ``ended``: the model ended its turn by itself."""
        end = self.decode(ids[-1:]) if ended else None
        said = self.decode(ids[:-1] if ended else ids)
        return Context(prompt, reply, prompt.ids + ids, end, said)

    @staticmethod
    def remember(context: Context, past: Past) -> None:
        """Let later requests continue from here."""
        past.setdefault(_place(context), []).append(context)

    @staticmethod
    def forget(context: Context, past: Past) -> None:
        past[_place(context)].remove(context)

    def grammar(self, turn: Turn) -> Any | None:
        """vLLM's StructuredOutputsParams for a JSON schema, a forced tool or strict tools."""
        if not turn.tools and turn.response_format is None:
            return None
        return self._request(turn).extract_structured_outputs()

    def reply(self, turn: Turn, prompt: Prompt, text: str, ids: list[int]) -> Message:
        """Parse a completion's text, less the token that ended it, into a message.

        Tool calls have no ids yet.
        """
        message: Message = {"role": "assistant", "content": text}
        if self._parser_class is None:
            return message
        request = self._request(turn)
        parser = self._parser_class(
            self.tokenizer, request.tools, chat_template_kwargs=dict(turn.template_arguments)
        )
        parser.set_prompt_token_ids(prompt.ids)
        reasoning, message["content"], calls = parser.parse(
            text,
            request,
            enable_auto_tools=self._has_tool_parser,
            model_output_token_ids=ids,
        )
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls and not all(_is_object(call.arguments) for call in calls):
            # Clients break on such calls; a malformed one is text, like one that cannot be parsed.
            message["content"] = text.rpartition(self._reasoning_end)[2] if reasoning else text
        elif calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        message["content"] = message["content"] or ""
        return message

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: list[int]) -> str:
        """The exact text, special tokens included."""
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _continue(self, context: Context, text: str) -> list[int] | None:
        """The ids that continue a context to this rendered text; None: the template changed it."""
        if not text.startswith(context.prompt.text):
            return None
        end = context.end or self._turn_end
        turn, found, added = text[len(context.prompt.text) :].partition(end or "")
        if not end or not found or not self._says(turn, context.reply):
            return None
        # Tokenised behind the end token: a sentencepiece tokenizer would put a space before it.
        ids = self.encode(end + added)
        if context.end is None:
            return context.ids + ids
        return context.ids + ids[1:] if ids[0] == context.ids[-1] else None

    def _says(self, turn: str, reply: Message) -> bool:
        """Whether a rendered turn holds the reasoning, the text and the calls, in this order."""
        reasoning, content = reply.get("reasoning_content"), reply.get("content")
        parts = [reasoning.strip(), self._reasoning_end] if reasoning else []
        parts += [content.strip()] if content else []
        parts += [call["function"]["name"] for call in reply.get("tool_calls") or ()]
        for part in parts:
            _, found, turn = turn.partition(part) if part else ("", True, turn)
            if not found:
                return False
        return True

    def _wants_text_arguments(self) -> bool:
        """Whether the template takes a call's arguments as JSON text only; most want an object."""
        call = {"id": "a" * 9, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        probe = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        try:
            self._render(probe, None, {})
        except RequestRefused:
            self._arguments_are_text = True
            with suppress(RequestRefused):
                self._render(probe, None, {})
                return True
        return False

    def _find_turn_end(self) -> str | None:
        """The special token with which the template ends a turn of the model's."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "probe-b"}]
        try:
            text = self.tokenizer.apply_chat_template(probe, tokenize=False)
        except TemplateError:
            return None
        after = text.rpartition("probe-b")[2]
        found = [t for t in self.tokenizer.all_special_tokens if t in after]
        return min(found, key=after.index) if found else None

    def _render(
        self, messages: list[Message], tools: list[dict] | None, arguments: dict[str, Any]
    ) -> str:
        forms = [_for_template(message, self._arguments_are_text) for message in messages]
        try:
            return self.tokenizer.apply_chat_template(
                forms, tools=tools, tokenize=False, add_generation_prompt=True, **arguments
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestRefused(
                400, "invalid_messages", f"the model's chat template refuses this: {error}"
            ) from error

    def _request(self, turn: Turn) -> Any:
        return _request(
            self._parser_class,
            self.tokenizer,
            _json(list(turn.tools)),
            _json(turn.tool_choice if turn.tools else "none"),
            _json(turn.response_format),
            _json(dict(turn.template_arguments)),
        )


@lru_cache(maxsize=256)
def _request(
    parser_class: Any, tokenizer: Any, tools: str, tool_choice: str, form: str, arguments: str
) -> Any:
    """vLLM's parsers want the request that they parse an answer to, and put the grammar into it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    try:
        request = ChatCompletionRequest(
            messages=[],
            tools=json.loads(tools) or None,
            tool_choice=json.loads(tool_choice),
            response_format=json.loads(form),
        )
        if parser_class is not None:
            parser = parser_class(
                tokenizer, request.tools, chat_template_kwargs=json.loads(arguments)
            )
            request = parser.adjust_request(request)
    except Exception as error:
        raise RequestRefused(400, "invalid_request", _first_line(error)) from error
    return request


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _keys(turn: Turn, messages: list[Message]) -> list[int]:
    """One key per message, of the conversation up to it."""
    key, keys = hash((_json(list(turn.tools)), _json(dict(turn.template_arguments)))), []
    for message in messages:
        key = _key(key, message)
        keys.append(key)
    return keys or [key]


def _place(context: Context) -> int | None:
    before = context.prompt.key
    return None if before is None else _key(before, context.reply)


def _key(before: int, message: Message) -> int:
    return hash((before, identity(message)))


def identity(message: Message) -> tuple:
    """What makes two messages the same: role, text and calls by value; not ids or formatting.

    >>> a = {"role": "tool", "content": "3", "tool_call_id": "x"}
    >>> identity(a) == identity({"role": "tool", "content": "3", "tool_call_id": "y"})
    True
    """
    calls = tuple(
        (call["function"]["name"], _json(_arguments(call)))
        for call in message.get("tool_calls") or ()
    )
    return message["role"], message["content"], calls


def _plain_text(context: Context) -> str:
    return context.prompt.text + context.reply["content"]


def _reasoning_agrees(messages: list[Message], context: Context) -> bool:
    """Whether each turn came back with its reasoning, or with none: many clients drop it."""
    recorded = (*context.prompt.messages, context.reply)
    return all(
        sent.get("reasoning_content") in (None, "", said.get("reasoning_content"))
        for sent, said in zip(messages, recorded)
    )


def _restore(messages: list[Message], turn: int, context: Context) -> list[Message]:
    """The messages with what was recorded up to ``turn``, and the recorded ids of its calls."""
    sent, recorded = (m.get("tool_calls") or () for m in (messages[turn], context.reply))
    ids = {theirs.get("id"): ours["id"] for theirs, ours in zip(sent, recorded)}
    added = messages[turn + 1 :]
    if any(theirs != ours for theirs, ours in ids.items()):
        added = [
            {**m, "tool_call_id": ids[m["tool_call_id"]]} if m.get("tool_call_id") in ids else m
            for m in added
        ]
    return [*context.prompt.messages, context.reply, *added]


def _for_template(message: Message, arguments_are_text: bool) -> Message:
    """A message as templates expect it: no text is None beside calls, arguments are an object."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    form = {**message, "content": message["content"] or None}
    if not arguments_are_text:
        form["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _arguments(call)}}
            for call in calls
        ]
    return form


def _arguments(call: dict) -> Any:
    arguments = call["function"]["arguments"]
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
