"""Tasks and rewards of verifiers: ``verifiers:gsm8k?split=train``, a taskset and its settings.

One turn: a task's tools, its box and its simulated user are run by verifiers' own harness, which
asks its models itself, so that tasks that need one are refused. Every tenth task is held out.
"""

import inspect
from collections.abc import Awaitable
from functools import cache
from itertools import islice
from types import ModuleType
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.query import parsed
from agentrl.environments.requirement import required

MOST = 100_000
"""Tasks; some tasksets never end."""
PIP = "--no-deps --target .environments/verifiers -r requirements-verifiers.txt"


class Verifiers:
    def __init__(self, what: str):
        self._vf, self._all = _loaded(what)

    def tasks(self) -> tuple[list[dict], list[dict]]:
        rows = [{"id": task.key, "index": number} for number, task in enumerate(self._all)]
        return [row for row in rows if row["index"] % 10 != 9], rows[9::10]

    def reset(self, task: dict, seed: int) -> Observation:
        self._task = self._all[task["index"]]
        data, messages = self._task.data, self._task.data.prompt
        if isinstance(messages, str):
            messages = [self._vf.UserMessage(content=messages)]
        system = [self._vf.SystemMessage(content=data.system_prompt)] if data.system_prompt else []
        self._messages = [*system, *messages]
        return Observation(text="\n\n".join(str(message.content) for message in self._messages))

    def step(self, action: Action) -> Awaitable[Observation]:
        return self._scored(str(action))

    async def _scored(self, answer: str) -> Observation:
        vf, task = self._vf, self._task
        about = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        agent = vf.AgentInfo(name="policy", config=vf.AgentConfig())
        trace = vf.Trace(task=about, agent=agent)
        for number, message in enumerate([*self._messages, vf.AssistantMessage(content=answer)]):
            origin = {"parent": number - 1 if number else None, "message": message}
            is_sampled = number == len(self._messages)
            trace.nodes.append(vf.MessageNode(**origin, sampled=is_sampled))
        await task.score(trace)
        return Observation(text="", reward=float(trace.reward), done=True)


@cache
def _loaded(what: str) -> tuple[ModuleType, list[Any]]:
    """Once, before the first episode's process is forked."""
    vf = required("verifiers.v1", PIP)
    name, options = parsed(what)
    config = vf.taskset_config_type(name)(id=name, **options)
    taskset = vf.load_taskset(config)
    tasks = list(islice(taskset, MOST))
    kind = type(tasks[0])
    needs = "runtime" in {
        name
        for function in tasks[0].hooks("reward")
        for name, one in inspect.signature(function).parameters.items()
        if one.default is inspect.Parameter.empty
    }
    tools = [*kind.toolsets(tasks[0].config), *type(taskset).toolsets(config)]
    if needs or kind.NEEDS_CONTAINER or tools or tasks[0].data.prompt is None:
        raise ValueError(f"tasks of {name} need verifiers' own harness: tools, a box or a user")
    return vf, tasks


load = Verifiers
