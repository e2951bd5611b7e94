"""Client that a workflow holds: one agent's way to a model."""

import asyncio
import atexit
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import httpx2
import openai
from openai.resources.chat.completions import AsyncCompletions

from agentrl.serving.handler import Handler, seed_of
from agentrl.serving.processes import end_processes
from agentrl.serving.recording import Recording
from agentrl.serving.remote import RemoteModel
from agentrl.serving.sampling import EngineClient
from agentrl.serving.server import Server
from agentrl.serving.weights import description, read_weights
from agentrl.types import Call


class ModelClient(RemoteModel):
    """A client of a model of this process, bound to one episode and one agent's name."""

    def __init__(
        self, server: Server, handler: Handler, recording: Recording, agent: str = "agent"
    ):
        self.name, self.api_key = handler.name, server.register(recording, agent, handler)
        self._server, self._handler, self._recording = server, handler, recording
        self._agent = agent
        self._agents = {agent: self}

    @cached_property
    def base_url(self) -> str:
        """The address of the API, ``/v1`` included; the server starts when it is first read."""
        return f"{self._server.episode_url()}/v1"

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A client in this process, no socket; for any number of concurrent calls."""
        client = openai.AsyncOpenAI(
            api_key=self.api_key,
            base_url="http://agentrl/v1",
            http_client=httpx2.AsyncClient(transport=_InProcess(self._server), trust_env=False),
            max_retries=0,
        )
        # It would start a thread to find out, for a header that nobody reads.
        client._platform = "Unknown"
        client.chat.completions = _Completions(client)
        return client

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find the model; whatever was given it ends with the episode."""
        self._recording.has_processes = True
        return super().environment

    def agent(self, name: str) -> "ModelClient":
        """The same episode's client under another agent's name."""
        if name not in self._agents:
            self._agents[name] = ModelClient(self._server, self._handler, self._recording, name)
            self._agents[name]._agents = self._agents
        return self._agents[name]

    def reward(self, value: float) -> None:
        """Give this agent's last call a reward of its own, beside the episode's."""
        self._recording.reward(self._agent, value)

    def state(self, key: str) -> None:
        """Name the state in which this agent makes its next call."""
        self._recording.states[self._agent] = str(key)

    @property
    def calls(self) -> tuple[Call, ...]:
        return self._recording.rewarded_calls()

    @property
    def rng_key(self) -> tuple:
        """Run seed, step, task and episode."""
        return self._recording.rng_key

    @property
    def seed(self) -> int:
        """The episode's own number, for what a workflow draws by chance: it can be run again."""
        return seed_of(*self.rng_key)

    @property
    def context_full(self) -> bool:
        return self._recording.context_full

    @property
    def truncated(self) -> bool:
        """Whether the context or a length limit ended the episode's last call."""
        calls = self._recording.calls
        return self.context_full or bool(calls and calls[-1].finish_reason == "length")

    def close(self) -> None:
        """From now on the keys open nothing; what still runs is aborted and not recorded."""
        recordings = (self._recording, *self._recording.companions)
        keys = self._server.unregister(self._recording)
        if any(recording.has_processes for recording in recordings):
            end_processes(keys)


AuxiliaryClient = Handler | Callable[[], RemoteModel]
"""A model of this process, or what makes an episode's client of one that is elsewhere."""


@runtime_checkable
class TrainedModel(Protocol):
    """What ``Serving.push`` needs of the policy."""

    def weights(self, dtype: Any) -> Iterable[tuple[str, Any]]:
        """Every weight, whole, under its name in a transformers checkpoint, in this dtype."""

    def probe_gap(self, ids: list[int], sampler_logprobs: list[float]) -> float:
        """The largest difference between these log-probabilities of ``ids[1:]`` and its own."""


class Workers(Protocol):
    """What ``Serving`` needs of the processes in which episodes run."""

    num_tokens: int
    """Completion tokens that the trained model has sampled for them."""

    def close(self) -> None:
        """End them."""


class Serving:
    """The models of a run, and the clients that its episodes get of them."""

    def __init__(
        self,
        server: Server,
        policy: Handler,
        auxiliary: Mapping[str, AuxiliaryClient] | None = None,
        *,
        seed: int,
        folder: str | Path = "",
    ):
        """folder: the policy's."""
        self.server, self.policy, self.folder = server, policy, Path(folder)
        self.version = 0
        """How many updates the weights have had that calls are sampled from."""
        self.auxiliary, self._seed = auxiliary or {}, seed
        self.stays_awake = False
        """Whether it samples while the trainer works."""
        self.workers: Workers | None = None
        """What runs episodes in processes of their own, where there is any."""
        self.engine: EngineClient = policy.engine
        """The one that samples for the trained model; so with the next two."""
        self.tokenizer, self.decode = policy.chat_template.tokenizer, policy.chat_template.decode

    @property
    def num_tokens(self) -> int:
        """Completion tokens that the trained model has sampled so far."""
        return self.policy.num_tokens + (self.workers.num_tokens if self.workers else 0)

    @property
    def handlers(self) -> dict[str, Handler]:
        """Those of models with an engine of ours, by name, the policy's first."""
        named = {"policy": self.policy, **self.auxiliary}
        return {name: model for name, model in named.items() if isinstance(model, Handler)}

    @property
    def engines(self) -> dict[str, EngineClient]:
        """Theirs."""
        return {name: handler.engine for name, handler in self.handlers.items()}

    def open(
        self, *, step: int, task_id: str, episode: int, **sampling: Any
    ) -> tuple[ModelClient, dict[str, RemoteModel]]:
        """A new episode's client of the trained model, and those of the auxiliary ones."""
        rng_key = (self._seed, step, task_id, episode)
        auxiliary, companions = {}, []
        for name, model in self.auxiliary.items():
            if isinstance(model, Handler):
                companions.append(Recording((name, *rng_key), own_sampling=True))
                auxiliary[name] = ModelClient(self.server, model, companions[-1], name)
            else:
                auxiliary[name] = model()
        recording = Recording(rng_key, companions=companions, **sampling)
        self.engine.enter(rng_key)
        return ModelClient(self.server, self.policy, recording), auxiliary

    def release(self, model: ModelClient) -> None:
        """The engine waits no more for an episode that is over, once others have entered."""
        self.engine.leave(model.rng_key)

    def push(self, policy: TrainedModel, version: int) -> float:
        """Sample from the policy's weights from here on; wakes the engine.

        version: how many updates they have had. Returns the largest difference between the
        log-probabilities that the engine and the policy give one fixed sequence.
        """
        sampler_logprobs = self.engine.sync(policy.weights(self.engine.dtype))
        self.version = version
        return policy.probe_gap(self.engine.probe, sampler_logprobs)

    def load(self, folder: str | Path) -> bool:
        """Sample from a folder's weights from here on; not, where it is another model otherwise."""
        is_alike = description(self.folder) == description(Path(folder)) != {}
        if is_alike:
            self.engine.sync(read_weights(Path(folder)))
        return is_alike

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """The trainer has the engine's memory on the GPU, from here until the next ``push``; not
        where both are in memory together."""
        if not self.stays_awake:
            self.engine.sleep()
        yield

    def close(self) -> None:
        """Stop the HTTP server and the engines."""
        atexit.unregister(self.close)
        if self.workers:
            self.workers.close()
        self.server.close()
        for engine in self.engines.values():
            engine.close()


class _Completions(AsyncCompletions):
    """The client's own, except that messages and tools in plain JSON are sent as they are.

    The client would try each of them against every type that the API knows, for values to rewrite,
    which these have not: half of what a call cost.
    """

    async def create(
        self, *, messages: Iterable[Any], extra_body: Any = None, **options: Any
    ) -> Any:
        messages = list(messages)
        if any(type(message) is not dict for message in messages):
            return await super().create(messages=messages, extra_body=extra_body, **options)
        plain = {"messages": messages}
        if isinstance(options.get("tools"), list):
            plain["tools"] = options.pop("tools")
        body = {**plain, **(extra_body or {})}
        return await super().create(messages=[], extra_body=body, **options)


class _InProcess(httpx2.AsyncBaseTransport):
    """Carries a client's requests to the server on the caller's own event loop."""

    def __init__(self, server: Server):
        self._server = server

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        work = self._server.respond(request.url.path, await request.aread(), request.headers)
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("read")):
                http_reply = await work
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the response took too long", request=request) from error
        return httpx2.Response(
            http_reply.status, content=http_reply.body, headers=http_reply.headers, request=request
        )
