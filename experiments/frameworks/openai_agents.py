import sys

from agents import Agent, Runner, SQLiteSession, function_tool


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


agent, session = Agent("agent", tools=[add], model="policy"), SQLiteSession("1")
for question in sys.argv[1:]:
    print(Runner.run_sync(agent, question, session=session).final_output)
