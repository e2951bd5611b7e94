"""Parts of a reward: a judge of what is correct and penalties add up to one judge.

    judge = exact + malformed(-0.1) + no_print(-0.05) + impatient

Each has its name in the reward, so that an algorithm can weigh it, or compare it by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agentrl.agents.contract import JudgeOutput, as_output, check_judge, invoke
from agentrl.callables import callable_name, underlying


@dataclass(frozen=True)
class Penalty:
    """What a habit costs: ``rude(-0.1)`` of ``@Penalty def rude(episode)``; as it is, nothing.

    The measure says how much of the habit an episode shows, from 0 to 1: the metric
    ``habit/NAME`` and, times the weight, a part of the reward.
    """

    measure: Callable[..., Any]
    weight: float = 0.0

    def __post_init__(self):
        if not -float("inf") < self.weight <= 0:
            raise ValueError(f"the weight of {self.name} is {self.weight}: give 0, or less")

    def __call__(self, weight: float, **given: Any) -> "Penalty":
        """given: the measure's other arguments."""
        return Penalty(partial(self.measure, **given), weight)

    def __radd__(self, judge: Callable) -> "Judge":
        """A judge, or a plain function like one, with this penalty."""
        if isinstance(judge, Judge):
            return Judge(judge.correct, *judge.penalties, self)
        return Judge(judge, self)

    @property
    def name(self) -> str:
        return underlying(self.measure).__name__


class Judge:
    """A judge of what is correct, the part ``correct``, and penalties: a part for each weight."""

    def __init__(self, correct: Callable, *penalties: Penalty):
        check_judge(correct, may_be_plain=True)
        if len({one.name for one in penalties}) < len(penalties):
            raise ValueError(f"{penalties[-1].name} is added twice: give it all its weight at once")
        self.correct, self.penalties = correct, penalties
        # As functions have them: settings show its terms, and runs keep its author's file.
        functions = (correct, *(one.measure for one in penalties))
        named = [callable_name(function).rpartition(":") for function in functions]
        self.__module__ = next((m for m, *_ in named if not m.startswith("agentrl.")), named[0][0])
        terms = [named[0][2], *(f"{one.name}({one.weight:g})" for one in penalties)]
        self.__qualname__ = " + ".join(terms)

    async def __call__(self, task, response, episode, auxiliary_models=None) -> JudgeOutput:
        offered = {"episode": episode, "auxiliary_models": auxiliary_models}
        verdict = as_output(await invoke(self.correct, task, response, **offered), JudgeOutput)
        shown = {one.name: float(one.measure(episode)) for one in self.penalties}
        habits = {f"habit/{name}": share for name, share in shown.items()}
        verdict = replace(verdict, metrics={**(verdict.metrics or {}), **habits})
        costs = {one.name: one.weight * shown[one.name] for one in self.penalties if one.weight}
        # A verdict of both, or of neither, is refused with the episode.
        is_one = (verdict.reward is None) == bool(verdict.parts)
        return _sum(verdict, costs) if costs and is_one else verdict


def _sum(verdict: JudgeOutput, costs: dict[str, float]) -> JudgeOutput:
    """The verdict and what penalties cost; a success is what it was without them."""
    correct = verdict.parts or {"correct": verdict.reward}
    if isinstance(verdict.reward, dict) or correct.keys() & costs.keys():
        raise ValueError(
            f"{', '.join(costs)} cannot be added to a reward for each agent, or to parts of these "
            "names: return one reward, or rename the judge's parts"
        )
    success = sum(correct.values()) >= 1 if verdict.success is None else verdict.success
    return replace(verdict, reward=None, parts={**correct, **costs}, success=success)
