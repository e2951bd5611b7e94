"""Gold answers before a judge: they get full marks, or a run does not begin."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from agentrl.agents.contract import JudgeOutput, WorkflowOutput, as_output, invoke, scored
from agentrl.callables import callable_name
from agentrl.types import Episode, Task


def check_gold(
    judge: Callable, tasks: Sequence[Task], response: Callable[[Task], Any] = lambda t: t["answer"]
) -> None:
    """Raise ValueError, naming the first tasks, where a gold answer is not a success.

    response: what an agent would return that knows it. The judge gets an episode without calls,
    and no models; what it raises is shown.
    """
    faults = {n: asyncio.run(_fault(judge, task, response)) for n, task in enumerate(tasks)}
    wrong = [f"{tasks[n].get('id', f'row {n}')}: {fault}" for n, fault in faults.items() if fault]
    if wrong:
        name = callable_name(judge).rpartition(":")[2]
        raise ValueError(
            f"the judge {name} does not give full marks to the gold answers of {len(wrong)} of "
            f"{len(tasks)} tasks ({'; '.join(wrong[:3])}): mend these answers, or the judge"
        )


async def _fault(judge: Callable, task: Task, response: Callable[[Task], Any]) -> str | None:
    try:
        episode = Episode(task=task, index=0, response=response(task))
        offered = {"episode": episode, "auxiliary_models": {}}
        verdict = as_output(await invoke(judge, task, episode.response, **offered), JudgeOutput)
        episode = scored(episode, WorkflowOutput(), verdict, {})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if episode.success else f"reward {episode.reward}"
