"""A doctor who asks: what a person would say of his words, and a player that knows what to ask."""

import random

import pytest

from agentrl.agents.episode import run_episode
from agentrl.types import Episode
from experiments.learning_to_ask import (
    ILLNESSES,
    SYMPTOMS,
    Consultation,
    DataConfig,
    best,
    solve,
    spoken,
    tasks,
    transcript,
)
from tests.support.families import QWEN25
from tests.support.spy import Scripted

COMPLAINT = [spoken("user", "I am 40, with cough for 3 days.")]
TASK = {"id": "t", "diagn": "flu", "messages": COMPLAINT}
"""Flu is fever, cough and headache; with a cough, five others may be it."""
ONE = "Please ask about one symptom."
QUESTIONS = [
    ("fever?", "I have fever.", 0.3),
    ("FEVER", "I have fever.", 0.3),
    ("Do you have a fever?", "I have fever.", 0.3),
    ("Are you feverish at night?", "I have fever.", 0.3),
    ("Is your temperature high?", "I have fever.", 0.3),
    ("You have no fever, have you?", "I have fever.", 0.3),
    ("Besides the cough, do you run a temperature?", "I have fever.", 0.3),
    ("I see.\n\nAnd have you had any fever?", "I have fever.", 0.3),
    ("Does your head hurt?", "I have headache.", 0.4),
    ("Any headaches, when you cough?", "I have headache.", 0.4),
    ("Is there a rash on your skin?", "I have no rash.", 0.2),
    ("Do you see red spots anywhere?", "I have no rash.", 0.2),
    ("Have you vomited?", "I have no nausea.", 0.1),
    ("Are you nauseous?", "I have no nausea.", 0.1),
    ("Do you feel dizzy, or giddy?", "I have no dizziness.", 0.1),
    ("cough?", "I have cough.", -0.1),
    ("Since when do you cough?", "I have cough.", -0.1),
    ("Do you have fever or a rash?", ONE, -0.1),
    ("fever, headache, rash, nausea, dizziness?", ONE, -0.1),
    ("Were you in a car crash?", ONE, -0.1),
    ("How old are you?", ONE, -0.1),
    ("Is it flu?", ONE, -0.1),
    ("What was your last diagnosis?", ONE, -0.1),
    ("flu", ONE, -0.1),
    ("Hello!", ONE, -0.1),
    ("", ONE, -0.1),
]
CONCLUSIONS = [
    ("diagnosis: flu", True),
    ("Diagnosis: Flu.", True),
    ("**Diagnosis:** flu", True),
    ("The diagnosis is flu.", True),
    ("diagnosis = FLU", True),
    ("diagnosis:\nflu", True),
    ("You have fever and headache. diagnosis: the flu, I think", True),
    ("diagnosis: flu, not a cold", True),
    ("diagnosis: it isn't measles but flu", True),
    ("diagnosis: cold? No. diagnosis: flu", True),
    ("diagnosis: flu\nIt could have been measles.", True),
    ("diagnosis: cold", False),
    ("diagnosis: flu or cold", False),
    ("diagnosis: not flu", False),
    ("diagnosis: neither cold nor flu", False),
    ("diagnosis: flushed", False),
    ("diagnosis: flu, diagnosis: cold", False),
    ("diagnosis: fever, cough, headache", False),
    ("diagnosis: I do not know", False),
    ("diagnosis:", False),
]


@pytest.mark.parametrize(("said", "answer", "worth"), QUESTIONS)
def test_an_awkward_question(said, answer, worth):
    part, earned, heard = Consultation("flu", COMPLAINT).hear(said)
    assert (heard, earned) == (answer, pytest.approx(worth))
    assert part == ("information" if worth > 0 else "idle")


@pytest.mark.parametrize(("said", "is_right"), CONCLUSIONS)
def test_an_awkward_conclusion(said, is_right):
    asked, hasty = Consultation("flu", COMPLAINT), Consultation("flu", COMPLAINT)
    assert sum(asked.hear(f"{symptom}?")[1] for symptom in ("headache", "fever")) == 0.5
    assert asked.hear(said) == ("conclusion", 0.5 * is_right, "")
    assert asked.success == is_right
    # However right it is: cold, measles, pneumonia, asthma and allergy may be it as well.
    assert hasty.hear(said) == ("conclusion", 0, "")
    assert not hasty.success


def test_what_tells_nothing_costs_wherever_it_is_known_from():
    doctor = Consultation("eczema", [spoken("user", "I am 30, with rash for 2 days.")])
    assert [doctor.hear(f"{s}?")[0] for s in ("rash", "dizziness", "fever", "fever", "cough")] == [
        *("idle", "idle", "information", "idle", "information"),
    ]
    assert doctor.left == ["eczema"]
    assert doctor.hear("nausea?") == ("idle", -0.1, "I have no nausea.")
    assert doctor.hear("diagnosis: eczema") == ("conclusion", 0.5, "")


def test_a_doctor_who_asks_what_tells_most_gets_full_marks_of_every_patient():
    train, held_out = tasks(DataConfig())
    assert (len(train), len(held_out)) == (4000, 400)
    for task in train + held_out:
        doctor, worth = Consultation(task["diagn"], task["messages"]), 0.0
        assert (len(doctor.left) == 1) == (task["decision_truth"] == "stop")
        while len(doctor.left) > 1:
            worth += doctor.hear(f"Any {best(doctor)}?")[1]
        worth += doctor.hear(f"diagnosis: {doctor.left[0]}")[1]
        assert (worth, doctor.success) == (pytest.approx(1.0), True)


def test_rows_are_learn2asks_and_the_sides_share_no_patient():
    train, held_out = tasks(DataConfig())
    complaints = [{task["messages"][0]["content"] for task in side} for side in (train, held_out)]
    assert not complaints[0] & complaints[1]
    assert not {task["id"] for task in train} & {task["id"] for task in held_out}
    one = next(t for t in train if t["messages"][2:] and t["decision_truth"] == "continue")
    *asked, concluded = one["remaining_chat"]
    facts = [m["content"].removeprefix("I have ").rstrip(".") for m in asked[1::2]]
    assert one["info_truth"] == ", ".join(f"Symptom: {fact}" for fact in facts)
    assert concluded == spoken("assistant", f"diagnosis: {one['diagn']}")
    assert one["cid"].startswith(f"{one['session_id']}_")


def test_no_two_illnesses_are_alike_and_all_can_be_asked():
    assert len({frozenset(has) for has in ILLNESSES.values()}) == len(ILLNESSES) == 12
    assert set().union(*ILLNESSES.values()) == SYMPTOMS.keys()


def test_half_of_the_transcripts_are_good():
    rng, rows = random.Random(0), tasks(DataConfig())[0]
    said = [transcript(task, rng)[1 + len(task["messages"]) :: 2] for task in rows]
    visits = [Consultation(task["diagn"], task["messages"]) for task in rows]
    heard = [[v.hear(m["content"]) for m in turns] for v, turns in zip(visits, said, strict=True)]
    idle = sum(turns[0][0] == "idle" for turns in heard) / 4000
    hasty = sum(turns[0][0] == "conclusion" and not turns[0][1] for turns in heard) / 4000
    assert (idle, hasty) == pytest.approx((0.25, 0.22), abs=0.025)
    assert 0.5 < sum(v.success for v in visits) / 4000 < 0.6


def consulted(*said: str, **auxiliary_models) -> Episode:
    one = Scripted(QWEN25)
    for text in said:
        one.says(text)
    how = {"workflow": solve, "judge": None, "model": one.client, "seconds": 20.0}
    return run_episode(TASK, 0, auxiliary_models=auxiliary_models, **how)


def test_each_call_has_its_reward_and_the_episode_their_sum():
    episode = consulted("headache?", "cough?", "fever?", "diagnosis: flu")
    assert [call.reward for call in episode.calls] == pytest.approx([0.4, -0.1, 0.1, 0.5])
    assert (episode.reward, episode.success) == (pytest.approx(0.9), True)
    assert episode.parts == pytest.approx({"information": 0.5, "idle": -0.1, "conclusion": 0.5})
    assert episode.metrics == {"turns": 4, "habit/hasty": 0, "habit/idle": 1}


def test_who_never_concludes_is_sent_home():
    episode = consulted(*["fever?"] * 9)
    assert (len(episode.calls), episode.success) == (8, False)
    assert episode.reward == pytest.approx(0.3 - 7 * 0.1)


def test_a_model_may_be_the_patient():
    patient = Scripted(QWEN25)
    patient.says("My forehead is hot.")
    episode = consulted("fever?", "diagnosis: flu", patient=patient.client)
    assert episode.calls[1].messages[-1]["content"] == "My forehead is hot."
    assert [call.reward for call in episode.calls] == pytest.approx([0.3, 0.0])
    assert episode.metrics["habit/hasty"] == 1
    told, asked = patient.calls[0].messages
    assert "You have fever, cough, headache, and nothing else: no dizziness" in told["content"]
    assert asked["content"] == "fever?"
