"""Functions of AgentScope's tuner as our loop calls them: by name, with AgentScope's models."""

import asyncio
import logging

import pytest
from agentscope.message import UserMsg
from agentscope.model import OpenAIChatModel

from agentrl import JudgeOutput, WorkflowOutput, check_judge_function, check_workflow_function
from agentrl.agents.contract import check_signatures
from agentrl.callables import callable_name
from agentrl.tuner.configs import TunerModelConfig
from agentrl.tuner.functions import as_judge, as_workflow
from tests.support.families import QWEN3, tokenizer
from tests.support.spy import Scripted


async def solve(model, logger, task):
    """AgentScope calls by name, so the order is the author's."""
    assert isinstance(logger, logging.Logger)
    assert isinstance(model, OpenAIChatModel)
    reply = await model([UserMsg("user", task["question"])])
    return WorkflowOutput(response=reply.content[0].text, metrics={"calls": 1.0})


async def starred(task, model, *others): ...


async def more(task, model, system_prompt): ...


async def less(task): ...


async def score(response, task):
    return JudgeOutput(reward=float(response == task["answer"]))


@pytest.fixture
def qwen3(tmp_path, tiny_folder):
    """A folder that transformers would load, with Qwen3's template."""
    tokens = tokenizer(QWEN3)
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    tokens.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("func", [starred, more, less])
def test_other_signatures_are_refused_by_name(func):
    wanted = rf"the workflow {func.__name__} takes \(task.*it must take task and model"
    with pytest.raises(ValueError, match=wanted):
        check_workflow_function(func)


def test_signatures_that_fit():
    check_workflow_function(solve)
    check_judge_function(score)
    with pytest.raises(ValueError, match="the judge solve takes .* must take task and response"):
        check_judge_function(solve)


def test_the_loop_gets_a_workflow_and_a_judge_of_its_contract():
    workflow, judge = as_workflow(solve, None, {}), as_judge(score, {})
    check_signatures(workflow, judge)
    assert callable_name(workflow).endswith("test_tuner_functions:solve")
    assert callable_name(judge).endswith("test_tuner_functions:score")


@pytest.mark.parametrize(
    ("thinking", "opening"), [(None, ""), (False, "<think>\n\n</think>\n\n"), (True, "")]
)
def test_a_call_is_recorded_and_the_template_told(episode, qwen3, thinking, opening):
    config = TunerModelConfig(model_path=qwen3, max_model_len=100, enable_thinking=thinking)
    episode.says("four")
    workflow = as_workflow(solve, config, {})
    output = asyncio.run(workflow({"question": "2+2?"}, episode.client, {}))
    assert (output.response, output.metrics) == ("four", {"calls": 1.0})
    (call,) = episode.client.calls
    assert call.text.startswith("four")
    prompt = episode.serving.decode(call.prompt_ids)
    assert prompt.endswith("<|im_start|>assistant\n" + opening)
    judged = asyncio.run(as_judge(score, {})({"answer": "four"}, output.response, {}))
    assert judged == JudgeOutput(reward=1.0)


def test_a_template_that_knows_no_thinking_is_told_at_once(tiny_folder):
    config = TunerModelConfig(model_path=str(tiny_folder), max_model_len=100, enable_thinking=True)
    with pytest.raises(ValueError, match="enable_thinking is True, of which the chat template of"):
        as_workflow(solve, config, {})


def test_auxiliary_models_draw_as_their_config_says(episode):
    """They are AgentScope's, too, and what they are asked with is no default of the server's."""

    async def ask(task, model, auxiliary_models):
        reply = await auxiliary_models["other"]([UserMsg("user", "?")])
        return WorkflowOutput(response=reply.content[0].text)

    config = TunerModelConfig(
        model_path="unread", max_model_len=99, temperature=0.25, top_p=0.5, max_tokens=7
    )
    other, mine = Scripted(QWEN3), episode.client
    other.client._recording.own_sampling = True
    other.says("yes")
    output = asyncio.run(
        as_workflow(ask, None, {"other": config})({}, mine, {"other": other.client})
    )
    assert (output.response, mine.calls) == ("yes", ())
    (drawn,) = other.engine.samplings
    assert (drawn.temperature, drawn.max_tokens, drawn.others["top_p"]) == (0.25, 7, 0.5)
