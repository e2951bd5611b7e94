"""Questions about documents: what a person would say of answers, what is found, who finds all."""

import asyncio
import math
import random
from collections import Counter

import pytest

from agentrl.agents.episode import run_episode
from agentrl.tasks.questions.passages import plain
from agentrl.types import Episode
from experiments import documents_qa
from experiments.documents_qa import SIZE, DataConfig, Index, index, key_words, search, tasks
from tests.support.families import QWEN25, write
from tests.support.spy import Scripted

TASK = {
    "id": "t",
    "question": "?",
    "answer": "time/eval_seconds",
    "passage": "| `time/eval_seconds",
}
AWKWARD = [
    ("Answer: time/eval_seconds", 1),
    ("answer: Time/Eval_Seconds.", 1),
    ("ANSWER : time/eval_seconds", 1),
    ("Answer: `time/eval_seconds`", 1),
    ("**Answer:** time/eval_seconds", 1),
    ('Answer: "time/eval_seconds"', 1),
    ("Answer:time/eval_seconds", 1),
    ("Answer:\ntime/eval_seconds", 1),
    ("Answer: the time/eval_seconds", 1),
    ("The answer is time/eval_seconds.", 1),
    ("It stands in the table.\n\nAnswer: time/eval_seconds", 1),
    ("Answer: loss\nNo, I misread it. Answer: time/eval_seconds", 1),
    ("Answer: time/eval_seconds\n", 1),
    ("time/eval_seconds", 0),  # What the prompt asks for begins with a word.
    ("Answer: time/eval_seconds, or loss", 0),
    ("Answer: time/eval_seconds\nOr rather, answer: loss", 0),
    ("Answer: time/evalseconds", 0),
    ("Answer: time", 0),
    ("Answer: eval_seconds/time", 0),
    ("Answer: not time/eval_seconds", 0),
    ("Answer: time/train_seconds", 0),
    ("Answer: I do not know", 0),
    ("Answer:", 0),
    ("Answer", 0),
    ("", 0),
]
JSON = 'The arguments must be JSON like {"query": "words"}.'
NOTHING = "Nothing: try other words."
ARGUMENTS = [
    ("{}", JSON),
    ("", JSON),
    ("chunk", JSON),
    ('"chunk"', JSON),
    ("[1]", JSON),
    ('{"query": 3}', JSON),
    ('{"query": null}', JSON),
    ('{"query": ["chunk"]}', JSON),
    ('{"queries": "chunk"}', JSON),
    ('{"query": "chunk"', JSON),
    ('{"query": ""}', NOTHING),
    ('{"query": "?! --- ..."}', NOTHING),
    ('{"query": "Zyzzyva"}', NOTHING),
    ('{"query": "\\u4e2d\\u6587"}', NOTHING),
]
FOUND = [
    '{"query": "groups of a step that are trained on together"}',
    '{"query": "GROUPS, of a step: that are `trained` on together!"}',
    '{"query": "trained together groups", "most": 3}',
]


@pytest.mark.parametrize(("said", "is_right"), AWKWARD)
def test_an_awkward_answer(said, is_right):
    episode = answered(TASK, said)
    assert (episode.success, episode.parts["correct"]) == (bool(is_right), is_right)


@pytest.mark.parametrize(("arguments", "shown"), ARGUMENTS)
def test_an_awkward_search(arguments, shown):
    assert asyncio.run(search(arguments)) == shown


@pytest.mark.parametrize("arguments", FOUND)
def test_a_search_however_it_is_written(arguments):
    assert "| `Chunk` | groups of a step that" in asyncio.run(search(arguments))


def test_the_ranking_is_bm25():
    texts = ["loss loss gradient", "loss", "probe and push of weights"]
    passages = [{"document": "", "heading": "", "passage": text} for text in texts]
    few = Index(passages)
    # Mean length 3. Of "loss", which two of three have: log(1 + 1.5 / 2.5).
    rarity = math.log(1.6)
    scores = [few._score({"loss", "of"}, counts) for counts in few._counts]
    assert scores[0] == pytest.approx(rarity * 2 / (2 + 1.2))
    assert scores[1] == pytest.approx(rarity * 1 / (1 + 1.2 * 0.5))
    assert scores[2] == pytest.approx(math.log(1 + 2.5 / 1.5) / (1 + 1.2 * 1.5))
    assert few.best("Loss?", 9) == [texts[1], texts[0]]
    assert few.best("LOSS gradient", 1) == texts[:1]


def test_whoever_searches_for_the_question_finds_all_answers():
    train, held_out = tasks(DataConfig())
    assert not {t["passage"] for t in train} & {t["passage"] for t in held_out}
    assert not {t["id"] for t in train} & {t["id"] for t in held_out}
    assert len(train) > 80
    assert len(held_out) > 40
    for task in train + held_out:
        (found,) = index(SIZE).best(task["question"], 1)
        # Without code's quotes and emphasis, which an answer has not either.
        cells = [plain(cell) for cell in found.split("|")]
        assert found == task["passage"]
        assert task["answer"] in cells
    by_key_words = [index(SIZE).best(key_words(t["question"]), 1) == [t["passage"]] for t in train]
    assert sum(by_key_words) / len(train) > 0.9


def answered(task, *said: str | list) -> Episode:
    one = Scripted(QWEN25)
    for text in said:
        one.says(text if isinstance(text, str) else write(QWEN25, None, "", text))
    how = {"judge": documents_qa.judge, "model": one.client, "seconds": 20.0}
    return run_episode(task, 0, workflow=documents_qa.solve, auxiliary_models={}, **how)


def called(query: str) -> list[dict]:
    return [{"name": "search", "arguments": {"query": query}}]


def test_an_agent_that_searches_and_one_that_guesses_or_is_lost():
    task = tasks(DataConfig())[1][0]
    answer = f"Answer: {task['answer']}"
    good = answered(task, called(key_words(task["question"])), answer)
    assert (good.reward, good.success, good.metrics["habit/lost"]) == (1.0, True, 0.0)
    assert good.calls[1].messages[-1]["content"] == task["passage"]
    guessed = answered(task, answer)
    assert (guessed.reward, guessed.success) == (pytest.approx(0.9), True)
    lost = answered(task, called("gradient"), called("Zyzzyva"), "Answer: loss")
    assert (lost.reward, lost.metrics["habit/lost"]) == (0.0, 1.0)


def test_half_of_the_transcripts_are_good_and_what_they_say_stands_in_the_passage():
    rng, (train, _) = random.Random(0), tasks(DataConfig())
    manners = Counter()
    for _ in range(2000):
        _, asked, *turns = documents_qa.transcript(rng.choice(train), rng, train)
        if len(turns) == 1:
            manners["guess"] += 1
            continue
        query = turns[0]["tool_calls"][0]["function"]["arguments"]["query"]
        answer = turns[2]["content"].removeprefix("Answer: ")
        assert answer in turns[1]["content"].replace("`", "")
        manners["good" if query == key_words(asked["content"]) else "lost"] += 1
    shares = {name: count / 2000 for name, count in manners.items()}
    assert shares == pytest.approx({"good": 0.5, "guess": 0.25, "lost": 0.25}, abs=0.03)
