"""What the bodies of several APIs have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

StopString = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    tuple[StopString, ...],
    Field(max_length=16),
    BeforeValidator(lambda stop: (stop,) if isinstance(stop, str) else stop),
]
SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
    | {"repetition_penalty", "logit_bias", "seed"}
)


NoArguments = BeforeValidator(lambda given: given or "{}")
"""Of a tool call; clients write null or nothing for it."""


class Known(TypedDict, total=False):
    """A part of a body of which we use these keys; what else clients send in it is dropped."""

    __pydantic_config__ = ConfigDict(extra="ignore")


class Body(BaseModel):
    """A request's body; what it does not list is refused, because it would be ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Of no consequence here; clients send them all the same."""
    neutral: ClassVar[Mapping[str, Any]] = {}
    """What would be refused, but for these values, which ask for what is done anyway."""

    model: str = "policy"
    stream: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, body: Any) -> Any:
        """Clients write null for what they do not ask for."""
        if not isinstance(body, dict):
            return body
        asked = {k: v for k, v in body.items() if v is not None and k not in cls.ignored}
        return {k: v for k, v in asked.items() if cls.neutral.get(k, ...) != v}

    @property
    def sampling(self) -> dict[str, Any]:
        """What the agent would like to draw with; honoured only outside training."""
        return {name: getattr(self, name) for name in self.model_fields_set & SAMPLING}


class OpenAIBody(Body):
    """What OpenAI's APIs have in common, and vLLM's ways to sample beside theirs."""

    ignored = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
        | {"verbosity", "prompt_cache_retention", "prompt_cache_options", "prediction"}
        | {"cache_salt", "priority", "request_id"}
    )
    neutral: ClassVar[Mapping[str, Any]] = {
        **{"ignore_eos": False, "min_tokens": 0, "echo": False, "best_of": 1, "background": False},
        **{"add_generation_prompt": True, "continue_final_message": False, "modalities": ["text"]},
        "truncation": "disabled",
    }

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None


class StreamOptions(Known, total=False):
    include_usage: bool | None


class CompletionOptions(OpenAIBody):
    """What OpenAI's two kinds of completions have in common."""

    n: Annotated[int, Field(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop = ()
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    """vLLM's: ``prompt_token_ids`` beside the choices, and ``token_ids`` in each."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.get("include_usage"))

    def token_ids(self, **ids: list[int]) -> dict[str, list[int]]:
        """The ids, by name, where they are asked for."""
        return ids if self.return_token_ids else {}
