"""A model that another process lends: ``rollout.py --serve`` there, this here.

Stands in the place of ``door``'s Serving and Model. An episode's calls are drawn and recorded where
the engine is, and fetched from there: exact ids, log-probabilities and all. ``lending`` describes
the routes. Nothing heavy is imported, so that a process is ready in a second or two.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from agentrl.config import Config
from agentrl.serving.processes import end_processes
from agentrl.serving.remote import RemoteModel
from agentrl.types import Call, EngineStopped

PATIENCE_SECONDS = 10.0
"""For an answer that needs no drawing."""


SETTINGS = (
    *("model.max_model_len", "model.tool_parser", "model.reasoning_parser"),
    *("sampling.temperature", "sampling.max_tokens", "seed"),
)
"""What the lender does for whoever borrows: both have to agree on these."""


def settings_of(config: Config) -> dict[str, Any]:
    """The values of SETTINGS, by name."""
    values = {}
    for name in SETTINGS:
        room, _, field = name.rpartition(".")
        values[name] = getattr(getattr(config, room) if room else config, field)
    return values


class LentModel(RemoteModel):
    """The door to a lent model, bound to one episode and one agent's name."""

    def __init__(
        self, serving: "LentServing", described: Mapping[str, str], agents: dict | None = None
    ):
        # Here, the lender may go by another address than there.
        path = urlsplit(described["base_url"]).path
        super().__init__(described["name"], f"{serving.url}{path}", described["api_key"])
        self._serving, self._agents = serving, {"agent": self} if agents is None else agents
        self._last: dict[str, Any] = {"calls": [], "context_full": False, "truncated": False}
        self._is_open, self._has_programs = True, False

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client that tells at once where the lender is gone, and knows no proxies."""
        return openai.AsyncOpenAI(
            api_key=self.api_key,
            base_url=self.base_url,
            http_client=httpx2.AsyncClient(trust_env=False),
            max_retries=0,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find the model; whatever was given it ends with the episode."""
        self._has_programs = True
        return super().environment

    def agent(self, name: str) -> "LentModel":
        """The same episode's door under another agent's name."""
        if name not in self._agents:
            described = self._serving.ask("agents", name, key=self.api_key)
            self._agents[name] = LentModel(self._serving, described, self._agents)
        return self._agents[name]

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(_call(fields) for fields in self._record["calls"])

    @property
    def context_full(self) -> bool:
        return self._record["context_full"]

    @property
    def truncated(self) -> bool:
        """Whether the context or a length limit ended the episode's last call."""
        return self._record["truncated"]

    def close(self) -> None:
        """From now on the keys open nothing; what still runs is aborted and not recorded."""
        if self._is_open:
            self._fetch("close", {})
            self._is_open = False
        doors = self._agents.values()
        if any(door._has_programs for door in doors):
            end_processes([door.api_key for door in doors])

    @property
    def _record(self) -> dict[str, Any]:
        if self._is_open:
            self._fetch("record")
        return self._last

    def _fetch(self, route: str, body: Any = None) -> None:
        # An episode has to come to its end, whatever became of the lender; who asks the engine
        # whether it has stopped is told.
        with suppress(EngineStopped):
            self._last = self._serving.ask(route, body, key=self.api_key)


class LentServing:
    """What an engine in another process serves. Raises ValueError, a sentence, where there is none
    that would do."""

    def __init__(
        self,
        url: str,
        key: str,
        settings: Mapping[str, Any],
        auxiliary: Mapping[str, Callable[[], RemoteModel]],
    ):
        """settings: what the lender has to agree on; auxiliary: those that have a URL."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key, self._auxiliary, self._failure = key, auxiliary, None
        self._client = httpx2.Client(trust_env=False, timeout=PATIENCE_SECONDS)
        self._check(settings)

    @property
    def engine(self) -> "LentServing":
        """What knows whether there still is one."""
        return self

    def open(self, **place: Any) -> tuple[LentModel, dict[str, RemoteModel]]:
        """A new episode's door to the model, and those to the auxiliary ones."""
        opened = self.ask("episodes", place)
        model = LentModel(self, opened["model"])
        lent = {name: LentModel(self, described) for name, described in opened["auxiliary"].items()}
        return model, lent | {name: make() for name, make in self._auxiliary.items()}

    def release(self, model: LentModel) -> None:
        """The lender has done so when the episode was closed."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, by the lender's tokenizer."""
        return self.ask("decode", ids)

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where the lender did not answer once."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._client.close()

    def ask(self, route: str, body: Any = None, key: str | None = None) -> Any:
        """What a route answers; a GET where there is no body. Raises EngineStopped."""
        try:
            response = self._request(route, body, key)
            response.raise_for_status()
        except (httpx2.TransportError, httpx2.HTTPStatusError) as error:
            self._failure = EngineStopped(f"the engine at {self.url} is gone ({error})")
            raise self._failure from error
        return json.loads(response.content)

    def _request(self, route: str, body: Any = None, key: str | None = None) -> httpx2.Response:
        return self._client.request(
            "GET" if body is None else "POST",
            f"{self.url}/lent/{route}".rstrip("/"),
            headers={"authorization": f"Bearer {key or self._key}"},
            content=None if body is None else json.dumps(body),
        )

    def _check(self, settings: Mapping[str, Any]) -> None:
        try:
            response = self._request("")
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ValueError(
                f"--engine {self.url} is no address: give the one that --serve printed, "
                "like http://127.0.0.1:8000"
            ) from error
        except httpx2.TransportError as error:
            raise ValueError(
                f"nothing answers at --engine {self.url} ({error}): start one with "
                "rollout.py --exp NAME --serve"
            ) from error
        if response.status_code == 401:
            raise ValueError(
                f"the engine at {self.url} has another key: give --api-key the one that --serve "
                "printed"
            )
        if response.status_code != 200:
            raise ValueError(
                f"what answers at {self.url} is not lent by rollout.py --serve: give --base-url "
                f"{self.url}/v1 for another OpenAI-compatible server"
            )
        self.about = json.loads(response.content)
        for name, theirs in self.about["settings"].items():
            if settings[name] != theirs:
                flag = name.replace("_", "-")
                raise ValueError(
                    f"the engine at {self.url} serves with {name} {theirs}, and here it is "
                    f"{settings[name]}: give --{flag} {theirs}, or serve it again with --{flag} "
                    f"{settings[name]}"
                )


def _call(fields: Mapping[str, Any]) -> Call:
    tuples = {name: tuple(fields[name]) for name in ("messages", "tools")}
    return Call(**{**fields, **tuples})
