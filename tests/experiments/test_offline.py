"""The offline experiment and the tiny model that it is trained from."""

import random
from collections import Counter
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentrl.agents.judges.numbers import gold_number
from agentrl.agents.tools import NOTHING_PRINTED, PYTHON_TOOL
from agentrl.config import DataConfig
from experiments import gsm8k_offline
from experiments.tiny_model import make_tiny_model
from tests.conftest import SMALL


def test_at_least_twelve_templates_of_one_to_three_steps():
    assert len(gsm8k_offline.TEMPLATES) >= 12
    assert {len(steps) for _, steps in gsm8k_offline.TEMPLATES} == {1, 2, 3}


def test_splits_share_no_problem_whatever_the_seeds():
    train, held_out = gsm8k_offline.tasks(DataConfig())
    assert (len(train), len(held_out)) == (4000, 500)
    reading = islice(gsm8k_offline.problems(99, held_out=False), 5000)
    seen = {task["question"] for task in (*train, *reading)}
    assert seen.isdisjoint(task["question"] for task in held_out)
    assert len({task["id"] for task in train}) == 4000


def test_the_schema_is_gsm8ks():
    for task in islice(gsm8k_offline.problems(0, held_out=False), 300):
        assert gold_number(task["answer"]) == eval(task["expression"]) >= 0
        *steps, last = task["answer"].splitlines()
        assert last.startswith("#### ")
        for step in steps:
            expression, value = step.partition("<<")[2].partition(">>")[0].split("=")
            assert eval(expression) == int(value)


def test_transcripts_carry_the_three_bad_habits():
    rng = random.Random(0)
    problems = gsm8k_offline.problems(0, held_out=False)

    def manner(messages) -> str:
        if len(messages) == 3:
            return "malformed" if "<tool_call>" in messages[2]["content"] else "impatient"
        return "no_print" if messages[3]["content"] == NOTHING_PRINTED else "good"

    counts = Counter(manner(gsm8k_offline.transcript(next(problems), rng)) for _ in range(4000))
    shares = {name: count / 4000 for name, count in counts.items()}
    habits = dict.fromkeys(("no_print", "impatient", "malformed"), 1 / 6)
    assert shares == pytest.approx({"good": 0.5, **habits}, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "Tom has 1234 apples.",
        "  spaces,\ttabs\n\n and\r\nlines  ",
        "ünïcödé, 中文, 🙂👩‍👩‍👧, \u200b\u2028 and \x00\x7f",
        "<|im_end|><tool_call>{}</tool_call>",
        "",
    ],
)
def test_the_tokenizer_loses_nothing(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_apart(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2026"))[-4:] == list("2026")


def test_the_template_says_tools_calls_and_results(tokenizer):
    messages = [
        {"role": "user", "content": "2+3?"},
        *gsm8k_offline._tool_turn("print(2+3)", "5", "It is 5."),
    ]
    text = tokenizer.apply_chat_template(
        messages, tools=[PYTHON_TOOL], tokenize=False, add_generation_prompt=True
    )
    assert text.startswith('<|im_start|>system\n<tools>{"type": "function", "function": ')
    assert text.endswith(
        "</tools><|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>{"name": "python", "arguments": {"code": "print(2+3)"}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\nIt is 5.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_model_loads_like_any_other_and_has_been_trained(tiny_folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    ids = torch.tensor([tokenizer.encode("<|im_start|>user\nTom has 12 pens.<|im_end|>\n")])
    nll = model(input_ids=ids, labels=ids).loss.item()
    assert nll < torch.log(torch.tensor(float(SMALL.vocabulary))).item() - 0.3


def test_the_cache_is_used_and_a_change_makes_another_model(tiny_folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_folder.parent.parent))
    rng = random.Random(0)
    problems = gsm8k_offline.problems(0, held_out=False)
    transcripts = [gsm8k_offline.transcript(next(problems), rng) for _ in range(SMALL.transcripts)]
    reports = []

    def make(transcripts):
        return make_tiny_model(
            SMALL, transcripts, [PYTHON_TOOL], lambda share, note: reports.append(share)
        )

    assert make(transcripts) == tiny_folder
    assert reports == []
    assert make(transcripts[::-1]) != tiny_folder
    assert reports[-1] == 1.0
    assert {path.name for path in tiny_folder.parent.iterdir()} == {
        tiny_folder.name,
        make(transcripts[::-1]).name,
    }
