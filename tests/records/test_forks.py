"""Every fork of an episode has its cause, on the families' real templates."""

import pytest

from agentrl.records.forks import merge
from agentrl.types import Call
from tests.support.families import LLAMA3, MISTRAL, QWEN3, QWEN25, write
from tests.support.spy import Scripted

SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "2+3?"}
MORE = {"role": "user", "content": "And now?"}
NINE = {"role": "user", "content": "9+9?"}


def tool(name: str, description: str = "") -> dict:
    parameters = {"type": "object", "properties": {}}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def forks(talk: Scripted) -> list[tuple]:
    """Each as (call, parent, position as text, kind, why)."""
    _, found = merge(talk.calls)
    for fork in found:
        mine, theirs = talk.calls[fork.call].ids, talk.calls[fork.parent].ids
        assert mine[: fork.position] == theirs[: fork.position]
        assert mine[fork.position] != theirs[fork.position]
    return [(fork.call, fork.parent, fork.kind, fork.why) for fork in found]


@pytest.fixture
def qwen():
    return Scripted(QWEN25)


def test_what_only_grows_does_not_fork(qwen):
    messages = [SYSTEM, ASK]
    for said in ("five", "six", "seven"):
        qwen.says(said)
        messages += [qwen.ask(messages), MORE]
    assert forks(qwen) == []
    tree, _ = merge(qwen.calls)
    lengths = [len(call.ids) for call in qwen.calls]
    assert (list(map(len, tree.index)), len(tree)) == (lengths, lengths[-1])


def test_another_agent(qwen):
    qwen.says("five")
    qwen.ask([SYSTEM, ASK])
    qwen.says("right")
    qwen.ask([{"role": "system", "content": "Check it."}, ASK], client=qwen.client.agent("checker"))
    qwen.says("wrong")
    checker = qwen.client.agent("checker")
    qwen.ask([{"role": "system", "content": "Check it."}, MORE], client=checker)
    assert forks(qwen) == [
        (1, 0, "another agent", "agent goes another way from there"),
        (
            *(2, 1, "new conversation"),
            "it has at most the system's message in common with another",
        ),
    ]


def test_two_agents_go_on_from_one_place(qwen):
    """Neither has changed anything."""
    qwen.says("five")
    said = [ASK, qwen.ask([ASK])]
    qwen.says("right")
    qwen.ask([*said, NINE], client=qwen.client.agent("checker"))
    qwen.says("six")
    qwen.ask([*said, MORE])
    assert forks(qwen) == [(2, 1, "another agent", "checker goes another way from there")]


def test_sampled_again(qwen):
    for said in ("five", "six", "five"):
        qwen.says(said)
        qwen.ask([ASK])
    assert forks(qwen) == [(1, 0, "sampled again", "the same prompt was answered once more")]
    # The third drew what the first had: no token of it is new.
    tree, (fork,) = merge(qwen.calls)
    assert len(tree) == len(qwen.calls[0].ids) + len(qwen.calls[1].completion_ids) - (
        fork.position - len(qwen.calls[0].prompt_ids)
    )


@pytest.mark.parametrize(
    "tools",
    [
        [tool("add"), tool("look_up")],
        [tool("multiply")],
        [tool("add", "Adds.")],
        [],
    ],
)
def test_changed_tools(qwen, tools):
    qwen.says("five")
    reply = qwen.ask([SYSTEM, ASK], tools=[tool("add")])
    qwen.says("six")
    qwen.ask([SYSTEM, ASK, reply, MORE], **({"tools": tools} if tools else {}))
    why = "the tools are others, or described otherwise"
    assert forks(qwen) == [(1, 0, "changed tools", why)]


def test_changed_template_arguments():
    talk = Scripted(QWEN3)
    talk.says("<think>\nhm\n</think>\n\nfive")
    talk.ask([ASK])
    talk.says("six")
    talk.ask([ASK], chat_template_kwargs={"enable_thinking": False})
    assert forks(talk) == [
        (1, 0, "changed tools", "the arguments of the chat template are others"),
    ]


NO = {"role": "assistant", "content": "no"}
EDITS = {
    "a question": (
        lambda m: [*m[:2], NINE, *m[3:]],
        "message 3 is another",
    ),
    "an answer": (
        lambda m: [*m[:3], NO, m[4]],
        "message 4 is another",
    ),
    "an answer that is gone": (
        lambda m: [*m[:3], m[4]],
        "message 4 was left out",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_history(qwen, edit):
    change, why = EDITS[edit]
    messages = [SYSTEM, {"role": "user", "content": "Hello"}, ASK]
    qwen.says("five")
    messages += [qwen.ask(messages), MORE]
    qwen.says("six")
    qwen.ask(messages)
    qwen.says("seven")
    qwen.ask(change(messages))
    assert forks(qwen) == [(2, 1, "edited history", why)]


def test_a_branch_from_an_earlier_answer(qwen):
    """It goes on from the first call's exact ids, and leaves the second call's."""
    qwen.says("five")
    reply = qwen.ask([ASK])
    qwen.says("six")
    qwen.ask([ASK, reply, MORE])
    qwen.says("eighteen")
    qwen.ask([ASK, reply, NINE])
    assert forks(qwen) == [(2, 1, "edited history", "message 3 is another")]
    _, (fork,) = merge(qwen.calls)
    assert fork.position > len(qwen.calls[0].ids)


def test_messages_left_out_at_the_end(qwen):
    qwen.says("five")
    qwen.ask([SYSTEM, ASK, MORE])
    qwen.says("six")
    qwen.ask([SYSTEM, ASK])
    why = "what came after message 2 was left out"
    assert forks(qwen) == [(1, 0, "edited history", why)]


def test_stripped_thinking():
    """Qwen3's template keeps thinking until the next question of a user's."""
    talk = Scripted(QWEN3)
    talk.says(write(QWEN3, "let me see", "five", []))
    reply = talk.ask([ASK])
    talk.says(write(QWEN3, "easy", "six", []))
    talk.ask([ASK, reply, MORE])
    assert forks(talk) == [(1, 0, "stripped thinking", "the reasoning of message 2 is left out")]
    _, (fork,) = merge(talk.calls)
    was, now = (talk.tokenizer.decode(call.ids[fork.position :]) for call in talk.calls)
    assert was.startswith("\n<think>\nlet me see\n</think>\n\nfive<|im_end|>")
    # The newline before it is another token now, together with those that followed the thinking.
    assert now.startswith("\n\n\nfive<|im_end|>\n<|im_start|>user\nAnd now?")
    assert fork.position == len(talk.calls[0].prompt_ids) - 1


def test_thinking_that_is_stripped_turn_by_turn():
    """Each fork is told from the turn whose thinking is gone there, not from the first such."""
    talk = Scripted(QWEN3)
    messages = [ASK]
    for thought, said in (("let me see", "five"), ("easy", "six"), ("well", "seven")):
        talk.says(write(QWEN3, thought, said, []))
        messages += [talk.ask(messages), MORE]
    assert forks(talk) == [
        (1, 0, "stripped thinking", "the reasoning of message 2 is left out"),
        (2, 1, "stripped thinking", "the reasoning of message 4 is left out"),
    ]


def test_reasoning_that_the_agent_changed():
    talk = Scripted(QWEN3)
    call = {"name": "add", "arguments": {}}
    talk.says(write(QWEN3, "let me see", "", [call]))
    reply = talk.ask([ASK], tools=[tool("add")])
    result = {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": "5"}
    talk.says("done")
    changed = {**reply, "reasoning_content": "something else"}
    talk.ask([ASK, changed, result], tools=[tool("add")])
    assert forks(talk) == [(1, 0, "edited history", "the reasoning of message 2 is another")]


def test_cut_by_a_stop_string(qwen):
    qwen.says("five and so", ended=False, finish_reason="stop", stop=" and", cut_text="five")
    reply = qwen.ask([ASK], stop=[" and"])
    qwen.says("six")
    qwen.ask([ASK, reply, MORE])
    why = "the agent saw less than was drawn, and goes on from that"
    assert forks(qwen) == [(1, 0, "cut completion", why)]


def test_cut_to_one_tool_call(qwen):
    calls = [{"name": "add", "arguments": {"a": a}} for a in (1, 2)]
    qwen.says(write(QWEN25, None, "", calls))
    reply = qwen.ask([ASK], tools=[tool("add")], parallel_tool_calls=False)
    result = {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": "5"}
    qwen.says("done")
    qwen.ask([ASK, reply, result], tools=[tool("add")])
    assert [kind for _, _, kind, _ in forks(qwen)] == ["cut completion"]


def test_other_prompts_are_not_conversations():
    def call(prompt, completion):
        return Call(prompt_ids=prompt, completion_ids=completion, logprobs=[0.0] * len(completion))

    tree, forks = merge([call([1, 2], [3]), call([1, 2, 3], [4]), call([1, 5], [6])])
    assert [(f.call, f.position, f.kind) for f in forks] == [(2, 1, "other prompt")]
    assert (sum(map(len, tree.index)), len(tree)) == (10, 6)


def test_what_the_template_writes_otherwise():
    """Mistral's puts the tools before the last question: where that moves, so do they."""
    talk = Scripted(MISTRAL)
    talk.says(" five")
    reply = talk.ask([ASK], tools=[tool("add")])
    talk.says(" six")
    talk.ask([ASK, reply, MORE], tools=[tool("add")])
    assert forks(talk) == [
        (1, 0, "rewritten", "the chat template writes the same messages otherwise")
    ]


def test_length_is_no_cause_where_the_text_goes_on():
    talk = Scripted(LLAMA3)
    talk.says("five", ended=False)
    reply = talk.ask([ASK])
    talk.says("six")
    talk.ask([ASK, reply, MORE])
    assert forks(talk) == []
