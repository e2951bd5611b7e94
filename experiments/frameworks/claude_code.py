import asyncio
import sys

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, create_sdk_mcp_server, tool


@tool("add", "Add two numbers.", {"a": int, "b": int})
async def add(numbers: dict) -> dict:
    return {"content": [{"type": "text", "text": str(sum(numbers.values()))}]}


async def main() -> None:
    sums = {"sums": create_sdk_mcp_server("sums", tools=[add])}
    options = ClaudeAgentOptions(mcp_servers=sums, allowed_tools=["mcp__sums__add"])
    async with ClaudeSDKClient(options) as client:
        for question in sys.argv[1:]:
            await client.query(question)
            print([message async for message in client.receive_response()][-1].result)


asyncio.run(main())
