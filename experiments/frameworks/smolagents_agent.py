import os
import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


agent = ToolCallingAgent([add], OpenAIModel("policy"), stream_outputs="STREAM" in os.environ)
for number, question in enumerate(sys.argv[1:]):
    print(agent.run(question, reset=number == 0))
