import asyncio
import os
import sys

from agentscope import agent, formatter, message, model, tool


async def add(a: int, b: int) -> tool.ToolResponse:
    """Add two numbers."""
    return tool.ToolResponse([message.TextBlock(type="text", text=str(a + b))])


async def main() -> None:
    policy = model.OpenAIChatModel("policy", stream="STREAM" in os.environ)
    (tools := tool.Toolkit()).register_tool_function(add)
    talker = agent.ReActAgent("agent", "You add.", policy, formatter.OpenAIChatFormatter(), tools)
    for question in sys.argv[1:]:
        await talker(message.Msg("user", question, "user"))


asyncio.run(main())
