"""What binds a draw: strict tools, forced ones, schemas; and a run that has nothing to train so.

Clients as they are: pydantic-ai, openai-agents and CrewAI send ``strict: true`` with every tool,
smolagents ``tool_choice: required``, openai-agents tools and a schema in one request.
"""

import dataclasses
import json
import textwrap

import pytest
import xgrammar

from agentrl.runs import preflight
from agentrl.types import Call, Episode, Group, NothingToTrain
from tests.support.commands import SHORT
from tests.support.families import LLAMA3, MISTRAL, QWEN3, QWEN25, tokenizer
from tests.support.running import metrics, start, steps_saved, the_run
from tests.support.spy import Scripted

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
STRICT = {"name": "add", "parameters": PARAMETERS, "strict": True}
TOOL = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}
ASK = [{"role": "user", "content": "2+3?"}]
SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
STRICTLY = {
    "chat/completions": {"messages": ASK, "tools": [{"type": "function", "function": STRICT}]},
    "responses": {"input": ASK, "tools": [{"type": "function", **STRICT}]},
    "messages": {
        "max_tokens": 9,
        "messages": ASK,
        "tools": [{"name": "add", "input_schema": PARAMETERS, "strict": True}],
    },
}


def grammar_of(episode, route: str, body: dict):
    """What a request is drawn under; whether it is recorded so."""
    episode.says("five")
    status, answer = episode.post(route, body)
    assert status == 200, answer
    grammar = episode.engine.samplings[-1].grammar
    assert episode.calls[-1].under_grammar == (grammar is not None)
    return grammar


# Strict tools.


@pytest.mark.parametrize("route", STRICTLY)
def test_a_strict_tool_that_may_be_called_is_drawn_freely(route):
    episode = Scripted(QWEN25)
    assert grammar_of(episode, route, STRICTLY[route]) is None
    prompt = episode.tokenizer.decode(episode.calls[0].prompt_ids)
    assert '"strict"' not in prompt
    assert '"name": "add"' in prompt


@pytest.mark.parametrize("route", STRICTLY)
def test_a_setting_decides_whether_strict_binds(route):
    episode = Scripted(QWEN25)
    episode.serving.policy._strict_tools = True
    grammar = grammar_of(episode, route, STRICTLY[route])
    assert accepts(grammar, QWEN25, written(QWEN25, {"a": 1}))
    assert not accepts(grammar, QWEN25, written(QWEN25, {"b": 1}))
    assert accepts(grammar, QWEN25, "It is five.")


@pytest.mark.parametrize(
    "forced",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "add"}}},
        {"response_format": FORMAT, "tools": []},
        {"response_format": {"type": "json_object"}, "tools": []},
    ],
)
def test_what_is_forced_stays_so(forced):
    assert grammar_of(Scripted(QWEN25), "chat/completions", {**STRICTLY_CHAT, **forced}) is not None


STRICTLY_CHAT = STRICTLY["chat/completions"]


def test_a_tool_that_is_not_called_binds_nothing():
    for free in ({"tool_choice": "none"}, {"parallel_tool_calls": False}):
        body = {**STRICTLY_CHAT, **free}
        assert grammar_of(Scripted(QWEN25), "chat/completions", body) is None


# Tools and a schema in one request.


def accepts(grammar, family, text: str) -> bool:
    """Whether a completion may be this text, and end there."""
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(family))
    compiler = xgrammar.GrammarCompiler(info)
    if grammar.structural_tag:
        compiled = compiler.compile_structural_tag(grammar.structural_tag)
    else:
        compiled = compiler.compile_json_schema(json.dumps(grammar.json))
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text) and matcher.is_completed()


def written(family, arguments: dict) -> str:
    return family.writes(None, "", [{"name": "add", "arguments": arguments}])


@pytest.mark.parametrize("family", [QWEN25, QWEN3, LLAMA3], ids=lambda family: family.name)
@pytest.mark.parametrize("strict", [False, True])
def test_tools_come_first_and_the_schema_binds_the_answer(family, strict):
    tools = [{"type": "function", "function": {**STRICT, "strict": strict}}]
    body = {"messages": ASK, "tools": tools, "response_format": FORMAT}
    grammar = grammar_of(Scripted(family), "chat/completions", body)
    assert accepts(grammar, family, written(family, {"a": 1}))
    assert accepts(grammar, family, '{"number": 5}')
    assert not accepts(grammar, family, "It is five.")
    assert not accepts(grammar, family, '{"number": "five"}')


@pytest.mark.parametrize("route", ["responses", "messages"])
def test_so_it_is_on_the_other_routes(route):
    form = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
    extra = (
        {"text": {"format": form}} if route == "responses" else {"output_config": {"format": form}}
    )
    freely = json.loads(json.dumps(STRICTLY[route]).replace(', "strict": true', ""))
    grammar = grammar_of(Scripted(QWEN25), route, freely | extra)
    assert accepts(grammar, QWEN25, written(QWEN25, {"a": 1}))
    assert accepts(grammar, QWEN25, '{"number": 5}')
    assert not accepts(grammar, QWEN25, "It is five.")


def test_a_call_and_the_answer_after_it():
    """The call is a call and nothing else; the answer is text, and no tool's."""
    episode = Scripted(QWEN25)
    body = {"tools": [TOOL], "response_format": FORMAT}
    episode.says(written(QWEN25, {"a": 1}))
    reply = episode.ask(ASK, **body)
    assert (reply["content"], len(reply["tool_calls"])) == (None, 1)
    episode.says('{"number": 5}')
    tool = {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": "5"}
    last = episode.ask([*ASK, reply, tool], **body)
    assert last == {"role": "assistant", "content": '{"number": 5}'}
    first, second = episode.calls
    assert second.prompt_ids[: len(first.ids)] == first.ids


@pytest.mark.parametrize(("choice", "is_call"), [("none", False), ("required", True)])
def test_where_the_agent_does_not_leave_the_choice(choice, is_call):
    body = {"messages": ASK, "tools": [TOOL], "response_format": FORMAT, "tool_choice": choice}
    grammar = grammar_of(Scripted(QWEN25), "chat/completions", body)
    assert accepts(grammar, QWEN25, '{"number": 5}') == (not is_call)
    assert not accepts(grammar, QWEN25, "It is five.")


def test_a_model_whose_calls_have_no_grammar_is_not_bound_to_the_schema_silently():
    episode = Scripted(MISTRAL)
    body = {"messages": ASK, "tools": [TOOL], "response_format": FORMAT}
    status, answer = episode.post("chat/completions", body)
    assert status == 400
    assert answer["error"]["message"].startswith("tools and a schema in one request: this model's")


# A run that trains nothing.

CALL = Call(prompt_ids=[1], completion_ids=[2, 3], logprobs=[-0.1, -0.1])
BOUND = dataclasses.replace(CALL, under_grammar=True)
EMPTY = dataclasses.replace(CALL, completion_ids=[], logprobs=[])
SOLVER = dataclasses.replace(CALL, agent="solver")


def batch(*episodes: tuple) -> list[Group]:
    task = {"id": "t"}
    made = [Episode(task=task, index=i, calls=c, reward=r) for i, (c, r) in enumerate(episodes)]
    return [Group(task, tuple(made))]


@pytest.mark.parametrize(
    ("groups", "agents", "sentence"),
    [
        (batch(((BOUND,), 1.0), ((BOUND, BOUND), 0.0)), None, "all 3 calls .* grammar: .*auto"),
        (batch(((BOUND,), 1.0), ((SOLVER,), 0.0)), ("agent",), "all 1 calls .* a grammar"),
        (batch(((), 1.0), ((), 0.0)), None, "of 0 calls none .*let the agent call the model that"),
        (batch(((SOLVER,), 1.0)), ("checker",), "of 1 calls none is an agent's that is trained"),
        # Rewards by name, and none for whoever called.
        (batch(((SOLVER,), {"checker": 1.0})), None, "of 1 calls none .*the rewards by name"),
        (batch(((EMPTY,), 1.0)), None, "all 1 calls"),
        # Who failed tells nothing of the others.
        (batch(((CALL,), None), ((BOUND,), 1.0)), None, "all 1 calls"),
    ],
)  # fmt: skip
def test_a_batch_of_which_nothing_can_be_trained_ends_the_run(groups, agents, sentence):
    with pytest.raises(NothingToTrain, match=f"^nothing that the batch sampled .*: {sentence}"):
        preflight.check_trainable(groups, agents)


@pytest.mark.parametrize(
    "groups",
    [
        batch(((BOUND,), 1.0), ((BOUND, CALL), 0.0)),
        # What all failed is max_failed's, and a batch that was filtered away is nobody's fault.
        batch(((BOUND,), None)),
        [],
    ],
)
def test_a_batch_with_one_token_is_trained(groups):
    preflight.check_trainable(groups, None)


FORCED = """
    import dataclasses
    from experiments import gsm8k_offline
    from agentrl.agents.tools import PYTHON_TOOL

    async def solve(task, model):
        messages = [{"role": "user", "content": task["question"]}]
        tools = [{**PYTHON_TOOL, "function": {**PYTHON_TOOL["function"], "strict": True}}]
        await model.openai.chat.completions.create(
            model="policy", messages=messages, tools=tools, tool_choice=CHOICE
        )
        return float(task["id"][-1] in "02468")

    config = dataclasses.replace(gsm8k_offline.config, workflow=solve, judge=None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_run_of_strict_tools(tmp_path, tiny_folder, choice):
    experiment = tmp_path / "strict.py"
    experiment.write_text(textwrap.dedent(FORCED).replace("CHOICE", repr(choice)))
    flags = (*SHORT, "--steps", "1", "--eval.every", "None", "--sampling.max-tokens", "24")
    run = start(tmp_path, tiny_folder, *flags, experiment=str(experiment))
    if choice == "auto":
        assert run.end() == 0, run.said
        assert metrics(the_run(tmp_path))[-1]["tokens/under_grammar"] == 0
        assert metrics(the_run(tmp_path))[-1]["tokens/trained"] > 0
        return
    assert run.end() == 1, run.said
    assert run.said.splitlines()[-1] == (
        "error: nothing that the batch sampled can be trained: all 16 calls that could be were "
        "drawn under a grammar: let the agent ask without a schema and with tool_choice auto, and "
        "leave sampling.strict_tools off"
    )
    assert steps_saved(the_run(tmp_path)) == [0]
