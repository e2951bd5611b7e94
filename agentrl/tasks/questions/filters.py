"""Filters: of each task, whether it stays. Each is given what the one before it left."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from agentrl.tasks.questions.passages import plain
from agentrl.types import Task


def words(text: str) -> str:
    """Folded, without signs around words, between spaces."""
    found = (word.strip(".,;:!?\"'()[]{}=|") for word in plain(text).casefold().split())
    return f" {' '.join(filter(None, found))} "


def are_of_length(tasks: Sequence[Task]) -> list[bool]:
    """Questions of 5 to 80 words, answers of 1 to 80 characters."""
    return [5 <= len(t["question"].split()) <= 80 and 0 < len(t["answer"]) <= 80 for t in tasks]


def are_answerable(tasks: Sequence[Task]) -> list[bool]:
    """The answer stands in the passage, literally, not in the question, and there is no other."""
    asked = [[words(task[name]) for name in ("question", "answer", "passage")] for task in tasks]
    num_answers = Counter(question for question, _ in {(q, a) for q, a, _ in asked})
    return [a.strip() != "" and a in p and a not in q and num_answers[q] == 1 for q, a, p in asked]


def are_unlike(tasks: Sequence[Task], similar: float) -> list[bool]:
    """Jaccard of three-word shingles, with all that stay and have the same answer, is less."""
    answered, stay = defaultdict(list), []
    for task in tasks:
        found, others = words(task["question"]).split(), answered[words(task["answer"])]
        some = {*zip(found, found[1:], found[2:])}
        stay.append(all(len(some & other) < similar * len(some | other) for other in others))
        others += [some] if stay[-1] else []
    return stay


def are_few(tasks: Sequence[Task], most: int) -> list[bool]:
    taken = Counter()
    return [taken.update([t["passage"]]) or taken[t["passage"]] <= most for t in tasks]
