"""A model served by a process of its own, for as long as somebody needs it."""

import openai
import psutil
import pytest

from agentrl import hub


def serving() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "agentrl.debug.serve" in p.cmdline()]


@pytest.mark.slow
def test_it_is_served_while_it_is_needed(tiny_folder, monkeypatch):
    # As in a rank of two, which it is none of.
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    # It says more than a pipe holds, and nobody reads it.
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    asked = {"messages": [{"role": "user", "content": "2+3?"}], "max_tokens": 8, "temperature": 0}
    with hub.behind_url(str(tiny_folder)) as (url, key, name):
        client = openai.OpenAI(base_url=url, api_key=key)
        answers = [client.chat.completions.create(model=name, **asked) for _ in range(2)]
        assert len(serving()) == 1
    # The likeliest tokens, as it was asked: the same ones.
    first, second = (answer.choices[0].message.content for answer in answers)
    assert first == second
    assert 0 < answers[0].usage.completion_tokens <= 8
    assert serving() == []


@pytest.mark.slow
def test_what_is_no_model_is_a_sentence():
    said = "no/such cannot be served: no/such is neither a transformers folder nor a hub model"
    with pytest.raises(ValueError, match=said), hub.behind_url("no/such"):
        pass
    assert serving() == []
