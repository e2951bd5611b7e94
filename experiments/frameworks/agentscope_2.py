import asyncio
import os
import sys

from agentscope import agent, credential, message, model, tool


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


key = credential.OpenAICredential(api_key=os.environ["OPENAI_API_KEY"])
policy = model.OpenAIChatModel(key, "policy", stream="STREAM" in os.environ)
tools = tool.Toolkit([tool.FunctionTool(add, is_read_only=True)])
with asyncio.Runner() as runner:
    talker = agent.Agent("agent", "You add numbers.", policy, tools)
    for question in sys.argv[1:]:
        reply = runner.run(talker.reply(message.UserMsg("user", question)))
        print(reply.get_text_content())
