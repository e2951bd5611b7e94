"""Teacher behind an OpenAI-compatible URL: asks about passages, and answers by them alone.

The policy answers so, too, several times over: what it never or always gets right teaches nothing.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import openai
from pydantic import create_model

from agentrl import hub
from agentrl.agents.judges.text import is_exact
from agentrl.types import Message, Task

PARALLEL, SECONDS, TRIES = 8, 60.0, 4
"""Calls at a time, what one may take, and how often the policy tries a question."""
ASK = """Write up to {} questions about the user's passage, each in {} different wordings, for \
somebody who does not see it: each says what it is about, none says "the passage". Each has one \
short answer, copied from the passage word for word."""
FIND = """Answer the question by the user's passage alone, in as few of its words as will do; \
with an empty answer where it does not say."""
Wordings = create_model("Wordings", questions=(list[str], ...), answer=(str, ...))
About = create_model("About", tasks=(list[Wordings], ...))
Reading = create_model("Reading", answer=(str, ...))


def reached(teacher: str, model: str) -> AbstractContextManager[Sequence[str] | None]:
    """Where a teacher is: URL, key, its name there. A model that has no URL is served meanwhile."""
    if model or teacher in ("template", ""):
        key = os.environ.get("OPENAI_API_KEY", "none")
        return nullcontext((teacher, key, model) if model else None)
    return hub.behind_url(teacher)


def messages(system: str, shown: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": shown}]


def reading(task: Task) -> str:
    return f"{task['passage']}\n\nThe question: {task['question']}"


class Teacher:
    def __init__(self, at: Sequence[str], options: dict, failures: Counter[str], keep: Callable):
        """options, keep: as ``documents`` has them. failures: calls that fail, by their cause."""
        self._options, self._failures, self._keep = options, failures, keep
        url, key, model = at
        chat = openai.OpenAI(base_url=url, api_key=key, timeout=SECONDS).chat
        self._parse = partial(chat.completions.parse, model=model, temperature=0)
        self._draw = partial(chat.completions.create, model=model, temperature=1, n=TRIES)

    def ask(self, passage: Task) -> list[Task]:
        most, wordings = self._options["questions"], self._options["wordings"]
        found = self._reply(About, ASK.format(most, wordings), "\n\n".join(passage.values()))
        pairs = [(q, one.answer) for one in found.tasks[:most] for q in one.questions[:wordings]]
        return [{"question": question, "answer": answer, **passage} for question, answer in pairs]

    def finds(self, task: Task) -> bool:
        """Whether it answers the same when it is shown the passage alone."""
        return is_exact(self._reply(Reading, FIND, reading(task)).answer, task["answer"])

    def wavers(self, task: Task) -> bool:
        """Whether some of its answers are right, and some are not."""
        drawn = self._draw(messages=messages(FIND, reading(task))).choices
        right = [is_exact(choice.message.content, task["answer"]) for choice in drawn]
        return any(right) and not all(right)

    def _reply(self, form: type, system: str, shown: str) -> Any:
        reply = self._parse(messages=messages(system, shown), response_format=form)
        return reply.choices[0].message.parsed

    def each(self, ask: Callable, items: Sequence[Task], failed: Any) -> Iterator[Any]:
        """What it says of each, in order; what it said before is not asked again."""

        def contained(item: Task) -> Any:
            try:
                return self._keep([ask.__name__, self._options, item], partial(ask, item))
            # What is at its address may answer anything.
            except Exception as error:
                self._failures.update([f"{type(error).__name__}: {error}".splitlines()[0][:200]])
                return failed

        with ThreadPoolExecutor(PARALLEL) as pool:
            yield from pool.map(contained, items)
