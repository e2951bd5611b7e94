"""Agent's prompt, tool and patience, whatever it is built with."""

from agentrl.agents.tools import PYTHON_TOOL, ChatSetting, PythonTool, Tool

SYSTEM = (
    "Solve the problem. Calculate with the python tool and print the result. "
    "Then give the final answer in \\boxed{}."
)
MAX_TURNS = 6

python = PythonTool()
talk = ChatSetting(system=SYSTEM, tools=(Tool(PYTHON_TOOL, python),))
