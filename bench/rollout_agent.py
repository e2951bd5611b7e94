"""Agent of ``bench.rollout``, which workers load: some turns with a null tool, in a task's way."""

import httpx2
import openai

from agentrl.config import Config, ModelConfig


async def talk(task, model) -> float:
    if task["way"] == "openai":
        await converse(model.openai, task)
        return 1.0
    async with openai.AsyncOpenAI(
        base_url=model.base_url,
        api_key=model.api_key,
        # Certificates, which plain HTTP does not need, take 20 ms to read.
        http_client=httpx2.AsyncClient(trust_env=False, verify=False),
    ) as client:
        await converse(client, task)
    return 1.0


async def converse(client: openai.AsyncOpenAI, task: dict) -> None:
    messages = list(task["messages"])
    for _ in range(task["turns"]):
        answer = await client.chat.completions.create(model="policy", messages=messages)
        reply = answer.choices[0].message.model_dump(exclude_none=True)
        calls = reply.get("tool_calls") or ()
        results = [{"role": "tool", "tool_call_id": c["id"], "content": "72"} for c in calls]
        messages += [reply, *(results or [{"role": "user", "content": "72"}])]


config = Config(workflow=talk, tasks=lambda data: ([], []), model=ModelConfig(path="m"))
