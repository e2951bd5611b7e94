import os
import sys

from pydantic_ai import Agent


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


agent, messages = Agent("openai-chat:policy", tools=[add]), []
for question in sys.argv[1:]:
    ask = agent.run_stream_sync if "STREAM" in os.environ else agent.run_sync
    result = ask(question, message_history=messages)
    print(result.get_output() if "STREAM" in os.environ else result.output)
    messages = result.all_messages()
