"""An experiment for workers: each task says what its episodes do besides two calls."""

import asyncio
import ctypes
import os
import subprocess
import sys

import openai

from agentrl.agents.contract import WorkflowOutput
from agentrl.config import Config, ModelConfig, SamplingConfig

ASK = [{"role": "user", "content": "2+3?"}]


async def ask(client, messages=ASK, **options) -> str:
    answer = await client.chat.completions.create(model="policy", messages=messages, **options)
    return answer.choices[0].message.content


async def solve(task, model) -> WorkflowOutput:
    said = [await ask(model.openai)]
    match task.get("does"):
        case "exit":
            os._exit(3)
        case "hang":
            # With the interpreter in its hand: no thread of the process goes on.
            ctypes.PyDLL(None).sleep(10**6)
        case "raise":
            raise RuntimeError("broken")
        case "block":
            await asyncio.sleep(10**6)
        case "leave a program":
            sleep = "import time; time.sleep(10**6)"
            subprocess.Popen([sys.executable, "-c", sleep], env={**os.environ, **model.environment})
        case "http":
            async with openai.AsyncOpenAI(base_url=model.base_url, api_key=model.api_key) as client:
                said.append(await ask(client))
        case "schema":
            schema = {"name": "n", "schema": {"type": "object", "properties": {}}}
            wanted = {"type": "json_schema", "json_schema": schema}
            said.append(await ask(model.openai, response_format=wanted, stop=["}"]))
    said.append(await ask(model.openai, [*ASK, {"role": "assistant", "content": said[-1]}, *ASK]))
    return WorkflowOutput(reward=1.0, metrics={"process": float(os.getpid())})


config = Config(
    workflow=solve,
    tasks=lambda data: ([], []),
    model=ModelConfig(path="m", max_model_len=512),
    sampling=SamplingConfig(max_tokens=16),
    episode_seconds=60.0,
)
