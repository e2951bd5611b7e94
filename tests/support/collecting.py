"""Groups collected from the tests' engine, and their episodes by task and number."""

import rollout
from agentrl.config import Config, ModelConfig, SamplingConfig
from agentrl.types import Episode, Group
from tests.support.faults import FAULTS, ask


def worth(calls) -> float:
    """A reward that no other calls have."""
    return sum(sum(call.completion_ids) for call in calls) % 997 / 997


async def judge(task, response, episode):
    return response() if callable(response) else worth(episode.calls)


def make_workflow(chosen: dict[tuple[str, int], str]):
    """Two calls, with the fault in between that is chosen for this task and episode."""

    async def solve(task, model):
        *_, task_id, index = model.rng_key
        said = [await ask(model)]
        output = None
        if (task_id, index) in chosen:
            output = await FAULTS[chosen[task_id, index]].do(task, model)
        said.append(await ask(model))
        return 0.0 if output is None else output

    return solve


def collect(serving, chosen, num_tasks, group_size, **fields) -> list[Group]:
    config = Config(
        **{"workflow": make_workflow(chosen), "judge": judge, **fields},
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m", max_model_len=512),
        sampling=SamplingConfig(max_tokens=16),
    )
    tasks = [{"id": str(i)} for i in range(num_tasks)]
    return rollout.run_groups(
        tasks, config, serving, step=1, group_size=group_size, report=lambda share, note: None
    )


def by_episode(groups: list[Group]) -> dict[tuple[str, int], Episode]:
    return {(g.task["id"], e.index): e for g in groups for e in g.episodes}
