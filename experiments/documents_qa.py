r"""Questions about this repository's documents, by a search tool; two cores, no download.

    python train.py --exp documents_qa

Questions are made of the documents (`documents:docs`), those of the kind whose passages are short;
a third of the passages is held out. The agent is shown none: it searches, reads what the tool
returns, and copies the answer from there. Half of the transcripts that the tiny model starts from
guess instead, or search with words that many passages have. In all of them words are exchanged for
others, in question, passage and answer alike, so that it can but copy. A million weights have not
learned to (LOG.md says what was tried): give a model that reads, by `--model.path`.
"""

import dataclasses
import math
import random
import re
import zlib
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.judges.parts import Penalty
from agentrl.agents.judges.penalties import impatient, malformed
from agentrl.agents.judges.text import matches
from agentrl.agents.tools import ChatSetting, Tool
from agentrl.config import DataConfig, EvalConfig
from agentrl.tasks import documents
from agentrl.tasks.questions.template import FORMS
from agentrl.types import Episode, Message, Report, Task, parsed_arguments
from experiments import gsm8k_offline
from experiments.tiny_model import Recipe, make_tiny_model

FOLDER, SIZE = Path(__file__).parents[1] / "docs", 200
"""What is searched, and the most characters of a passage of it."""
KIND, LONGEST = "row", 30
"""Of questions, and the longest of their answers in characters."""
SYSTEM = 'Search the documents, then reply with "Answer: " and the answer as it stands there.'
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
ABOUT = "The passage of the documents that fits best."
FUNCTION = {"name": "search", "description": ABOUT, "parameters": PARAMETERS}
SEARCH = {"type": "function", "function": FUNCTION}
MOST_TURNS = 4
ANSWER = r"(?i)answer(?:\s+is|\s*:)\s*(.+)"
WORD, KEPT = re.compile(r"[A-Za-z]{3,}"), {*re.findall(r"[A-Za-z]{3,}", FORMS[KIND])}
K1, B = 1.2, 0.75
"""Of BM25 (Robertson and Zaragoza, 2009): how soon a word's count saturates; the length's part."""


class Index:
    """Passages, ranked by BM25."""

    def __init__(self, passages: list[Task]):
        self.passages = passages
        self._counts = [Counter(words(" ".join(passage.values()))) for passage in passages]
        self._mean = sum(map(Counter.total, self._counts)) / len(passages)
        found_in = Counter(word for counts in self._counts for word in counts)
        odds = {word: (len(passages) - n + 0.5) / (n + 0.5) for word, n in found_in.items()}
        self._rarity = {word: math.log1p(odd) for word, odd in odds.items()}

    def best(self, query: str, most: int) -> list[str]:
        asked, every = set(words(query)), enumerate(self._counts)
        scored = [(self._score(asked, counts), i) for i, counts in every if asked & counts.keys()]
        return [self.passages[i]["passage"] for _, i in sorted(scored, reverse=True)[:most]]

    def _score(self, asked: set[str], counts: Counter) -> float:
        norm = K1 * (1 - B + B * counts.total() / self._mean)
        return sum(self._rarity[w] * counts[w] / (counts[w] + norm) for w in asked & counts.keys())


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@cache
def index(size: int) -> Index:
    return Index(documents.read(FOLDER, sorted(FOLDER.rglob("*.md")), size, Counter()))


async def search(arguments: str, size: int = SIZE, most: int = 1) -> str:
    query = parsed_arguments(arguments)
    if not (isinstance(query, dict) and isinstance(query.get("query"), str)):
        return 'The arguments must be JSON like {"query": "words"}.'
    return "\n\n".join(index(size).best(query["query"], most)) or "Nothing: try other words."


talk = ChatSetting(system=SYSTEM, tools=(Tool(SEARCH, search),))


async def solve(task, model) -> WorkflowOutput:
    return await answered(task, model, SIZE, most=1)


async def answered(task: Task, model, size: int, most: int) -> WorkflowOutput:
    """What an agent answers that is shown the ``most`` best passages, of that size."""
    messages = prompt(task["question"])
    for _ in range(MOST_TURNS):
        completion = await model.openai.chat.completions.create(
            model=model.name, messages=messages, tools=[SEARCH]
        )
        reply = completion.choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        for call in reply.tool_calls or ():
            found = await search(call.function.arguments, size, most)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": found})
        if not reply.tool_calls:
            break
    return WorkflowOutput(response=reply.content)


def prompt(question: str) -> list[Message]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


@Penalty
def lost(episode: Episode) -> bool:
    """No search has found the passage that the question is about."""
    shown = [message.get("content") for call in episode.calls for message in call.messages]
    return not any(episode.task["passage"] in (text or "") for text in shown)


judge = matches(ANSWER) + impatient(-0.1, answer="Answer") + malformed(-0.1) + lost


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    rows = chain(*documents.load(f"{FOLDER}?size={SIZE}&questions=9", data))
    fit = [row for row in rows if row["kind"] == KIND and len(row["answer"]) <= LONGEST]
    found = [row for row in fit if index(SIZE).best(row["question"], 1) == [row["passage"]]]
    held_out = [row for row in found if zlib.crc32(row["passage"].encode()) % 3 == 0]
    return [row for row in found if row not in held_out], held_out


def key_words(question: str) -> str:
    """How the longest of its quotations begins."""
    return " ".join(max(re.findall(r'"([^"]+)"', question), key=len).split()[:8])


def transcript(task: Task, rng: random.Random, others: list[Task]) -> list[Message]:
    """Half well, a quarter each guesses, or searches with words that many passages have."""
    task, other = exchanged(task, rng), exchanged(rng.choice(others), rng)
    manner = rng.random()
    if manner < 0.25:
        return [
            *prompt(task["question"]),
            {"role": "assistant", "content": f"Answer: {other['answer']}"},
        ]
    found, query = (other, task["heading"]) if manner < 0.5 else (task, key_words(task["question"]))
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": query}}}
    return [
        *prompt(task["question"]),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": found["passage"]},
        {"role": "assistant", "content": f"Answer: {found['answer']}"},
    ]


def exchanged(task: Task, rng: random.Random) -> Task:
    """Half of its words are others of the documents, wherever they stand."""
    texts = {name: task[name] for name in ("question", "answer", "passage", "heading")}
    own = sorted({*WORD.findall(" ".join(texts.values()))} - KEPT)
    new = {word: rng.choice(all_words()) for word in own if rng.random() < 0.5}
    return task | {n: WORD.sub(lambda m: new.get(m[0], m[0]), t) for n, t in texts.items()}


@cache
def all_words() -> list[str]:
    return sorted({w for p in index(SIZE).passages for w in WORD.findall(p["passage"])} - KEPT)


def make_model(report: Report) -> Path:
    rng, (train, _) = random.Random(3), tasks(DataConfig())
    spoken = [transcript(rng.choice(train), rng, train) for _ in range(RECIPE.transcripts)]
    return make_tiny_model(RECIPE, spoken, [SEARCH], report)


RECIPE = Recipe(transcripts=7200, steps=120, batch=24, vocabulary=1200)

config = dataclasses.replace(
    gsm8k_offline.config,
    workflow=solve,
    judge=judge,
    tasks=tasks,
    make_model=make_model,
    eval=EvalConfig(every=20, num_tasks=60, samples=7),
)
