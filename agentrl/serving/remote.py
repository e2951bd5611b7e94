"""A model behind somebody's OpenAI-compatible server."""

import os
from functools import cached_property, partial
from typing import Any

import openai

from agentrl.config import AuxiliaryModel
from agentrl.serving.process import bypass_proxies


class RemoteModel:
    """Any OpenAI-compatible server. Nothing that goes through it is recorded or trained."""

    def __init__(self, name: str, base_url: str, api_key: str):
        """base_url: the address of the API, ``/v1`` included."""
        self.name, self.base_url, self.api_key = name, base_url, api_key

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client for any number of concurrent calls."""
        return openai.AsyncOpenAI(api_key=self.api_key, base_url=self.base_url)

    def calling_with(self, **arguments: Any) -> "RemoteModel":
        """Its client begins each chat completion with these, unless a call has its own."""
        completions = self.openai.chat.completions
        completions.create = partial(completions.create, **arguments)
        return self

    @cached_property
    def agentscope(self) -> Any:
        """AgentScope's ``OpenAIChatModel`` over the same client."""
        from agentscope.model import OpenAIChatModel

        try:
            from agentscope.credential import OpenAICredential
        except ImportError:  # 1.x
            model = OpenAIChatModel(self.name, self.api_key, stream=False)
        else:
            url = str(self.openai.base_url)
            model = OpenAIChatModel(
                credential=OpenAICredential(api_key=self.api_key, base_url=url),
                model=self.name,
                stream=False,
                # It would retry above the client, and what our server refuses stays refused.
                max_retries=0,
            )
        model.client = self.openai
        return model

    async def aclose(self) -> None:
        """Close the connections of the client, where one was made."""
        if "openai" in vars(self):
            await self.openai.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find the model: OpenAI's and Anthropic's variables."""
        bypass_proxies("127.0.0.1", "localhost")
        return {
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self.api_key,
            "ANTHROPIC_BASE_URL": self.base_url.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": self.api_key,
            "NO_PROXY": os.environ["NO_PROXY"],
            "no_proxy": os.environ["NO_PROXY"],
        }


def key_of(name: str, model: AuxiliaryModel) -> str:
    """The key of an auxiliary model's server. Raises ValueError where its variable is not set."""
    if model.key_variable not in os.environ:
        raise ValueError(
            f"auxiliary_models.{name}.key_variable is {model.key_variable}: set that variable to "
            f"the key of {model.url}"
        )
    return os.environ[model.key_variable]
