"""HTTP agent: plain requests, which block; an episode has a thread of its own."""

import requests

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PYTHON_TOOL
from experiments.gsm8k.agent import MAX_TURNS, SYSTEM, python


async def solve(task, model) -> WorkflowOutput:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_TURNS):
        response = requests.post(
            f"{model.base_url}/chat/completions",
            headers={"Authorization": f"Bearer {model.api_key}"},
            json={"model": model.name, "messages": messages, "tools": [PYTHON_TOOL]},
        )
        response.raise_for_status()
        reply = response.json()["choices"][0]["message"]
        messages.append(reply)
        calls = reply.get("tool_calls") or []
        if not calls:
            break
        for call in calls:
            printed = await python(call["function"]["arguments"])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": printed})
    return WorkflowOutput(response=reply["content"])
