"""What the bodies of several APIs have in common."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

StopStrings = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)]
SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"}
    | {"repetition_penalty", "logit_bias", "seed"}
)


class Known(TypedDict, total=False):
    """A part of a body of which we use these keys; what else clients send in it is dropped."""

    __pydantic_config__ = ConfigDict(extra="ignore")


class StreamOptions(Known, total=False):
    include_usage: bool | None


class Body(BaseModel):
    """A request's body; what it does not list is refused, because it would be ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = "policy"
    stream: bool | None = False

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        """Clients write null for what they do not ask for."""
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if value is not None}


class Sampled(Body):
    """What the agent would like to draw with; honoured only outside training."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    # Of no consequence here; clients send them all the same.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    verbosity: str | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set & SAMPLING}
