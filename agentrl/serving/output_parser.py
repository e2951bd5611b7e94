"""Output parser: a completion's text -> the message that the agent gets, and grammars.

A message is reasoning, text and tool calls. Their formats are vLLM's knowledge, and so are the
grammars that a JSON schema, a forced tool or a strict tool asks for.
"""

import json
import logging
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from agentrl.serving.protocol import Request, RequestRefused, invalid
from agentrl.types import Message, parsed_arguments


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
        self.reasoning_end: str = (parser.reasoning_end_str or "") if parser else ""
        """What the model writes at the end of its reasoning."""

    def grammar(self, request: Request) -> Any | None:
        """vLLM's StructuredOutputsParams, where the request asks for any.

        Raises RequestRefused where its tools or its schema are not what they should be.
        """
        if not request.tools and request.response_format is None:
            return None
        return _vllm_request(self._parser_class, self._tokenizer, request.format_key)[1]

    def parse(self, request: Request, prompt_ids: list[int], ids: list[int], text: str) -> Message:
        """text: what ``ids`` say, without the token that ended it. Tool calls get no ids here."""
        if not self._parser_class or (not request.tools and not self._reasons):
            return {"role": "assistant", "content": text}
        reasoning, content, calls = self._parse_by_vllm(request, prompt_ids, ids, text)
        if request.response_format and not content and self.reasoning_end not in text:
            # A schema leaves no space for marks.
            reasoning, content = None, text
        message: Message = {"role": "assistant", "content": content or ""}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls and not all(isinstance(parsed_arguments(c.arguments), dict) for c in calls):
            # Clients break on such calls: they are text, like those that cannot be parsed.
            message["content"] = text.rpartition(self.reasoning_end)[2] if reasoning else text
        elif calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in calls
            ]
        return message

    def _parse_by_vllm(
        self, request: Request, prompt_ids: list[int], ids: list[int], text: str
    ) -> tuple[str | None, str | None, Any]:
        asked, _ = _vllm_request(self._parser_class, self._tokenizer, request.format_key)
        parser = self._parser_class(
            self._tokenizer, asked.tools, chat_template_kwargs=dict(request.template_arguments)
        )
        parser.set_prompt_token_ids(prompt_ids)
        return parser.parse(
            text, asked, enable_auto_tools=self._has_tools, model_output_token_ids=ids
        )


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

    tools, tool_choice, response_format, arguments = map(json.loads, format_key)
    try:
        request = ChatCompletionRequest(
            messages=[],
            tools=tools or None,
            tool_choice=tool_choice,
            response_format=response_format,
        )
        if parser_class is not None:
            parser = parser_class(tokenizer, request.tools, chat_template_kwargs=arguments)
            request = parser.adjust_request(request)
        return request, request.extract_structured_outputs()
    except ValidationError as error:
        raise invalid(error) from error
    except Exception as error:
        raise RequestRefused(400, "invalid_request", f"{type(error).__name__}: {error}") from error
