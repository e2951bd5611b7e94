"""Continuing a conversation from exact ids, on the tiny model's real tokenizer and template."""

import json

import pytest

from agentrl.agents.tools import PYTHON_TOOL
from agentrl.serving.chat import Chat

TOOLS = [PYTHON_TOOL]
QUESTION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+3? ünï 🙂"},
]
CALL_TEXT = '<tool_call>{"name": "python",  "arguments": {"code":"print(2+3)"}}</tool_call>'


@pytest.fixture(scope="module")
def chat(tokenizer):
    return Chat(tokenizer, "hermes")


def finish(chat, prompt, text, tools=TOOLS, end="<|im_end|>"):
    """What the endpoint does after the engine has drawn this text."""
    ids = chat.tokenizer.encode(text + end, add_special_tokens=False)
    reply = chat.reply(ids, None, tools, "call-0")
    return ids, reply, chat.finished(prompt, ids, reply)


def tool_message(reply, content="5"):
    return {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": content}


def test_a_tool_call_is_parsed(chat):
    _, reply, _ = finish(chat, chat.prompt(QUESTION, TOOLS, []), CALL_TEXT)
    (call,) = reply["tool_calls"]
    assert reply["content"] is None
    assert call["function"]["name"] == "python"
    assert json.loads(call["function"]["arguments"]) == {"code": "print(2+3)"}


def test_a_broken_tool_call_is_text(chat):
    text = '<tool_call>{"name": "python", </tool_call>'
    _, reply, _ = finish(chat, chat.prompt(QUESTION, TOOLS, []), text)
    assert reply == {"role": "assistant", "content": text}


def test_a_growing_conversation_continues_from_its_ids(chat):
    prompt = chat.prompt(QUESTION, TOOLS, [])
    ids, reply, past = finish(chat, prompt, CALL_TEXT)
    # The double space of the sampled JSON is gone from what the agent sends back.
    second = chat.prompt([*QUESTION, reply, tool_message(reply)], TOOLS, [past])
    assert second.ids[: len(past.ids)] == prompt.ids + ids
    added = chat.tokenizer.decode(second.ids[len(past.ids) :])
    assert added == "\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_that_the_tokenizer_would_never_choose_survive(chat):
    prompt = chat.prompt(QUESTION, TOOLS, [])
    letters = [chat.tokenizer.encode(letter)[0] for letter in "print"]
    assert len(chat.tokenizer.encode("print")) < len(letters)
    ids = [*letters, chat.tokenizer.eos_token_id]
    reply = chat.reply(ids, None, TOOLS, "call-0")
    past = chat.finished(prompt, ids, reply)
    second = chat.prompt([*QUESTION, reply, {"role": "user", "content": "?"}], TOOLS, [past])
    assert second.ids[: len(past.ids)] == prompt.ids + ids


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: {**reply, "tool_calls": [{**reply["tool_calls"][0], "id": "other"}]},
        lambda reply: {k: v for k, v in reply.items() if k != "content"},
        lambda reply: {**reply, "content": ""},
        lambda reply: {**reply, "refusal": None},
    ],
)
def test_what_clients_change_without_changing_the_meaning(chat, change):
    _, reply, past = finish(chat, chat.prompt(QUESTION, TOOLS, []), CALL_TEXT)
    second = chat.prompt([*QUESTION, change(reply), tool_message(reply)], TOOLS, [past])
    assert second.ids[: len(past.ids)] == past.ids


def test_a_call_cut_by_its_length_continues_after_an_untrained_end(chat):
    prompt = chat.prompt(QUESTION, TOOLS, [])
    _, reply, past = finish(chat, prompt, "The ans", end="")
    second = chat.prompt([*QUESTION, reply, {"role": "user", "content": "go on"}], TOOLS, [past])
    assert second.ids[: len(past.ids)] == past.ids
    assert second.ids[len(past.ids)] == chat.tokenizer.eos_token_id


def test_an_edited_history_is_rendered_afresh(chat):
    _, reply, past = finish(chat, chat.prompt(QUESTION, TOOLS, []), "It is 5.")
    edited = [QUESTION[0], {"role": "user", "content": "What is 2+4?"}, reply, QUESTION[1]]
    fresh = chat.prompt(edited, TOOLS, [])
    assert chat.prompt(edited, TOOLS, [past]).ids == fresh.ids
    assert fresh.ids[: len(past.ids)] != past.ids


def test_other_tools_are_another_conversation(chat):
    _, reply, past = finish(chat, chat.prompt(QUESTION, TOOLS, []), "It is 5.")
    more = [*QUESTION, reply, {"role": "user", "content": "sure?"}]
    assert chat.prompt(more, None, [past]).ids[: len(past.ids)] != past.ids


def test_of_two_calls_that_look_the_same_the_continued_one_is_found(chat):
    """The same text drawn in other tokens, with different things said before."""
    pasts = []
    for question in ("one?", "two?"):
        messages = [QUESTION[0], {"role": "user", "content": question}]
        prompt = chat.prompt(messages, TOOLS, [])
        _, reply, past = finish(chat, prompt, CALL_TEXT)
        pasts.append(past)
    second = chat.prompt([*messages, reply, tool_message(reply)], TOOLS, pasts[::-1])
    assert second.ids[: len(pasts[1].ids)] == pasts[1].ids


def test_twenty_turns_add_nothing_beyond_their_own_length(chat):
    messages, past = QUESTION, []
    for turn in range(20):
        prompt = chat.prompt(messages, TOOLS, past)
        if past:
            assert prompt.ids[: len(past[-1].ids)] == past[-1].ids
        _, reply, finished = finish(chat, prompt, f"Turn  {turn}…")
        past.append(finished)
        messages = [*messages, reply, {"role": "user", "content": [{"type": "text", "text": "go"}]}]
    assert chat.tokenizer.decode(past[-1].ids) == past[-1].text


def test_content_in_parts_is_the_same_text(chat):
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in QUESTION]
    assert chat.prompt(parts, TOOLS, []).ids == chat.prompt(QUESTION, TOOLS, []).ids
