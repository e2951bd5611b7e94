"""AgentScope agent, with the model that the client hands out."""

import asyncio

from agentscope.agent import Agent, InjectionConfig, ReActConfig
from agentscope.message import UserMsg
from agentscope.permission import PermissionBehavior, PermissionDecision
from agentscope.tool import FunctionTool, Toolkit

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PYTHON_TOOL
from experiments.gsm8k.agent import MAX_TURNS, SYSTEM, python

FUNCTION = PYTHON_TOOL["function"]


async def run_python(code: str) -> str:
    return await asyncio.to_thread(python.run, code)


TOOL = FunctionTool(
    run_python,
    name=FUNCTION["name"],
    description=FUNCTION["description"],
    input_schema=FUNCTION["parameters"],
    # Else the agent stops and asks a person.
    permission=PermissionDecision(behavior=PermissionBehavior.ALLOW, message="It has limits."),
)


async def solve(task, model) -> WorkflowOutput:
    agent = Agent(
        name="agent",
        system_prompt=SYSTEM,
        model=model.agentscope,
        toolkit=Toolkit([TOOL]),
        # After its last turn AgentScope asks once more, for an answer without the tool. And unless
        # told to raise, it takes the end of the episode's time for a person who interrupts.
        react_config=ReActConfig(max_iters=MAX_TURNS - 1, interruption_raise_cancelled_error=True),
        # Else every prompt holds the time of day, and no two episodes share one.
        injection_config=InjectionConfig(inject_runtime_state=False),
    )
    reply = await agent.reply(UserMsg("user", task["question"]))
    return WorkflowOutput(response=reply.get_text_content())
