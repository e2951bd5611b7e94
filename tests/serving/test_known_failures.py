"""How other systems lose or bend tokens, each as a test.

``continues(a, b)`` is what all of them come down to: call b's prompt begins with every token that
call a was given and drew.
"""

import json
from itertools import pairwise

import pytest

from agentrl.serving import history
from kernels.tree import build_tree
from tests.support.families import LLAMA3, QWEN3, QWEN25
from tests.support.spy import Scripted

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
ASK = {"role": "user", "content": "2+3?"}
MORE = {"role": "user", "content": "And now?"}


def call_text(**arguments) -> str:
    given = json.dumps({"name": "add", "arguments": arguments})
    return f"<tool_call>\n{given}\n</tool_call>"


def result(message, content="5") -> list[dict]:
    calls = message["tool_calls"]
    return [{"role": "tool", "tool_call_id": call["id"], "content": content} for call in calls]


def continues(earlier, later) -> bool:
    return later.prompt_ids[: len(earlier.ids)] == earlier.ids


@pytest.fixture
def qwen():
    return Scripted(QWEN25)


def test_two_tool_calls_with_the_same_empty_text(qwen):
    """Matched by text alone, the second branch would continue from the first one's call."""
    replies = []
    for a in (1, 2):
        qwen.says(call_text(a=a))
        reply = qwen.ask([ASK], tools=[ADD])
        # The agent's own ids: they cannot help.
        calls = [{**call, "id": "x"} for call in reply["tool_calls"]]
        replies.append({**reply, "tool_calls": calls})
    assert [reply["content"] for reply in replies] == [None, None]
    for reply in replies:
        qwen.says("done")
        qwen.ask([ASK, reply, *result(reply)], tools=[ADD])
    one, two, from_one, from_two = qwen.calls
    assert [continues(a, b) for a in (one, two) for b in (from_one, from_two)] == [
        *(True, False),
        *(False, True),
    ]


def test_the_control_matching_by_text_alone_mistakes_one_call_for_the_other(qwen, monkeypatch):
    monkeypatch.setattr(
        history, "message_key", lambda message: (message["role"], message["content"])
    )
    with pytest.raises(AssertionError, match="False, True"):
        test_two_tool_calls_with_the_same_empty_text(qwen)


def test_the_same_call_drawn_twice_is_told_apart_by_its_id(qwen):
    """Only what was thought differs, and the client drops that."""
    qwen3, replies = Scripted(QWEN3), []
    for thought in ("first", "second"):
        qwen3.says(f"<think>\n{thought}\n</think>\n\n{call_text(a=1)}")
        reply = qwen3.ask([ASK], tools=[ADD])
        replies.append({k: v for k, v in reply.items() if k != "reasoning_content"})
    for reply in replies:
        qwen3.says("<think>\nso\n</think>\n\nfive")
        qwen3.ask([ASK, reply, *result(reply)], tools=[ADD])
    first, second, after_first, after_second = qwen3.calls
    assert continues(first, after_first)
    assert continues(second, after_second)


def test_a_turn_cut_in_its_thinking_is_closed_as_the_template_closes_it():
    qwen3 = Scripted(QWEN3)
    qwen3.says("<think>\nhm", ended=False)
    reply = qwen3.ask([ASK], tools=[ADD])
    qwen3.says("done")
    tool = {"role": "tool", "tool_call_id": "x", "content": "5"}
    qwen3.ask([ASK, reply, tool], tools=[ADD])
    first, second = qwen3.calls
    assert continues(first, second)
    added = qwen3.tokenizer.decode(second.prompt_ids[len(first.ids) :])
    assert added.startswith("\n</think>\n\n<|im_end|>\n<|im_start|>user\n<tool_response>")


def test_the_same_text_with_different_calls(qwen):
    replies = []
    for a in (1, 2):
        qwen.says(f"Let me see.\n{call_text(a=a)}")
        replies.append(qwen.ask([ASK], tools=[ADD]))
    assert len({reply["content"] for reply in replies}) == 1
    qwen.says("done")
    qwen.ask([ASK, replies[0], *result(replies[0])], tools=[ADD])
    one, two, later = qwen.calls
    assert continues(one, later)
    assert not continues(two, later)


def test_a_longer_context_that_was_recorded_before_its_shorter_one(qwen):
    """A slow first call: its episode's longer call, made from the same messages, comes first."""
    said = {"role": "assistant", "content": "five"}
    qwen.says("seven")
    last = qwen.ask([ASK, said, MORE])
    qwen.says("five", ids=[qwen.encode(letter)[0] for letter in "five"])
    qwen.ask([ASK])
    qwen.says("nine")
    qwen.ask([ASK, said, MORE, last, MORE])
    longer, shorter, later = qwen.calls
    assert continues(longer, later)
    assert not continues(shorter, later)


def test_two_identical_independent_calls_stay_two(qwen):
    for _ in range(2):
        qwen.says("five")
        qwen.ask([ASK])
    one, two = qwen.calls
    assert one.ids == two.ids
    # One path through the tree, two loss terms a token.
    assert len(build_tree([one.ids, two.ids]).ids) == len(one.ids)
    qwen.says("six")
    qwen.ask([ASK], is_retry=True)
    assert [call.text for call in qwen.calls] == ["five<|im_end|>", "six<|im_end|>"]


def test_a_tool_schema_that_changes_in_mid_episode(qwen):
    qwen.says(call_text(a=1))
    reply = qwen.ask([ASK], tools=[ADD])
    other = {"type": "function", "function": {**ADD["function"], "description": "Adds."}}
    for tools in ([other], [ADD]):
        qwen.says("done")
        qwen.ask([ASK, reply, *result(reply)], tools=tools)
    first, changed, same = qwen.calls
    assert not continues(first, changed)
    assert "Adds." in qwen.tokenizer.decode(changed.prompt_ids)
    assert continues(first, same)


def test_a_token_that_would_merge_across_the_end_of_a_turn(qwen):
    """The prompt ends with a newline and the model begins with one: text tokenised as a whole would
    join them, and the sampled token would be gone."""
    (newline,) = qwen.encode("\n")
    qwen.says("\nfive", ids=[newline, *qwen.encode("five")])
    reply = qwen.ask([ASK])
    qwen.says("done")
    qwen.ask([ASK, reply, MORE])
    first, second = qwen.calls
    assert first.prompt_ids[-1] == first.completion_ids[0] == newline
    assert continues(first, second)
    # The control: what tokenising the rendered text gives.
    (joined,) = qwen.encode("\n\n")
    again = qwen.encode(qwen.tokenizer.decode(second.prompt_ids))
    assert joined in again
    assert again[: len(first.ids)] != first.ids


def test_tokens_that_tokenising_the_text_again_would_lose(qwen):
    letters = [qwen.encode(letter)[0] for letter in "hello"]
    qwen.says("hello", ids=letters)
    reply = qwen.ask([ASK])
    qwen.says("done")
    qwen.ask([ASK, reply, MORE])
    first, second = qwen.calls
    assert continues(first, second)
    again = qwen.encode(qwen.tokenizer.decode(second.prompt_ids))
    assert again != second.prompt_ids


def test_the_newline_after_the_end_token_is_not_dropped(qwen):
    """The model stops at its end token; the template writes a newline after it."""
    qwen.says("five")
    reply = qwen.ask([ASK])
    qwen.says("done")
    qwen.ask([ASK, reply, MORE])
    first, second = qwen.calls
    added = qwen.tokenizer.decode(second.prompt_ids[len(first.ids) :])
    assert added == "\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"


def test_thinking_that_the_template_strips_forks(qwen):
    qwen3 = Scripted(QWEN3)
    qwen3.says(f"<think>\nhm\n</think>\n\n{call_text(a=1)}")
    reply = qwen3.ask([ASK], tools=[ADD])
    assert reply["reasoning_content"].strip() == "hm"
    # The client drops the reasoning; in the tool loop the template keeps it, and so do we.
    dropped = {name: value for name, value in reply.items() if name != "reasoning_content"}
    qwen3.says("<think>\nso\n</think>\n\nfive")
    answer = qwen3.ask([ASK, dropped, *result(reply)], tools=[ADD])
    # A new question: the template drops what was thought before it.
    qwen3.says("<think>\nagain\n</think>\n\nfive")
    qwen3.ask([ASK, dropped, *result(reply), answer, MORE], tools=[ADD])
    first, second, third = qwen3.calls
    assert continues(first, second)
    assert not continues(first, third)
    assert "hm" not in qwen3.tokenizer.decode(third.prompt_ids)


def test_a_stop_string_that_cut_a_token(qwen):
    """The agent saw "fi", the model drew more: nothing continues from what nobody saw."""
    qwen.says("five!", ended=False, finish_reason="stop", stop="v", cut_text="fi")
    reply = qwen.ask([ASK], stop="v")
    assert reply["content"] == "fi"
    qwen.says("done")
    qwen.ask([ASK, reply, MORE])
    first, second = qwen.calls
    assert first.text == "five!"
    assert not continues(first, second)
    assert "five" not in qwen.tokenizer.decode(second.prompt_ids)


def test_several_calls_where_the_template_takes_one(qwen):
    """Llama's template raises at a second call in a turn; what the model said stands in as text."""
    llama = Scripted(LLAMA3)
    calls = [json.dumps({"name": "add", "parameters": {"a": a}}) for a in (1, 2)]
    llama.says("; ".join(calls))
    reply = llama.ask([ASK], tools=[ADD])
    assert len(reply["tool_calls"]) == 2
    llama.says("done")
    llama.ask([ASK, reply, *result(reply)], tools=[ADD])
    assert continues(*llama.calls)


def test_an_agent_that_takes_one_of_parallel_calls_saw_less_than_was_drawn(qwen):
    qwen.says(f"{call_text(a=1)}\n{call_text(a=2)}")
    reply = qwen.ask([ASK], tools=[ADD], parallel_tool_calls=False)
    assert len(reply["tool_calls"]) == 1
    qwen.says("done")
    qwen.ask([ASK, reply, *result(reply)], tools=[ADD])
    assert not continues(*qwen.calls)


def test_another_agent_of_the_episode_is_another_conversation(qwen):
    """Two agents with the same words do not continue each other's calls."""
    letters = [qwen.encode(letter)[0] for letter in "five"]
    qwen.says("five", ids=letters)
    reply = qwen.ask([ASK])
    qwen.says("done")
    qwen.ask([ASK, reply, MORE], client=qwen.client.agent("other"))
    first, second = qwen.calls
    assert [call.agent for call in qwen.calls] == ["agent", "other"]
    assert not continues(first, second)


def test_no_call_of_one_choice_is_lost_to_another(qwen):
    qwen.says("five")
    qwen.says("six")
    qwen.ask([ASK], n=2)
    for said in ("five", "six"):
        qwen.says("done")
        qwen.ask([ASK, {"role": "assistant", "content": said}, MORE])
    five, six, after_five, after_six = qwen.calls
    assert continues(five, after_five)
    assert continues(six, after_six)
    assert five.prompt_ids == six.prompt_ids


@pytest.mark.parametrize("family", [QWEN25, LLAMA3], ids=lambda family: family.name)
def test_twenty_turns_add_nothing_beyond_their_own_length(family):
    episode, messages, lengths = Scripted(family), [ASK], []
    for turn in range(20):
        episode.says(f"Turn  {turn}… ", ids=[episode.encode(c)[0] for c in f"Turn  {turn}"])
        reply = episode.ask(messages)
        messages = [*messages, reply, MORE]
        lengths.append(len(episode.calls[-1].ids))
    calls = episode.calls
    assert all(continues(a, b) for a, b in pairwise(calls))
    # The tree of all twenty is as large as the last call alone.
    assert len(build_tree([call.ids for call in calls]).ids) == lengths[-1]
