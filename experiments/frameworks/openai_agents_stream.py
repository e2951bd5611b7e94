import asyncio
import sys

from agents import Agent, Runner, SQLiteSession, function_tool


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def main() -> None:
    agent, session = Agent("agent", tools=[add], model="policy"), SQLiteSession("1")
    for question in sys.argv[1:]:
        result = Runner.run_streamed(agent, question, session=session)
        print([event.type async for event in result.stream_events()][-1], result.final_output)


asyncio.run(main())
