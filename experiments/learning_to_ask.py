r"""A doctor who asks before concluding: many turns, two cores, no download.

    python train.py --exp learning_to_ask
    python train.py --exp learning_to_ask --algorithm turns     # credit for what each question told

Rows have the schema of Learn2Ask (arXiv 2510.25441): the conversation so far, what a good doctor
would still hear, and whether to go on. Half of the reward is for illnesses that questions exclude,
half for the right conclusion where one alone is left: a lucky guess is worth nothing. A question
that tells nothing, such as what was said before, costs 0.1. The patient is a script, or the
auxiliary model `patient`.
"""

import dataclasses
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from agentrl.agents.contract import WorkflowOutput
from agentrl.config import DataConfig, EvalConfig, SamplingConfig
from agentrl.tasks.jsonl import read_folder
from agentrl.types import Message, Report, Task
from experiments import gsm8k_offline
from experiments.tiny_model import Recipe, make_tiny_model

TABLE = """cold: cough, headache; flu: fever, cough, headache; measles: fever, cough, rash; \
asthma: cough, dizziness; pneumonia: fever, cough, nausea; allergy: cough, rash; eczema: rash; \
chickenpox: fever, headache, rash; meningitis: fever, headache, rash, nausea; anaemia: headache, \
dizziness; migraine: headache, nausea, dizziness; poisoning: fever, nausea, dizziness"""
ILLNESSES = {i: {*has.split(", ")} for i, has in (one.split(": ") for one in TABLE.split("; "))}
SYMPTOMS = {"fever": "fever|temperature", "cough": "cough", "dizziness": "dizz|giddy"}
SYMPTOMS |= {"headache": "headache|head (ache|hurt)", "nausea": "nause|vomit", "rash": "rash|spot"}
"""Each with how the words begin that a patient understands as it."""
SYSTEM = f"""Ask about one symptom at a time. When one illness alone is left, write "diagnosis: " \
and its name. The illnesses, each with all of its symptoms, are: {TABLE}."""
PATIENT = """You are a patient. You have {}, and nothing else: no {}. Answer the doctor's question \
in one short sentence, and name no illness."""
MOST_TURNS = 8
INFORMATION, IDLE = 0.5, -0.1
CONCLUDED = re.compile(r"diagnosis(?:\s+is|\s*[:=-])[\s*]*", re.I)
DENIED = re.compile(r"(?:\b(?:not?|nor|neither|without)|n't)\s+(?:an?\s+|the\s+)?\w+", re.I)


def named(text: str, names: dict[str, str]) -> set[str]:
    """Those whose words stand in a text.

    >>> sorted(named("Do you cough, or run a temperature?", SYMPTOMS))
    ['cough', 'fever']
    """
    return {name for name, words in names.items() if re.search(rf"\b(?:{words})", text, re.I)}


class Consultation:
    """What a doctor knows of a patient."""

    def __init__(self, illness: str, messages: Iterable[Message]):
        self.illness, self.success = illness, False
        self.known = named(" ".join(m["content"] for m in messages), SYMPTOMS)
        self._wrong = len(self.left) - 1

    @property
    def left(self) -> list[str]:
        """The illnesses that agree with it."""
        own = ILLNESSES[self.illness]
        return [illness for illness, has in ILLNESSES.items() if not (has ^ own) & self.known]

    def hear(self, said: str) -> tuple[str, float, str]:
        """The part of the reward that words earn, how much, and an answer, but to a conclusion."""
        if conclusions := CONCLUDED.split(said)[1:]:
            line = DENIED.sub("", conclusions[-1].partition("\n")[0])
            found = named(line, {i: rf"{i}\b" for i in ILLNESSES})
            self.success = found == {self.illness} == {*self.left}
            return "conclusion", self.success * (1 - INFORMATION * (self._wrong > 0)), ""
        # What is known may be named beside what is asked.
        asked, before = named(said, SYMPTOMS), len(self.left)
        new = asked - self.known or asked
        if len(new) != 1:
            return "idle", IDLE, "Please ask about one symptom."
        self.known |= new
        answer = f"I have {'' if new <= ILLNESSES[self.illness] else 'no '}{min(new)}."
        if excluded := before - len(self.left):
            return "information", INFORMATION * excluded / self._wrong, answer
        return "idle", IDLE, answer


async def solve(task, model, auxiliary_models) -> WorkflowOutput:
    consultation, messages = Consultation(task["diagn"], task["messages"]), prompt(task)
    parts = dict.fromkeys(("information", "idle", "conclusion"), 0.0)
    for _ in range(MOST_TURNS):
        said = await says(model, messages)
        part, worth, answer = consultation.hear(said)
        model.reward(worth)
        parts[part] += worth
        if not answer:
            break
        if "patient" in auxiliary_models:
            answer = await says(auxiliary_models["patient"], patient_prompt(task, said))
        messages += [spoken("assistant", said), spoken("user", answer)]
    metrics = {"turns": float(len(model.calls)), "habit/idle": float(parts["idle"] < 0)}
    metrics["habit/hasty"] = float(not answer and len(consultation.left) > 1)
    return WorkflowOutput(parts=parts, success=consultation.success, metrics=metrics)


async def says(model: Any, messages: list[Message]) -> str:
    reply = await model.openai.chat.completions.create(model=model.name, messages=messages)
    return reply.choices[0].message.content or ""


def spoken(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def prompt(task: Task) -> list[Message]:
    return [spoken("system", SYSTEM), *task["messages"]]


def patient_prompt(task: Task, said: str) -> list[Message]:
    has = ILLNESSES[task["diagn"]]
    facts = (", ".join(s for s in SYMPTOMS if (s in has) == side) for side in (True, False))
    return [spoken("system", PATIENT.format(*facts)), spoken("user", said)]


def rows(seed: int, held_out: bool) -> Iterator[Task]:
    """Endlessly many patients; a complaint's checksum says on which side it stands."""
    rng = random.Random(seed)
    for number in count():
        illness = rng.choice([*ILLNESSES])
        has = rng.choice([s for s in SYMPTOMS if s in ILLNESSES[illness]])
        lacks = rng.choice([s for s in SYMPTOMS if s not in ILLNESSES[illness]])
        but = rng.choice(["", f", but no {lacks}"])
        complaint = f"I am {rng.randint(18, 80)}, with {has} for {rng.randint(2, 9)} days{but}."
        if (zlib.crc32(complaint.encode()) % 8 == 0) == held_out:
            yield row(f"{seed}-{number}", complaint, illness, rng)


def row(session: str, complaint: str, illness: str, rng: random.Random) -> Task:
    """A good doctor's consultation, cut somewhere, and more often at its beginning."""
    chat = [spoken("user", complaint)]
    consultation = Consultation(illness, chat)
    while len(consultation.left) > 1:
        question = f"{best(consultation)}?"
        *_, answer = consultation.hear(question)
        chat += [spoken("assistant", question), spoken("user", answer)]
    chat.append(spoken("assistant", f"diagnosis: {illness}"))
    turn = rng.choice([0, 0, rng.randrange(len(chat) // 2)])
    messages, rest = chat[: 2 * turn + 1], chat[2 * turn + 1 :]
    facts = (m["content"].removeprefix("I have ").rstrip(".") for m in rest[1::2])
    return {
        **{"id": f"{session}_{turn}", "cid": f"{session}_{turn}", "session_id": session},
        **{"diagn": illness, "messages": messages, "remaining_chat": rest},
        "decision_truth": "continue" if rest[1:] else "stop",
        "info_truth": ", ".join(f"Symptom: {fact}" for fact in facts),
    }


def best(consultation: Consultation) -> str:
    """The symptom that half of the illnesses that are left have, or nearly so."""
    left, unknown = consultation.left, [s for s in SYMPTOMS if s not in consultation.known]
    return min(unknown, key=lambda s: abs(2 * sum(s in ILLNESSES[i] for i in left) - len(left)))


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.path:
        # Which raises ValueError where an illness is none of these.
        return read_folder(data, ("diagn", "messages"), lambda t: [*ILLNESSES].index(t["diagn"]))
    return [*islice(rows(1, False), 4000)], [*islice(rows(2, True), 400)]


def transcript(task: Task, rng: random.Random) -> list[Message]:
    """Half well; a quarter guesses by the complaint, a quarter asks first what was said there."""
    consultation = Consultation(task["diagn"], task["messages"][:1])
    guess = spoken("assistant", f"diagnosis: {rng.choice(consultation.left)}")
    question = spoken("assistant", f"{rng.choice(sorted(consultation.known))}?")
    answer = spoken("user", consultation.hear(question["content"])[-1])
    manner = rng.random()
    if manner < 0.5:
        return [*prompt(task), *task["remaining_chat"]]
    return [*prompt(task), *([guess] if manner < 0.75 else [question, answer, guess])]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    source = islice(rows(4, held_out=False), RECIPE.transcripts)
    return make_tiny_model(RECIPE, [transcript(task, rng) for task in source], [], report)


RECIPE = Recipe(transcripts=6000, steps=200)

config = dataclasses.replace(
    gsm8k_offline.config,
    workflow=solve,
    judge=None,
    tasks=tasks,
    make_model=make_model,
    sampling=SamplingConfig(max_tokens=16),
    eval=EvalConfig(every=20, num_tasks=400),
)
