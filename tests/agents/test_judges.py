import json
import os
from pathlib import Path

import pytest

from agentrl.agents.judges import boxed_equals, gold_number, last_boxed
from experiments import gsm8k_offline
from tests.support.gsm8k_rows import AWKWARD as AWKWARD_ROWS
from tests.support.gsm8k_rows import NUM_REAL, gsm8k_rows

# What the response says, what the answer is, and what a person would give.
AWKWARD = [
    (r"\boxed{18}", "18", True),
    (r"\boxed{$18}", "18", True),
    (r"\boxed{\$18}", "18", True),
    (r"\boxed{18.00}", "18", True),
    (r"\boxed{18.}", "18", True),
    (r"\boxed{ 18 }", "18", True),
    (r"\boxed{1,000}", "1000", True),
    (r"\boxed{1000}", "1,000", True),
    (r"\boxed{1000.0}", "1,000", True),
    (r"\boxed{1{,}000}", "1000", True),
    (r"\boxed{1,000,000}", "1000000", True),
    (r"\boxed{$1,234.50}", "1234.5", True),
    (r"\boxed{50\%}", "50", True),
    (r"\boxed{50%}", "50", True),
    (r"\boxed{18 \text{ dollars}}", "18", True),
    (r"\boxed{18\text{ dollars}}", "18", True),
    (r"\boxed{18 dollars}", "18", True),
    (r"\boxed{\text{18}}", "18", True),
    (r"\boxed{\frac{1}{2}}", "0.5", True),
    (r"\boxed{\dfrac12}", "0.5", True),
    (r"\boxed{1/2}", "0.5", True),
    (r"\boxed{\frac{10}{4}}", "2.5", True),
    (r"\boxed{\frac{15}{2}}", "7.5", True),
    (r"\boxed{1\frac{1}{2}}", "1.5", True),
    (r"\boxed{-1\frac{1}{2}}", "-1.5", True),
    (r"\boxed{2 dozen}", "24", True),
    (r"\boxed{1.5 million}", "1,500,000", True),
    (r"\boxed{18 million}", "18", False),
    (r"\boxed{1\frac{1}{2}}", "5.5", False),
    (r"\boxed{-3}", "-3", True),
    (r"\boxed{+3}", "3", True),
    (r"\boxed{.5}", "0.5", True),
    (r"\boxed{007}", "7", True),
    (r"\boxed{x = 7}", "7", True),
    (r"\boxed{7} is wrong, it is \boxed{8}", "8", True),
    (r"\boxed{8}. Check: \boxed{", "8", True),
    (r"the answer is $\boxed{8}$.", "8", True),
    (r"\boxed{\boxed{8}}", "8", True),
    (r"\boxed{50\%}", "0.5", False),
    (r"\boxed{0.5}", "50", False),
    (r"\boxed{7} is wrong, it is \boxed{8}", "7", False),
    (r"\boxed{180}", "18", False),
    (r"\boxed{1.8}", "18", False),
    (r"\boxed{-18}", "18", False),
    (r"\boxed{18, 19}", "18", False),
    (r"\boxed{18 or 19}", "18", False),
    (r"\boxed{18-19}", "18", False),
    (r"\boxed{1,00}", "100", False),
    (r"\boxed{1.000}", "1000", False),
    (r"\boxed{0.333}", "1/3", False),
    (r"\boxed{}", "0", False),
    (r"\boxed{eighteen}", "18", False),
    (r"\boxed{1/0}", "1", False),
    (r"\boxed{inf}", "1", False),
    (r"\boxed{nan}", "1", False),
    (r"\boxed{1_000}", "1000", False),
    (r"\boxed{10^3}", "1000", False),
    (r"\boxed{18", "18", False),
    (r"boxed{18}", "18", False),
    ("18", "18", False),
    ("#### 18", "18", False),
    ("", "18", False),
    (None, "18", False),
]


@pytest.mark.parametrize(("response", "gold", "correct"), AWKWARD)
def test_what_a_person_would_give(response, gold, correct):
    assert boxed_equals(response, f"Some steps.\n#### {gold}") is correct


def test_the_last_complete_box_counts():
    assert last_boxed(r"\boxed{a} \boxed{b{c}d} \boxed{e") == "b{c}d"
    assert last_boxed("nothing") is None


def test_an_answer_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="no number after ####"):
        gold_number("no marker here: 12")
    with pytest.raises(ValueError, match="no number after ####"):
        gold_number("#### none")


def test_gold_answers_of_the_offline_problems():
    problems = gsm8k_offline.problems(0, held_out=False)
    for task in (next(problems) for _ in range(500)):
        value = eval(task["expression"])
        assert boxed_equals(rf"\boxed{{{value}}}", task["answer"])
        assert not boxed_equals(rf"\boxed{{{value + 1}}}", task["answer"])


def test_gold_answers_of_rows_like_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.delenv("GSM8K", raising=False)
    check_gold_answers(gsm8k_rows(tmp_path), 2 * (len(AWKWARD_ROWS) + 40))


if "GSM8K" in os.environ:

    def test_gold_answers_of_the_real_rows(tmp_path):
        check_gold_answers(gsm8k_rows(tmp_path), NUM_REAL)


def check_gold_answers(folder: Path, how_many: int) -> None:
    rows = [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.open()]
    assert len(rows) == how_many
    for row in rows:
        gold = row["answer"].rpartition("#### ")[2]
        assert boxed_equals(rf"So it is \boxed{{{gold}}}.", row["answer"])
