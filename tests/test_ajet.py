"""AgentJet's shapes over a scripted engine: what a workflow is handed, and who scores it."""

import asyncio

import pytest
import requests
from agentscope.message import UserMsg
from pydantic import Field

from agentrl.agents.contract import check_signatures
from agentrl.agents.episode import run_episode
from agentrl.ajet import AjetTuner, BaseJudge, Workflow, WorkflowOutput, WorkflowTask
from agentrl.callables import callable_name, load_callable
from tests.support.families import QWEN3
from tests.support.spy import Scripted

ROW = {"id": "7", "question": "2+2?", "answer": "so 4 #### 4"}


class Asks(Workflow):
    """In each of the forms that a tuner has, one call."""

    system_prompt: str = "Add."

    async def execute(self, workflow_task: WorkflowTask, tuner: AjetTuner) -> WorkflowOutput:
        # What it keeps of an episode is its own.
        assert "heard" not in self.model_extra
        client = tuner.as_raw_openai_sdk_client()
        messages = [
            {"role": "system", "content": self.system_prompt},
            {"role": "user", "content": workflow_task.task.main_query},
        ]
        answer = await client.chat.completions.create(messages=messages)
        self.heard = answer.choices[0].message.content
        model = tuner.as_agentscope_model()
        await model([UserMsg("user", "sure?")])
        given = tuner.as_oai_baseurl_apikey()
        url = f"{given.base_url}/models"
        assert requests.get(url, headers={"Authorization": f"Bearer {given.api_key}"}).ok
        tuner.update_judge_input_dictionary(final_answer=self.heard)
        return WorkflowOutput(log_metrics={"turns": [1, 3], "tool": {"used": True}, "none": []})


class Pays(Workflow):
    async def execute(self, workflow_task, tuner):
        return WorkflowOutput(reward=0.5, is_success=True)


class Silent(Workflow):
    async def execute(self, workflow_task, tuner): ...


class ByOutput(BaseJudge):
    def compute_reward(self, workflow_task, workflow_output):
        gold = workflow_task.task.metadata["answer"].rpartition("#### ")[2]
        is_right = workflow_output.metadata["final_answer"] == gold
        return float(is_right), is_right


class ByDictionary(BaseJudge):
    async def compute_reward(self, judge_input_dictionary):
        last = judge_input_dictionary["grouped_steps"][-1]
        said = [message["content"] for message in last]
        assert said == ["sure?", "yes"]
        assert judge_input_dictionary["workflow_task"].task_id == "7"
        return len(judge_input_dictionary["final_answer"]), False


def run(episode, workflow, judge=None):
    given = {"workflow": workflow, "judge": judge, "model": episode.client, "seconds": 20.0}
    return run_episode(ROW, 0, **given)


@pytest.mark.parametrize(
    ("judge", "reward", "success"), [(ByOutput, 1.0, True), (ByDictionary, 1.0, False)]
)
def test_every_form_is_recorded_and_either_judge_decides(episode, judge, reward, success):
    episode.says("4")
    episode.says("yes")
    workflow, judge = Asks.as_function(), judge.as_function()
    check_signatures(workflow, judge)
    done = run(episode, workflow, judge)
    assert (done.status, done.reward, done.success) == ("ok", reward, success), done.error
    assert [call.reply["content"] for call in done.calls] == ["4", "yes"]
    assert done.calls[0].messages[0] == {"role": "system", "content": "Add."}
    assert done.metrics == {"turns": 2.0, "tool/used": 1.0}


def test_no_judge_is_asked_where_the_workflow_pays(episode):
    class Raises(BaseJudge):
        def compute_reward(self, workflow_task, workflow_output):
            raise AssertionError

    done = run(episode, Pays.as_function(), Raises.as_function())
    assert (done.status, done.reward, done.success) == ("ok", 0.5, True)


def test_without_a_reward_or_a_judge_it_fails(episode):
    done = run(episode, Silent.as_function())
    assert (done.status, done.error) == (
        "error",
        "ValueError: the workflow returned no reward and the experiment has no judge",
    )


def test_tasks_in_agentjets_own_rows():
    row = {"id": "x", "main_query": "?", "metadata": {"answer": 3}, "task_id": 5, "env_type": "e"}
    asked = WorkflowTask.of(row)
    assert (asked.task.main_query, asked.task.metadata) == ("?", {"answer": 3})
    assert (asked.task_id, asked.env_type) == ("5", "e")
    assert WorkflowTask.of(ROW).task.metadata == ROW


class Roles(Workflow):
    trainable_targets: list[str] | None = Field(default=["wolf"])

    async def execute(self, workflow_task, tuner):
        debug = tuner.as_agentscope_model("P2", "villager", debug_model="mine")
        assert debug == "mine"
        await tuner.as_agentscope_model("P1", "wolf")([UserMsg("user", "who?")])
        other = tuner.as_raw_openai_sdk_client("P3", "seer", debug_model="other")
        answer = await other.chat.completions.create(messages=[{"role": "user", "content": "?"}])
        tuner.as_oai_baseurl_apikey("P4", workflow_task.task.main_query)
        return WorkflowOutput(reward=float(answer.choices[0].message.content))


def test_who_is_no_target_speaks_through_another_model(episode):
    other = Scripted(QWEN3)
    episode.says("me")
    other.says("2")

    async def workflow(task, model, auxiliary_models):
        row = {**task, "question": "wolf"}
        return await Roles.as_function()(row, model, {"other": other.client})

    done = run(episode, workflow)
    assert (done.status, done.reward) == ("ok", 2.0), done.error
    assert [call.agent for call in done.calls] == ["wolf"]


def test_a_target_that_has_no_model_to_speak_through_is_told(episode):
    tuner = AjetTuner(episode.client, {}, ["wolf"])
    told = r"seer is not among trainable_targets \(wolf\), and has no debug_model"
    for form in (tuner.as_agentscope_model, tuner.as_oai_baseurl_apikey):
        with pytest.raises(ValueError, match=told):
            form(target_tag="seer")
    with pytest.raises(ValueError, match="debug_model of seer is 'none': name one of"):
        tuner.as_raw_openai_sdk_client(target_tag="seer", debug_model="none")


@pytest.mark.parametrize("arrow", ["->", ":"])
def test_classes_by_name(arrow, episode):
    workflow = load_callable(f"{__file__}{arrow}Pays")
    assert callable_name(workflow).endswith("test_ajet.py:Pays")
    assert load_callable(f"tests.test_ajet{arrow}ByOutput").__qualname__ == "ByOutput"
    assert run(episode, workflow).reward == 0.5
    with pytest.raises(ValueError, match="has no function 'Payz': did you mean Pays"):
        load_callable(f"tests.test_ajet{arrow}Payz")


def test_each_episode_has_a_workflow_of_its_own(episode):
    class Keeps(Workflow):
        async def execute(self, workflow_task, tuner):
            seen = getattr(self, "seen", 0)
            self.seen = seen + 1
            return WorkflowOutput(reward=float(self.seen))

    workflow = Keeps.as_function()
    rewards = [asyncio.run(workflow(ROW, episode.client, {})).reward for _ in range(2)]
    assert rewards == [1.0, 1.0]
