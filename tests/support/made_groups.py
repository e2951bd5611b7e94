"""Groups of the demo's episodes, made from its transcripts: what a run has, without an engine."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agentrl.agents.tools import PYTHON_TOOL
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Call, Episode, Group, Message, Sample
from experiments import gsm8k_offline


def made_groups(folder: Path, num_tasks: int = 4, group_size: int = 8) -> list[Group]:
    """Each group has a success and a failure at least; log-probs are the folder's model's."""
    rng, tokenizer = random.Random(0), AutoTokenizer.from_pretrained(folder)
    policy = Policy.load(folder).requires_grad_(False)
    found = []
    for task in islice(gsm8k_offline.problems(7, held_out=False), num_tasks):
        task = {**task, "id": task["question"]}
        solved = [True, False, *(rng.random() < 0.3 for _ in range(group_size - 2))]
        episodes = [
            Episode(
                task=task,
                index=index,
                calls=tuple(_calls(gsm8k_offline.transcript(task, rng), tokenizer, policy)),
                reward=float(is_solved),
                success=is_solved,
            )
            for index, is_solved in enumerate(solved)
        ]
        found.append(Group(task, tuple(episodes)))
    return found


def _calls(
    transcript: list[Message], tokenizer: PreTrainedTokenizerBase, policy: Policy
) -> Iterator[Call]:
    for turn, message in enumerate(transcript):
        if message["role"] == "assistant":
            prompt = _ids(tokenizer, transcript[:turn], add_generation_prompt=True)
            whole = _ids(tokenizer, transcript[: turn + 1])
            assert whole[: len(prompt)] == prompt
            ids = {"prompt_ids": prompt, "completion_ids": whole[len(prompt) :]}
            unscored = Call(**ids, logprobs=[0.0] * (len(whole) - len(prompt)))
            (micro,) = pack([Sample(unscored, 0.0)], 10**6)
            logprobs = policy.terms(micro).logprobs.tolist()
            yield Call(**ids, logprobs=logprobs, reply=_as_sent(message))


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], **options) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tools=[PYTHON_TOOL], tokenize=False, **options)
    return tokenizer.encode(text, add_special_tokens=False)


def _as_sent(message: Message) -> Message:
    """With a tool call's arguments as text, as an agent gets them."""
    calls = [
        {**c, "function": {**c["function"], "arguments": str(c["function"]["arguments"])}}
        for c in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message
