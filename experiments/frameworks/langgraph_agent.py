import os
import sys

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


model = ChatOpenAI(model="policy", streaming="STREAM" in os.environ)
graph = create_react_agent(model, [add], checkpointer=InMemorySaver())
for question in sys.argv[1:]:
    said = {"messages": [{"role": "user", "content": question}]}
    state = graph.invoke(said, {"configurable": {"thread_id": "1"}})
    print(state["messages"][-1].content)
