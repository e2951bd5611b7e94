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
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from agentrl.serving.history import History, Prefix, Prompt, extended_by, keys_of
from agentrl.serving.protocol import Request, RequestRefused
from agentrl.types import Call, Message, parsed_arguments

_RESERVED = set(inspect.signature(render_jinja_template).parameters) - {"documents", "kwargs"}
_RESERVED |= {"messages"}


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
        self._arguments_are_text = self._wants_text_arguments()
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
        if own_end is None and rest.startswith(said):
            # Cut by its length; whatever closes the reply is the template's, and not trained.
            return before + self.encode(rest[len(said) :])
        end = own_end or self._reply_end
        rendered, found, added = rest.partition(end or "")
        if not end or not found or not self._says(rendered, prefix.call.reply):
            return None
        # Tokenised behind the end token: a sentencepiece tokenizer would put a space before it.
        ids = self.encode(end + added)
        if own_end is None:
            return before + ids
        return before + ids[1:] if ids[0] == before[-1] else None

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

    def _wants_text_arguments(self) -> bool:
        """Whether the template takes a call's arguments as JSON text only; most want an object."""
        call = {"id": "a" * 9, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        reply = {"role": "assistant", "content": None, "tool_calls": [call]}
        for as_text in (False, True):
            self._arguments_are_text = as_text
            with suppress(RequestRefused):
                self._render([{"role": "user", "content": "a"}, reply], Request())
                return as_text
        return False

    def _find_reply_end(self) -> str | None:
        """The special token with which the template ends a reply of the model's."""
        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "probe-b"}]
        try:
            text = self.tokenizer.apply_chat_template(probe, tokenize=False)
        except TemplateError:
            return None
        after = text.rpartition("probe-b")[2]
        found = [t for t in self.tokenizer.all_special_tokens if t in after]
        return min(found, key=after.index) if found else None

    def _render(self, messages: list[Message], request: Request) -> str:
        """What apply_chat_template does, less what it looks up again each time."""
        arguments, tools = request.template_arguments, list(request.tools) or None
        if not _RESERVED.isdisjoint(arguments):
            names = ", ".join(sorted(_RESERVED & set(arguments)))
            raise RequestRefused(400, "invalid_request", f"chat template arguments: not {names}")
        forms = [_for_template(message, self._arguments_are_text) for message in messages]
        try:
            rendered, _ = render_jinja_template(
                conversations=[forms],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(tools=tools),
                add_generation_prompt=True,
                **{**self._special_tokens, **arguments},
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise RequestRefused(
                400, "invalid_messages", f"the model's chat template refuses this: {error}"
            ) from error
        return rendered[0]


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
    return parsed_arguments(arguments) if isinstance(arguments, str) else arguments
