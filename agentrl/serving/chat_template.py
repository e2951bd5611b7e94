"""Chat template: messages <-> token ids.

A conversation that only grows continues from the exact ids of its last call:

    new prompt = old prompt ids + sampled ids + ids of the text that was added

The template decides whether that is possible, as text. A request's messages are matched by value to
what was said before, and the whole list is rendered:

    <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n<|im_start|>user\\nBye...
    [---------- the old prompt as it was rendered ----------][reply ][ end ][------- added -------]

It continues where the rendered text begins with that of the old prompt and the reply still says
what the model said. Then the sampled ids stand for the reply, whatever tokens, spaces or order of
JSON keys they were made of, and only the added text is tokenised. Where the template changed what
was said (Qwen3 drops the thinking of earlier replies) the prompt is tokenised afresh, and the token
tree forks. Text decides only where to continue; a sampled token is never tokenised again.
"""

import inspect
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from functools import lru_cache
from itertools import chain

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from agentrl.serving.history import History, Prefix, Prompt, extended_by, keys_of
from agentrl.serving.protocol import Request, RequestRefused
from agentrl.types import Call, Message, parsed_arguments

DAY = date(2026, 1, 1)
"""What a template that writes the date is told: no prompt depends on when it was made."""
_RESERVED = set(inspect.signature(render_jinja_template).parameters) - {"documents", "kwargs"}
_RESERVED |= {"messages"}

_USER = {"role": "user", "content": "user-probe"}
_REPLY = {"role": "assistant", "content": "assistant-probe"}
_TOOL = {"name": "tools-probe", "description": "a", "parameters": {"type": "object"}}
_CALL = {"name": "tool_calls-probe", "arguments": '{"a": "b"}'}
_CALLS = [{"id": "a" * 9, "type": "function", "function": _CALL}]
_CALLED = {"role": "assistant", "content": "", "tool_calls": _CALLS}
_RESULT = {"role": "tool", "tool_call_id": "a" * 9, "content": "tool-probe"}
_PROBES = {
    "user": Request(messages=(_USER,)),
    "system": Request(messages=({"role": "system", "content": "system-probe"}, _USER)),
    "assistant": Request(messages=(_USER, _REPLY, _USER)),
    "tool": Request(messages=(_USER, _CALLED, _RESULT)),
    "tool_calls": Request(messages=(_USER, _CALLED, _RESULT)),
    "tools": Request(messages=(_USER,), tools=({"type": "function", "function": _TOOL},)),
}
"""What a template is tried with, to see what it does with each role's messages."""
log = logging.getLogger(__name__)


class ChatTemplate:
    """The chat template of one model, and where its conversations can continue."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reasoning_end: str = ""):
        """reasoning_end: what the model writes at the end of its reasoning, if it reasons."""
        if tokenizer.chat_template is None:
            raise ValueError("the model's tokenizer has no chat template: use an instruct model")
        self.tokenizer, self._reasoning_end = tokenizer, reasoning_end
        # What transformers wraps around it costs more than the tokenizer itself.
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        # The episodes of a group begin with the same prompt.
        self.encode = lru_cache(maxsize=256)(self._encode)
        self.decode_token = lru_cache(maxsize=4096)(lambda token: self.decode([token]))
        self._openings: dict[int, str] = {}
        self._special_tokens = dict(tokenizer.special_tokens_map)
        if "strftime_now" in str(tokenizer.chat_template):
            log.warning("the chat template writes the date, which is always %s here", DAY)
        self._in_parts: frozenset[str] = frozenset()
        """The roles whose contents it takes in parts alone."""
        self._arguments_are_text = self._wants_text_arguments()
        self._left_out = self._probe_contents()
        self._reply_end = self._find_reply_end()

    def prompt(self, request: Request, history: History) -> Prompt:
        """The tokens of a request: those of the longest earlier call that it extends, and more.

        Raises RequestRefused where the template does not accept the messages.
        """
        if request.prompt is not None:
            return self._plain_prompt(request.prompt, history)
        messages = list(request.messages)
        keys = keys_of(request, messages)
        candidates = extended_by(messages, keys, history)
        nearest = next(candidates, None)
        if nearest:
            messages = _restore(messages, *nearest)
        try:
            text = self._opening(keys[-1], request) or self._render(messages, request)
        except RequestRefused:
            if not nearest:
                raise
            # Llama's template takes one call a message. What the model said instead is text to it.
            i, prefix = nearest
            messages[i] = {"role": "assistant", "content": self.said_and_end(prefix.call)[0]}
            text = self._render(messages, request)
        self._check_nothing_is_left_out(request, text)
        for _, prefix in chain([nearest] if nearest else [], candidates):
            if (ids := self._continue(prefix, text)) is not None:
                return Prompt(ids, text, messages, keys[-1])
        return Prompt(self.encode(text), text, messages, keys[-1])

    def _opening(self, key: int, request: Request) -> str | None:
        """The rendered text of a conversation that the model has not spoken in yet.

        Kept, because the episodes of a group begin with the same. Its key says all of it.
        """
        if any(message["role"] not in ("system", "user") for message in request.messages):
            return None
        text = self._openings.get(key) or self._render(list(request.messages), request)
        if len(self._openings) >= 256:
            self._openings.clear()
        self._openings[key] = text
        return text

    def _plain_prompt(self, given: str | Sequence[int], history: History) -> Prompt:
        """A prompt that is no conversation: token ids as they are; text continues the longest
        earlier prompt and completion that it begins with."""
        if not isinstance(given, str):
            ids = list(given)
            return Prompt(ids, self.decode(ids), [], None)
        begun = [p for p in history.get(None, ()) if given.startswith(_plain_text(p))]
        if not begun:
            return Prompt(self.tokenizer.encode(given), given, [], None)
        prefix = max(begun, key=lambda p: len(_plain_text(p)))
        ids = prefix.call.ids
        said = ids[:-1] if self.said_and_end(prefix.call)[1] else ids
        return Prompt(said + self.encode(given[len(_plain_text(prefix)) :]), given, [], None)

    def said_and_end(self, call: Call) -> tuple[str, str | None]:
        """What the model said, and the special token that it ended with: None where a length limit
        ended it."""
        if call.finish_reason != "stop":
            return call.text, None
        end = self.decode_token(call.completion_ids[-1])
        return call.text.removesuffix(end), end

    def _encode(self, text: str) -> list[int]:
        if self._fast is None:
            return self.tokenizer.encode(text, add_special_tokens=False)
        return self._fast.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The exact text, special tokens included."""
        if self._fast is None:
            return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return self._fast.decode(ids, skip_special_tokens=False)

    def _continue(self, prefix: Prefix, text: str) -> list[int] | None:
        """The ids that continue a prefix to this rendered text; None: the template changed it."""
        if not text.startswith(prefix.prompt.text):
            return None
        rest, before = text[len(prefix.prompt.text) :], prefix.call.ids
        said, own_end = self.said_and_end(prefix.call)
        # Of several end tokens the model may write another than the template: it stands for that.
        end = own_end if own_end and own_end in rest else self._reply_end
        if rest.startswith(said) and not (own_end and end):
            # Cut by its length, or no token ends a reply; what closes it is the template's then.
            return before + self.encode(rest[len(said) :])
        rendered, found, added = rest.partition(end or "")
        if not end or not found or not self._says(rendered, prefix.call.reply):
            return None
        # Tokenised behind the end token: a sentencepiece tokenizer would put a space before it.
        ids = self.encode(end + added)
        if own_end is None:
            return before + ids
        return before + ids[1:] if self.decode_token(ids[0]) == end else None

    def _says(self, rendered: str, reply: Message) -> bool:
        """Whether a rendered reply holds the reasoning, the text and the calls, in this order."""
        reasoning, content = reply.get("reasoning_content"), reply["content"]
        parts = [reasoning.strip(), self._reasoning_end] if reasoning else []
        parts += [content.strip()]
        parts += [call["function"]["name"] for call in reply.get("tool_calls") or ()]
        for part in filter(None, parts):
            _, found, rendered = rendered.partition(part)
            if not found:
                return False
        return True

    def _probe_contents(self) -> set[str]:
        """What of the probes the template leaves out without a word; notes ``_in_parts``."""
        left_out = set()
        for role, probe in _PROBES.items():
            for in_parts in ((), {role}):
                before, self._in_parts = self._in_parts, self._in_parts.union(in_parts)
                # What it refuses, it will refuse then.
                with suppress(RequestRefused):
                    if f"{role}-probe" in self._render(list(probe.messages), probe):
                        left_out.discard(role)
                        break
                    left_out.add(role)
                self._in_parts = before
        return left_out

    def _check_nothing_is_left_out(self, request: Request, text: str) -> None:
        asked = {message["role"] for message in request.messages if message["content"]}
        asked |= {"tool_calls"} if any(m.get("tool_calls") for m in request.messages) else set()
        # Who tells the model of its tools in a message of his own needs no template for that.
        told = (tool["function"]["name"] in text for tool in request.tools)
        asked |= set() if all(told) else {"tools"}
        if lost := self._left_out & asked:
            what = f"the model's chat template leaves this out of the prompt: {sorted(lost)}"
            raise RequestRefused(
                400, "invalid_messages", f"{what}; a message of the user's may say it"
            )

    def _wants_text_arguments(self) -> bool:
        """Whether the template takes a call's arguments as JSON text only; most want an object."""
        for as_text in (False, True):
            self._arguments_are_text = as_text
            with suppress(RequestRefused):
                # An object may be written as Python does it.
                if "{'a'" not in self._render([_USER, _CALLED], Request()):
                    return as_text
        return False

    def _find_reply_end(self) -> str | None:
        """The special token with which the template ends a reply of the model's."""
        try:
            text = self._render([_USER, _REPLY], Request(), add_generation_prompt=False)
        except RequestRefused:
            return None
        after = text.rpartition("assistant-probe")[2]
        found = [t for t in self.tokenizer.all_special_tokens if t in after]
        return min(found, key=after.index) if found else None

    def _render(
        self, messages: list[Message], request: Request, *, add_generation_prompt: bool = True
    ) -> str:
        """What apply_chat_template does, less what it looks up again each time."""
        arguments, tools = request.template_arguments, list(request.tools) or None
        if not _RESERVED.isdisjoint(arguments):
            names = ", ".join(sorted(_RESERVED & set(arguments)))
            raise RequestRefused(400, "invalid_request", f"chat template arguments: not {names}")
        forms = [self._form(message) for message in messages]
        try:
            rendered, _ = render_jinja_template(
                conversations=[forms],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(tools=tools),
                add_generation_prompt=add_generation_prompt,
                **{"strftime_now": DAY.strftime, **self._special_tokens, **arguments},
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RequestRefused(
                400, "invalid_messages", f"the model's chat template refuses this: {error}"
            ) from error
        return rendered[0]

    def _form(self, message: Message) -> Message:
        """A message as the template expects it: no text is None beside calls."""
        form, calls = message, message.get("tool_calls")
        if calls:
            given = [{**call, "function": self._function_form(call["function"])} for call in calls]
            form = {**form, "content": form["content"] or None, "tool_calls": given}
        if form["role"] in self._in_parts:
            text = form["content"]
            form = {**form, "content": [{"type": "text", "text": text}] if text else []}
        return form

    def _function_form(self, function: dict) -> dict:
        arguments = function["arguments"]
        if not self._arguments_are_text and isinstance(arguments, str):
            arguments = parsed_arguments(arguments)
        elif self._arguments_are_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {**function, "arguments": arguments}


def _plain_text(prefix: Prefix) -> str:
    return prefix.prompt.text + prefix.call.reply["content"]


def _restore(messages: list[Message], i: int, prefix: Prefix) -> list[Message]:
    """The messages with what was recorded up to the i-th, and the recorded ids of its calls."""
    sent, recorded = (m.get("tool_calls") or () for m in (messages[i], prefix.call.reply))
    ids = {theirs["id"]: ours["id"] for theirs, ours in zip(sent, recorded) if theirs.get("id")}
    added = messages[i + 1 :]
    if any(theirs != ours for theirs, ours in ids.items()):
        added = [
            {**m, "tool_call_id": ids[m["tool_call_id"]]} if m.get("tool_call_id") in ids else m
            for m in added
        ]
    return [*prefix.prompt.messages, prefix.call.reply, *added]
