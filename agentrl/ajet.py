"""AgentJet's shapes: a ``Workflow`` class, its ``tuner``, and a ``BaseJudge``.

A file that imports from ``ajet`` trains here when it imports from ``agentrl.ajet``:

    python train.py --exp gsm8k --workflow 'math_agent.py->MathAgent' --judge 'judge.py->MathJudge'

docs/coming_from.md has the keys of its YAML beside our flags.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from agentrl.agents import contract
from agentrl.callables import callable_name, named_like
from agentrl.types import Episode

AGENT = "default_target_tag"


class Task(BaseModel):
    main_query: str = ""
    init_messages: list[dict] = Field(default_factory=list)
    task_id: str = ""
    env_type: str = ""
    metadata: dict = Field(default_factory=dict)
    """The whole row, where it has no ``metadata`` of its own."""


class WorkflowTask(BaseModel):
    task: Task
    task_id: str = ""
    env_type: str = ""
    episode_uuid: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "WorkflowTask":
        """Of one of our rows: AgentJet's names where it has them, else question and id."""
        task = Task(
            main_query=row.get("main_query", row.get("question", "")),
            init_messages=row.get("init_messages", []),
            task_id=str(row.get("task_id", row["id"])),
            env_type=row.get("env_type", ""),
            metadata=row.get("metadata", {**row}),
        )
        return cls(task=task, task_id=task.task_id, env_type=task.env_type)


class WorkflowOutput(BaseModel):
    reward: float | None = None
    """None where a judge decides; else no judge is asked."""
    is_success: bool | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    """What the judge sees."""
    log_metrics: dict[str, Any] = Field(default_factory=dict)
    """Numbers; lists of them count by their means, dicts by each of their keys."""


@dataclass(frozen=True)
class OaiBaseurlApikey:
    base_url: str
    api_key: str
    model: str


class AjetTuner:
    """The models of an episode, in the forms that frameworks take.

    target_tag: an agent's name: those that ``trainable_targets`` leaves out speak through their
    ``debug_model``, which nothing records. agent_name: told apart by nothing here.
    """

    def __init__(self, model: Any, auxiliary_models: Mapping[str, Any], targets: list[str] | None):
        self._model, self._auxiliary, self._targets = model, auxiliary_models, targets
        self.judge_input: dict[str, Any] = {}

    def as_agentscope_model(
        self, agent_name: str = "", target_tag: str = AGENT, debug_model: Any = None
    ) -> Any:
        """debug_model: an AgentScope model."""
        if self._is_trained(target_tag, debug_model):
            return self._of(target_tag).agentscope
        return debug_model

    def as_raw_openai_sdk_client(
        self, agent_name: str = "", target_tag: str = AGENT, debug_model: str | None = None
    ) -> AsyncOpenAI:
        """debug_model: the name of an auxiliary model. Calls need not name the model."""
        if self._is_trained(target_tag, debug_model):
            return self._of(target_tag).calling_with(model=self._model.name).openai
        if debug_model not in self._auxiliary:
            raise ValueError(
                f"debug_model of {target_tag} is {debug_model!r}: name one of auxiliary_models"
            )
        auxiliary = self._auxiliary[debug_model]
        return auxiliary.calling_with(model=auxiliary.name).openai

    def as_oai_baseurl_apikey(
        self, agent_name: str = "", target_tag: str = AGENT
    ) -> OaiBaseurlApikey:
        self._is_trained(target_tag, None)
        model = self._of(target_tag)
        return OaiBaseurlApikey(model.base_url, model.api_key, model.name)

    def update_judge_input_dictionary(self, **known: Any) -> None:
        """Tell the judge: it finds this in the output's metadata, too."""
        self.judge_input |= known

    def _of(self, target_tag: str) -> Any:
        return self._model if target_tag == AGENT else self._model.agent(target_tag)

    def _is_trained(self, target_tag: str, debug_model: Any) -> bool:
        is_trained = not self._targets or target_tag in self._targets
        if not is_trained and debug_model is None:
            raise ValueError(
                f"{target_tag} is not among trainable_targets ({', '.join(self._targets)}), and "
                "has no debug_model to speak through: give one"
            )
        return is_trained


class Workflow(BaseModel):
    """An agent: a subclass has ``execute``; each episode makes one of its own."""

    model_config = ConfigDict(extra="allow")
    name: str = "workflow"
    trainable_targets: list[str] | None = None
    """The target tags that are trained. None: all."""

    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        raise NotImplementedError

    @classmethod
    def as_function(cls) -> Callable:
        """The workflow that our loop calls."""

        async def workflow(task: dict, model: Any, auxiliary_models: dict) -> Any:
            agent, episode = cls(), "-".join(map(str, model.rng_key))
            tuner = AjetTuner(model, auxiliary_models, agent.trainable_targets)
            asked = WorkflowTask.of(task).model_copy(update={"episode_uuid": episode})
            output = await agent.execute(asked, tuner) or WorkflowOutput()
            output.metadata = tuner.judge_input | output.metadata
            return contract.WorkflowOutput(
                reward=output.reward,
                success=output.is_success,
                response=output,
                metadata=output.metadata,
                metrics=dict(_numbers(output.log_metrics)),
            )

        return named_like(workflow, callable_name(cls))


class BaseJudge:
    """A judge: a subclass has ``compute_reward``, which need not be async.

    It takes (workflow_task, workflow_output), or one ``judge_input_dictionary`` of what the
    workflow told, the workflow_task, and grouped_steps: each call's messages and its answer.
    """

    def __init__(self, config: Any = None):
        """config: None; what AgentJet reads from its YAML, a judge here has of its own."""
        self.config = config

    def compute_reward(self, *given: Any) -> tuple[float, bool]:
        """(raw_reward, is_success)"""
        raise NotImplementedError

    @classmethod
    def as_function(cls) -> Callable:
        """The judge that our loop calls."""
        judge_of_class = cls(None)

        async def judge(task: dict, response: Any, episode: Episode) -> contract.JudgeOutput:
            output = response if isinstance(response, WorkflowOutput) else WorkflowOutput()
            if output.reward is not None:
                return contract.JudgeOutput(reward=output.reward, success=output.is_success)
            asked, compute = WorkflowTask.of(task), judge_of_class.compute_reward
            if "judge_input_dictionary" in inspect.signature(compute).parameters:
                steps = [[*call.messages, call.reply] for call in episode.calls]
                verdict = compute(
                    {"workflow_task": asked, "grouped_steps": steps} | output.metadata
                )
            else:
                verdict = compute(asked, output)
            reward, success = await verdict if inspect.isawaitable(verdict) else verdict
            return contract.JudgeOutput(reward=float(reward), success=bool(success))

        return named_like(judge, callable_name(cls))


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
        elif value:
            yield f"{prefix}{name}", fmean(value)
