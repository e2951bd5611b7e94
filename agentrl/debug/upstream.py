"""Upstream: somebody's OpenAI-compatible server in the place of a run's models, for ``--debug``.

A workflow gets a plain client of it. What goes through that is not seen here: no transcript, no
tokens.
"""

from typing import Any

import openai

from agentrl.config import Config
from agentrl.serving.remote import RemoteModel, key_of


class UpstreamModel(RemoteModel):
    """An episode's client: what ``agents.contract.Model`` has, of which nothing is recorded."""

    calls, truncated, context_full, seed = (), False, False, 0

    def agent(self, name: str) -> "UpstreamModel":
        """Of several agents, each asks the same server."""
        return self

    def reward(self, value: float) -> None:
        """Nothing is recorded that it could be given to."""

    def state(self, key: str) -> None:
        """As with a reward."""

    def close(self) -> None:
        """An episode leaves nothing here that would have to be closed."""


class Upstream:
    """The server at a URL, ``/v1`` included; see ``agents.contract.InferencePool``."""

    num_tokens, workers = 0, None

    def __init__(self, config: Config, url: str, key: str, name: str | None):
        """name: of the model; None where the server has one only. Raises ValueError, in a
        sentence, where it cannot be asked."""
        self._address = name or _only_model(url, key), url.rstrip("/"), key
        self._auxiliary = {
            name: (model.model, model.url, key_of(name, model))
            for name, model in config.auxiliary_models.items()
            if model.url is not None
        }

    def open(self, **_: Any) -> tuple[UpstreamModel, dict[str, RemoteModel]]:
        """A new episode's client, and those of the auxiliary models that have a server, too."""
        auxiliary = {name: RemoteModel(*address) for name, address in self._auxiliary.items()}
        return UpstreamModel(*self._address), auxiliary

    @property
    def engine(self) -> "Upstream":
        return self

    def raise_if_stopped(self) -> None:
        """A server that is gone shows in the next call."""

    def release(self, model: UpstreamModel) -> None:
        """Nothing waits for an episode here."""

    def decode(self, ids: list[int]) -> str:
        """Nothing is known of token ids."""
        return ""


def _only_model(url: str, key: str) -> str:
    try:
        listed = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=10.0).models.list()
        names = [model.id for model in listed.data or ()]
    except openai.AuthenticationError as error:
        raise ValueError(f"{url} does not take this key: give its own, --api-key") from error
    except openai.OpenAIError as error:
        raise ValueError(f"no list of models at --base-url {url}, /v1 included: {error}") from error
    if len(names) != 1:
        found = ", ".join(names) or "no models"
        raise ValueError(f"{url}/models lists {found}: choose one with --model")
    return names[0]
