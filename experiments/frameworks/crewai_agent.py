import os
import sys

from crewai import LLM, Agent
from crewai.tools import tool


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


llm = LLM("policy", provider="openai", stream="STREAM" in os.environ)
agent = Agent(role="adder", goal="Add.", backstory="You add.", llm=llm, tools=[add])
messages = []
for question in sys.argv[1:]:
    messages.append({"role": "user", "content": question})
    messages.append({"role": "assistant", "content": agent.kickoff(messages).raw})
    print(messages[-1]["content"])
