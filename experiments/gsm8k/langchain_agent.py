"""LangChain agent: ``create_agent`` with ``ChatOpenAI``.

``invoke`` blocks, as an episode may; ``ainvoke`` works as well.
"""

import asyncio
import json

from langchain.agents import create_agent
from langchain.agents.middleware import ModelCallLimitMiddleware
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PYTHON_TOOL
from experiments.gsm8k.agent import MAX_TURNS, SYSTEM, python

FUNCTION = PYTHON_TOOL["function"]


# With a schema in place of a class, the model reads it as it is, and the tool checks arguments.
@tool("python", description=FUNCTION["description"], args_schema=FUNCTION["parameters"])
def run_python(**arguments) -> str:
    return asyncio.run(python(json.dumps(arguments)))


async def solve(task, model) -> WorkflowOutput:
    agent = create_agent(
        ChatOpenAI(model=model.name, base_url=model.base_url, api_key=model.api_key),
        tools=[run_python],
        system_prompt=SYSTEM,
        middleware=[ModelCallLimitMiddleware(run_limit=MAX_TURNS)],
    )
    state = agent.invoke({"messages": [{"role": "user", "content": task["question"]}]})
    return WorkflowOutput(response=state["messages"][-1].content)
