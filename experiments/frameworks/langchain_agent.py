import os
import sys

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


model, messages = ChatOpenAI(model="policy", streaming="STREAM" in os.environ), []
agent = create_agent(model, [add])
for question in sys.argv[1:]:
    messages.append({"role": "user", "content": question})
    messages = agent.invoke({"messages": messages})["messages"]
    print(messages[-1].content)
