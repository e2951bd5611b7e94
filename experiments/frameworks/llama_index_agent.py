import asyncio
from os import environ
from sys import argv

from llama_index.core import agent, memory
from llama_index.llms.openai_like import OpenAILike


def add(a: int, b: int) -> int:
    return a + b


url = {"api_base": environ["OPENAI_BASE_URL"], "is_chat_model": True}
llm = OpenAILike("policy", is_function_calling_model=True, **url)
adder = agent.workflow.FunctionAgent(tools=[add], llm=llm, streaming="STREAM" in environ)


async def main(remembered: memory.Memory) -> None:
    for question in argv[1:]:
        print(await adder.run(question, memory=remembered))


asyncio.run(main(memory.Memory.from_defaults()))
