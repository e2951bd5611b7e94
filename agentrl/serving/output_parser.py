"""Output parser: a completion's text -> the message that the agent gets, and grammars.

A message is reasoning, text and tool calls. Their formats are vLLM's knowledge, and so are the
grammars that a JSON schema, a forced tool or a strict tool asks for.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from transformers import PreTrainedTokenizerBase

from agentrl.serving.protocol import Request, RequestRefused, invalid, valid_json, without_halves
from agentrl.types import Message

PART = 2048
"""Characters that vLLM's parsers are fed at once."""


class OutputParser:
    """How one model writes its reasoning and its tool calls."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
    ):
        from vllm.parser import ParserManager

        # They print a traceback for every malformed call; a model in training makes many.
        for name in ("vllm.tool_parsers", "vllm.parser", "vllm.reasoning"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._tokenizer, self._has_tools = tokenizer, tool_parser is not None
        _check_known(tool_parser, reasoning_parser)
        try:
            self._parser_class = ParserManager.get_parser(
                tool_parser_name=tool_parser,
                reasoning_parser_name=reasoning_parser,
                enable_auto_tools=self._has_tools,
                tokenizer=tokenizer,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"model.tool_parser {tool_parser!r} and model.reasoning_parser "
                f"{reasoning_parser!r} do not both fit this model ({error})"
            ) from None
        parser = self._parser_class(tokenizer).reasoning_parser if self._parser_class else None
        self._reasons = parser is not None
        self._reasoning_start: str = (parser.reasoning_start_str or "") if parser else ""
        self.reasoning_end: str = (parser.reasoning_end_str or "") if parser else ""
        """What the model writes at the end of its reasoning."""
        self._without_reasoning = ParserManager.get_parser(
            tool_parser_name=tool_parser, enable_auto_tools=self._has_tools, tokenizer=tokenizer
        )

    def grammar(self, request: Request) -> Any | None:
        """vLLM's StructuredOutputsParams, where the request asks for any.

        Raises RequestRefused where its tools or its schema are not what they should be.
        """
        if not request.tools and request.response_format is None:
            return None
        return _vllm_request(self._parser_class, self._tokenizer, request.format_key)[1]

    def parse(self, request: Request, prompt_ids: list[int], ids: list[int], text: str) -> Message:
        """text: what ``ids`` say, without the token that ended it. Tool calls get no ids here."""
        reasons = self._reasons and self._is_reasoning(prompt_ids, text)
        parser_class = self._parser_class if reasons else self._without_reasoning
        if not parser_class or not (request.tools or reasons):
            return {"role": "assistant", "content": text}
        reasoning, content, calls = self._parse(parser_class, request, prompt_ids, ids, text)
        message: Message = {"role": "assistant", "content": content or ""}
        if reasoning:
            message["reasoning_content"] = reasoning
        functions = [_function(call) for call in calls or ()]
        if not all(functions):
            # Clients break on such calls: they are text, like those that cannot be parsed.
            message["content"] = text.rpartition(self.reasoning_end)[2] if reasoning else text
        elif functions:
            message["tool_calls"] = [{"type": "function", "function": f} for f in functions]
        return message

    def _is_reasoning(self, prompt_ids: list[int], text: str) -> bool:
        """Whether a completion has reasoning in it, be it cut off: it has the marks, or the prompt
        has begun it. vLLM takes what has no marks for reasoning, also where thinking is off."""
        marks = self._reasoning_start, self.reasoning_end
        opening = self._tokenizer.decode(prompt_ids[-len(marks[0]) - 8 :]).rstrip()
        return any(mark in text for mark in marks) or opening.endswith(marks[0])

    def _parse(
        self, parser_class: Any, request: Request, prompt_ids: list[int], ids: list[int], text: str
    ) -> tuple[str | None, str | None, Any]:
        asked, _ = _vllm_request(parser_class, self._tokenizer, request.format_key)
        parser = parser_class(
            self._tokenizer, asked.tools, chat_template_kwargs=dict(request.template_arguments)
        )
        parser.set_prompt_token_ids(prompt_ids)
        for part in (parser.reasoning_parser, parser.tool_parser):
            # Some are adapters of it.
            part = getattr(part, "_parser_engine", part)
            if engine := getattr(part, "_engine", None):
                engine.feed = partial(_feed_in_parts, engine.feed)
        try:
            return parser.parse(
                text, asked, enable_auto_tools=self._has_tools, model_output_token_ids=ids
            )
        except Exception:
            # Whatever it is that the model wrote there, it is text.
            return None, text, None


def _function(call: Any) -> dict[str, str] | None:
    """A call's name and arguments; None where these are no JSON object that every client reads, and
    could send back."""
    try:
        arguments = valid_json(call.arguments)
        is_object = isinstance(from_json(arguments), dict)
    except (ValueError, RecursionError):
        return None
    return {"name": without_halves(call.name), "arguments": arguments} if is_object else None


def _feed_in_parts(feed: Callable[..., list], text: str, ids: Sequence[int]) -> list:
    """What vLLM's engine of parsers makes of a text; it copies all that it was fed at each mark."""
    if ids:
        return feed(text, ids)
    starts = range(0, max(1, len(text)), PART)
    return [event for start in starts for event in feed(text[start : start + PART], [])]


def _check_known(tool_parser: str | None, reasoning_parser: str | None) -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for kind, name, manager in (
        ("tool", tool_parser, ToolParserManager),
        ("reasoning", reasoning_parser, ReasoningParserManager),
    ):
        if name not in (None, *(known := manager.list_registered())):
            raise ValueError(
                f"model.{kind}_parser is {name!r}, which vLLM does not know: "
                f"give one of {', '.join(known)}"
            )


@lru_cache(maxsize=256)
def _vllm_request(
    parser_class: Any, tokenizer: Any, format_key: tuple[str, str, str, str]
) -> tuple[Any, Any]:
    """The request by which vLLM's parsers read a completion, and its grammar."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

    tools, tool_choice, response_format, arguments = map(json.loads, format_key)
    try:
        request = ChatCompletionRequest(
            messages=[],
            tools=tools or None,
            tool_choice=tool_choice,
            response_format=response_format,
        )
        may_choose = bool(tools) and tool_choice == "auto"
        has_both = may_choose and request.extract_structured_outputs() is not None
        if parser_class is not None:
            parser = parser_class(tokenizer, request.tools, chat_template_kwargs=arguments)
            if has_both:
                # Else vLLM would bind the first token to the schema, and no tool could be called.
                parser.tool_strict_level = ToolStrictLevel.FUNCTION
            request = parser.adjust_request(request)
        grammar = request.extract_structured_outputs()
        if has_both and grammar.structural_tag is None:
            reason = "tools and a schema in one request: this model's tool parser has no grammar "
            raise ValueError(f"{reason}for either of them. Leave one out, or give a tool_choice")
        return request, grammar
    except ValidationError as error:
        asked = {"tools": tools, "tool_choice": tool_choice, "response_format": response_format}
        raise invalid(error, asked) from error
    except Exception as error:
        raise RequestRefused(400, "invalid_request", str(error) or repr(error)) from error
