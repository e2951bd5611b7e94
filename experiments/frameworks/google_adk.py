import asyncio
import os
import sys

from google.adk import agents, runners
from google.adk.models.lite_llm import LiteLlm


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


agent = agents.Agent(name="agent", model=LiteLlm("openai/policy"), tools=[add])
mode = agents.run_config.StreamingMode["SSE" if "STREAM" in os.environ else "NONE"]
options = agents.RunConfig(streaming_mode=mode)
asyncio.run(runners.InMemoryRunner(agent).run_debug(sys.argv[1:], run_config=options))
