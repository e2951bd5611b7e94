"""OpenAI SDK agent: its client runs in this process, without a socket."""

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PYTHON_TOOL
from experiments.gsm8k.agent import MAX_TURNS, SYSTEM, python


async def solve(task, model) -> WorkflowOutput:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_TURNS):
        completion = await model.openai.chat.completions.create(
            model=model.name, messages=messages, tools=[PYTHON_TOOL]
        )
        reply = completion.choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        if not reply.tool_calls:
            break
        for call in reply.tool_calls:
            printed = await python(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": printed})
    return WorkflowOutput(response=reply.content)
