import asyncio
import json
import os
import re
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from agentrl import printable
from agentrl.agents import contract
from agentrl.agents.judges import llm, numbers, penalties, symbolic, text
from agentrl.agents.judges.gold import check_gold
from agentrl.agents.judges.numbers import boxed_equals, gold_number, last_boxed, number
from agentrl.agents.judges.text import exact, json_fields, matches, token_f1
from agentrl.config import DataConfig
from agentrl.tasks.jsonl import read_jsonl
from agentrl.tasks.splits import read_tasks
from experiments import gsm8k, gsm8k_offline, solver_checker
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
    # A minus as it is printed, units and their powers, marks, commands that change its looks.
    ("\\boxed{\u221218}", "-18", True),
    ("\\boxed{\u201318}", "-18", True),
    (r"\boxed{-\$18}", "-18", True),
    (r"\boxed{\text{minus }18}", "-18", True),
    (r"\boxed{18^\circ}", "18", True),
    (r"\boxed{18^{\circ}\text{C}}", "18", True),
    (r"\boxed{18°}", "18", True),
    (r"\boxed{18\text{ km/h}}", "18", True),
    (r"\boxed{18\ \mathrm{m}^2}", "18", True),
    (r"\boxed{18~\mathrm{km}\,\mathrm{h}^{-1}}", "18", True),
    (r"\boxed{18 m²}", "18", True),
    (r"\boxed{18/hour}", "18", True),
    (r"\boxed{18 man-hours}", "18", True),
    (r"\boxed{18 sq. ft.}", "18", True),
    (r"\boxed{18 años}", "18", True),
    (r"\boxed{18元}", "18", True),
    (r"\boxed{\mathbf{18}}", "18", True),
    (r"\boxed{\text{\textbf{18}}}", "18", True),
    (r"\boxed{\bf 18}", "18", True),
    (r"\boxed{\color{red}{18}}", "18", True),
    (r"\boxed{\displaystyle 18}", "18", True),
    (r"\boxed{\left(18\right)}", "18", True),
    (r"\boxed {18}", "18", True),
    (r"\fbox{18}", "18", True),
    (r"\\boxed{18}", "18", True),
    (r"\boxed{\approx 18}", "18", True),
    (r"\boxed{x \approx 18}", "18", True),
    (r"\boxed{≈18}", "18", True),
    (r"\boxed{about 18}", "18", True),
    (r"\boxed{\text{Answer: }18}", "18", True),
    (r"\boxed{USD 18}", "18", True),
    (r"\boxed{18 EUR}", "18", True),
    (r"\boxed{US\$18}", "18", True),
    (r"\boxed{18€}", "18", True),
    # Fractions, mixed numbers, groups of digits.
    (r"\boxed{\frac 12}", "0.5", True),
    (r"\boxed{\tfrac 1 {2}}", "0.5", True),
    (r"\boxed{\frac{-1}{2}}", "-0.5", True),
    (r"\boxed{\frac{1.5}{2}}", "0.75", True),
    (r"\boxed{33\frac{1}{3}\%}", "100/3", True),
    (r"\boxed{3 1/2}", "3.5", True),
    (r"\boxed{-3~1/2}", "-3.5", True),
    (r"\boxed{3½}", "3.5", True),
    (r"\boxed{1~000}", "1000", True),
    (r"\boxed{1\,000\,000.5}", "1000000.5", True),
    ("\\boxed{1\u202f000}", "1000", True),
    (r"\boxed{1'000}", "1000", True),
    (r"\boxed{1.8e1}", "18", True),
    ("\\boxed{\uff11\uff18}", "18", True),
    # What math-verify is asked.
    (r"\boxed{10^3}", "1000", True),
    (r"\boxed{\sqrt{324}}", "18", True),
    (r"\boxed{6 \times 3 = 18}", "18", True),
    (r"\boxed{1.2\times 10^{3}}", "1,200", True),
    (r"\boxed{\frac{1}{1/18}}", "18", True),
    (r"\boxed{6 \times 3 = 18}", "19", False),
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
    (r"\boxed{17 1}", "18", False),
    (r"\boxed{18_0}", "18", False),
    (r"\boxed{18\pi}", "18", False),
    (r"\boxed{18π}", "18", False),
    (r"\boxed{18 - x}", "18", False),
    (r"\boxed{3x}", "3", False),
    (r"\boxed{18!}", "18", False),
    (r"\boxed{not 18}", "18", False),
    (r"\boxed{x > 18}", "18", False),
    (r"\boxed{x = 18 or x = 19}", "19", False),
    (r"\boxed{3 and a half}", "3", False),
    (r"\boxed{18 squared}", "18", False),
    (r"\boxed{18:30}", "18", False),
    (r"\boxed{\frac123}", "0.5", False),
    (r"\boxed{18 dollars because everything remaining after paying becomes (a)}", "18", False),
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


# A judge, what the response says, what the answer is, and what a person would give.
NUMBER, WORD = matches(r"####\s*(-?[\d.,]+)"), matches(r"(?i)answer: *(\w+)?")
TEXTS = [
    (exact, "Paris", "Paris", 1),
    (exact, " paris\n", "Paris", 1),
    (exact, "Paris.", "Paris", 1),
    (exact, "The Beatles", "Beatles", 1),
    (exact, "an apple", "apple", 1),
    (exact, "**Paris**", "Paris", 1),
    (exact, '"Paris"', "“Paris”", 1),
    (exact, "(B)", "b", 1),
    (exact, "A", "A", 1),
    (exact, "\uff30\uff41\uff52\uff49\uff53\uff1a", "paris:", 1),
    (exact, "New\n  York", "New York", 1),
    (exact, "well-known", "well known", 1),
    (exact, "O\u2019Brien", "OBrien", 1),
    (exact, "U.S.A.", "USA", 1),
    (exact, "Hello,world!", "hello, world", 1),
    (exact, "1,000", "1000", 1),
    (exact, "(3, 4)", "(3,4)", 1),
    (exact, "18.00", "18", 1),
    (exact, "19:30", "19:30.", 1),
    (exact, "5\u20137", "5-7", 1),
    (exact, "巴黎。", "巴黎", 1),
    (exact, "Straße", "STRASSE", 1),
    (exact, "color", ["colour", "color"], 1),
    (exact, 7, "7", 1),
    (exact, "Paris", "London", 0),
    (exact, "It is Paris.", "Paris", 0),
    (exact, "A B", "B", 0),
    (exact, "A, B", "B", 0),
    (exact, "-3", "3", 0),
    (exact, "3.5", "35", 0),
    (exact, "10²", "102", 0),
    (exact, "10.0.0.1", "10.1", 0),
    (exact, "C++", "C", 0),
    (exact, "5!", "5", 0),
    (exact, "50%", "50", 0),
    (exact, "año", "ano", 0),
    (exact, "Arts of the Dark", "Arts of Dark", 0),
    (exact, "!?", "...", 0),
    (exact, "", "Paris", 0),
    (exact, None, "None", 0),
    (NUMBER, "so 3\n#### 1,000", "1000", 1),
    (NUMBER, "#### 4, no: #### 5", "5", 1),
    (NUMBER, "#### 4, no: #### 5", "4", 0),
    (NUMBER, "5", "5", 0),
    (WORD, "ANSWER: yes.", "Yes", 1),
    (WORD, "Answer: ", "Yes", 0),
    (matches("^[a-z]+$"), "abc", None, 1),
    (matches("^[a-z]+$"), "a c", None, 0),
    (json_fields("name", "age"), '{"name": "ann ", "age": 3}', {"name": "Ann", "age": 3}, 1),
    (json_fields("name", "age"), '```json\n{"age": 3.0}\n```', {"name": "Ann", "age": 3}, 1 / 2),
    (json_fields("name"), 'So {x}: {"name": "Ann", "y": {}}', '{"name": "Ann", "age": 3}', 1),
    (json_fields(), '{"a": 1} or {"a": 2}', {"a": 2}, 1),
    (json_fields(), {"a": "2", "b": [1, {"c": "X"}]}, {"a": 2, "b": [1, {"c": "x"}]}, 1),
    (json_fields(), '{"a": true, "b": [1, 2], "c": 0}', {"a": 1, "b": [2, 1], "c": None}, 0),
    (json_fields(), '{"a": null}', {"a": None, "b": None}, 1 / 2),
    (json_fields(), '{"a": 1', {"a": 1}, 0),
    (json_fields(), "[1]", {"a": 1}, 0),
    (token_f1, "The cat sat.", "cat sat", 1),
    (token_f1, "a cat", "the dog", 0),
    (token_f1, "cat cat", "cat", 2 / 3),
    (token_f1, "in New York City", "New York", 2 / 3),
    (token_f1, "", "", 1),
    (token_f1, None, "cat", 0),
    (token_f1, "it is four", ["4", "four"], 1 / 2),
]


def verdict(judge, response, answer):
    return asyncio.run(judge({"answer": answer}, response))


@pytest.mark.parametrize(("judge", "response", "answer", "share"), TEXTS)
def test_what_a_person_would_give_a_text(judge, response, answer, share):
    assert verdict(judge, response, answer) == pytest.approx(share)


def test_a_pattern_that_backtracks_for_ever_does_not_match(monkeypatch):
    """Without a limit it takes some 2 ** 60 steps."""
    monkeypatch.setattr(text, "SECONDS", 0.05)
    started = time.process_time()
    assert verdict(matches(r"(?:a|a)*$"), "a" * 60 + "b", None) == 0.0
    assert time.process_time() - started < 1
    assert verdict(matches(r"(?:a|a)*$"), "a" * 60, None) == 1.0


def test_what_a_person_typed_wrong_of_texts():
    with pytest.raises(ValueError, match=r"^the gold answer {'a': 1} has not the fields a, b$"):
        verdict(json_fields("a", "b"), "{}", {"a": 1})


def test_gold_answers_are_checked_before_a_run():
    """Of any judge, and what it raises is shown; three are named."""
    rows = [{"id": str(n), "answer": str(n)} for n in range(9)]
    check_gold(exact, rows)
    check_gold(gsm8k.judge, [{"answer": "#### 1/2"}], lambda task: r"\boxed{0.5}")
    said = (
        "the judge by_pattern does not give full marks to the gold answers of 5 of 9 tasks "
        "(4: reward 0.0; 5: reward 0.0; 6: reward 0.0): mend these answers, or the judge"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        check_gold(matches("^[0-3]$"), rows)
    with pytest.raises(ValueError, match=r"1 of 2 tasks \(row 1: KeyError: 'answer'\)"):
        check_gold(exact, [{"answer": "x"}, {}])


@pytest.mark.parametrize("by_row", [True, False])
def test_an_experiment_checks_its_gold_answers(tmp_path, by_row):
    """Where its tasks are read: each row, with its file and line, or all of them."""
    file, judge = tmp_path / "rows.jsonl", matches("^[0-9]+$")
    file.write_text('{"id": "a", "answer": "1"}\n{"id": "b", "answer": "two"}\n')

    def tasks(data):
        if by_row:
            return read_jsonl(file, check=lambda task: check_gold(judge, [task]))
        check_gold(judge, rows := read_jsonl(file))
        return rows

    where, of = (f"{file}:2: ", 1) if by_row else ("", 2)
    said = rf"the judge by_pattern .* answers of 1 of {of} tasks \(b: reward 0.0\)"
    with pytest.raises(ValueError, match=f"^{re.escape(where)}{said}"):
        read_tasks(tasks, DataConfig())


ENDLESS = {
    "words": r"\boxed{18 dollars" + " and what" * 20_000 + " (a)}",
    "digits": r"\boxed{" + "1" * 200_000 + "}",
    "groups": r"\boxed{1" + ",111" * 50_000 + "x}",
    "a fraction": rf"\boxed{{\frac{{{'1' * 5000}}}{{{'7' * 5000}}}}}",
    "boxes that never close": r"\boxed{" * 30_000,
    "boxes and spaces": r"\boxed " * 30_000,
    "braces": r"\boxed{" + "{" * 100_000 + "}" * 99_999,
    "fractions without an end": r"\boxed{" + r"\frac{" * 300 + "}" * 301,
    "roots": r"\boxed{" + r"\sqrt{" * 3000 + "}" * 3001,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_no_answer_takes_long(name):
    started = time.process_time()
    assert not boxed_equals(ENDLESS[name], "#### 18")
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "part",
    ["{", '{"', '{"a"', '{"a":1}', '{"a":', '{"a": "', "the ", "1,", "-", "'", "[", " ", "a.", "#"],
)
def test_no_text_takes_long(part):
    """100,000 characters, and no judge of texts is slower by more than their number."""
    long = (part * 100_000)[:100_000]
    judges = (exact, token_f1, NUMBER, WORD, json_fields("a"))
    for judge, answer in [*((judge, {"a": 1}) for judge in judges), (exact, long)]:
        started = time.process_time()
        verdict(judge, long, answer)
        assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("digits", "correct"), [("18" + "0" * 1_000, True), ("18" + "0" * 10_000, False)]
)
def test_numbers_longer_than_python_reads(digits, correct):
    """What no person would write is no answer; up to there the value is exact."""
    assert (last_boxed(rf"\boxed{{{digits}}}"), number(digits) == 18 * 10**1_000) == (
        digits,
        correct,
    )


@pytest.mark.slow
def test_what_sympy_never_ends_is_not_equal():
    """The kernel ends it, other threads go on, and the next answer is read."""
    assert symbolic.is_equal("3 * 6", "18")
    ticks, ended = [], threading.Event()

    def tick():
        while not ended.wait(0.01):
            ticks.append(time.monotonic())

    ticking = threading.Thread(target=tick)
    ticking.start()
    assert not boxed_equals(r"\boxed{9^{9^{9^{9}}} + 1}", "#### 18")
    ended.set()
    ticking.join()
    assert max(after - before for before, after in pairwise(ticks)) < 0.5
    assert symbolic.is_equal("3 * 6", "18")


def test_without_math_verify_it_is_said(monkeypatch, caplog):
    symbolic._is_installed.cache_clear()
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    assert [boxed_equals(box, "#### 18") for box in (r"\boxed{3 * 6}", r"\boxed{18}")] == [
        False,
        True,
    ]
    assert caplog.messages == [
        "math-verify is not installed: of answers, single numbers alone are right "
        "(pip install math-verify==0.9.0 antlr4-python3-runtime==4.13.2)"
    ]
    symbolic._is_installed.cache_clear()


def test_no_regular_expression_repeats_a_repeat():
    """Of the judges and of experiments, as Python itself parses them."""
    assert nested(r"(a+b)*c")
    assert not nested(r"(?:a+b)?c")
    patterns = {
        value.pattern
        for module in (
            numbers,
            text,
            llm,
            penalties,
            solver_checker,
            gsm8k_offline,
            contract,
            printable,
        )
        for value in pattern_values(module)
    }
    assert len(patterns) > 12
    assert [pattern for pattern in patterns if nested(pattern)] == []


def pattern_values(module):
    values = [*vars(module).values()]
    values += [p for name in ("_LATEX", "_PATTERNS") for p, _ in getattr(module, name, [])]
    return [value for value in values if isinstance(value, re.Pattern)]


def nested(pattern: str) -> bool:
    """Whether what is repeated holds something that is."""

    def walk(parsed, within: bool) -> bool:
        for kind, value in parsed:
            repeats = str(kind) in ("MAX_REPEAT", "MIN_REPEAT") and value[1] > 1
            if repeats and within:
                return True
            inner = value if isinstance(value, tuple | list) else []
            found = [v for v in inner if hasattr(v, "data")]
            found += [b for v in inner if isinstance(v, list) for b in v if hasattr(b, "data")]
            if any(walk(one, within or repeats) for one in found):
                return True
        return False

    return walk(re._parser.parse(pattern), False)


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
