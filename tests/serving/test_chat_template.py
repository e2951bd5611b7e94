"""Continuing a conversation from exact ids, on the tiny model's real tokenizer and template."""

import json

import pytest

from agentrl.agents.tools import PYTHON_TOOL
from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.history import Prefix, add_prefix
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.protocol import Request, RequestRefused
from agentrl.types import Call

TOOLS = (PYTHON_TOOL,)
QUESTION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+3? ünï 🙂"},
]
CALL_TEXT = '<tool_call>{"name": "python",  "arguments": {"code":"print(2+3)"}}</tool_call>'


@pytest.fixture(scope="module")
def parser(tokenizer):
    return OutputParser(tokenizer, "hermes")


@pytest.fixture(scope="module")
def template(tokenizer, parser):
    return ChatTemplate(tokenizer, parser.reasoning_end)


def request(messages, tools=TOOLS, **options):
    return Request(messages=tuple(messages), tools=tuple(tools or ()), **options)


class Talk:
    """One agent's requests, and what a scripted model says to them."""

    def __init__(self, template, parser, tools=TOOLS):
        self.template, self.parser, self.tools, self.history = template, parser, tools, {}

    def prompt(self, messages, tools=None):
        tools = self.tools if tools is None else tools
        return self.template.prompt(request(messages, tools), self.history)

    def say(self, messages, text, ended=True, ids=None):
        """Answer a request with this text; returns the prompt's ids, all ids, and the reply."""
        prompt = self.prompt(messages)
        ids = ids or self.template.encode(text)
        ids = ids + [self.template.tokenizer.eos_token_id] * ended
        reply = self.parser.parse(request(messages, self.tools), prompt.ids, ids, text)
        for i, call in enumerate(reply.get("tool_calls", ())):
            call["id"] = f"call-{i}"
        return prompt.ids, self.record(prompt, ids, reply, ended), reply

    def record(self, prompt, ids, reply, ended):
        """Let what follows continue from here; returns all ids."""
        call = Call(
            prompt_ids=prompt.ids,
            completion_ids=ids,
            logprobs=[-1.0] * len(ids),
            finish_reason="stop" if ended else "length",
            text=self.template.decode(ids),
            reply=reply,
        )
        add_prefix(Prefix(prompt, call), self.history)
        return call.ids


@pytest.fixture
def talk(template, parser):
    return Talk(template, parser)


def tool_message(reply, content="5"):
    return {"role": "tool", "tool_call_id": reply["tool_calls"][0]["id"], "content": content}


def test_a_tool_call_is_parsed(talk):
    _, _, reply = talk.say(QUESTION, CALL_TEXT)
    (call,) = reply["tool_calls"]
    assert reply["content"] == ""
    assert call["function"]["name"] == "python"
    assert json.loads(call["function"]["arguments"]) == {"code": "print(2+3)"}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "python", </tool_call>',
        # Parsed, but no object: clients break on it.
        '<tool_call>{"name": "python", "arguments": "code"}</tool_call>',
        '<tool_call>{"name": "python", "arguments": [1]}</tool_call>',
    ],
)
def test_a_broken_tool_call_is_text(talk, text):
    assert talk.say(QUESTION, text)[2] == {"role": "assistant", "content": text}


def test_a_conversation_that_grows_continues_from_its_ids(talk):
    # The double space of the sampled JSON is gone from what the agent sends back.
    _, said, reply = talk.say(QUESTION, CALL_TEXT)
    second = talk.prompt([*QUESTION, reply, tool_message(reply)])
    assert second.ids[: len(said)] == said
    added = talk.template.decode(second.ids[len(said) :])
    assert added == "\n<|im_start|>tool\n5<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_that_the_tokenizer_would_never_choose_survive(talk):
    letters = [talk.template.encode(letter)[0] for letter in "print"]
    assert len(talk.template.encode("print")) < len(letters)
    _, said, reply = talk.say(QUESTION, "print", ids=letters)
    second = talk.prompt([*QUESTION, reply, {"role": "user", "content": "?"}])
    assert second.ids[: len(said)] == said


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: {**reply, "tool_calls": [{**reply["tool_calls"][0], "id": "other"}]},
        lambda reply: {
            **reply,
            "tool_calls": [
                {"function": {"arguments": {"code": "print(2+3)"}, "name": "python"}, "id": "x"}
            ],
        },
    ],
)
def test_what_clients_change_without_changing_the_meaning(talk, change):
    _, said, reply = talk.say(QUESTION, CALL_TEXT)
    second = talk.prompt([*QUESTION, change(reply), tool_message(reply)])
    assert second.ids[: len(said)] == said


def test_calls_without_ids(talk):
    _, said, reply = talk.say(QUESTION, CALL_TEXT)
    call = {name: reply["tool_calls"][0][name] for name in ("type", "function")}
    sent = [*QUESTION, {**reply, "tool_calls": [call]}, {"role": "tool", "content": "5"}]
    assert talk.prompt(sent).ids[: len(said)] == said


def test_changed_ids_of_calls_become_ours_again(talk):
    _, _, reply = talk.say(QUESTION, CALL_TEXT)
    theirs = {**reply, "tool_calls": [{**reply["tool_calls"][0], "id": "other"}]}
    sent = [*QUESTION, theirs, {"role": "tool", "tool_call_id": "other", "content": "5"}]
    assert [m.get("tool_call_id") for m in talk.prompt(sent).messages] == [None] * 3 + ["call-0"]


def test_a_call_cut_by_its_length_continues_after_an_untrained_end(talk):
    _, said, reply = talk.say(QUESTION, "The ans", ended=False)
    second = talk.prompt([*QUESTION, reply, {"role": "user", "content": "go on"}])
    assert second.ids[: len(said)] == said
    assert second.ids[len(said)] == talk.template.tokenizer.eos_token_id


def test_an_edited_history_is_rendered_afresh(talk):
    _, said, reply = talk.say(QUESTION, "It is 5.")
    edited = [QUESTION[0], {"role": "user", "content": "What is 2+4?"}, reply, QUESTION[1]]
    fresh = Talk(talk.template, talk.parser).prompt(edited)
    assert talk.prompt(edited).ids == fresh.ids
    assert fresh.ids[: len(said)] != said


def test_an_edited_answer_is_rendered_afresh(talk):
    _, said, reply = talk.say(QUESTION, "It is 5.")
    second = talk.prompt([*QUESTION, {**reply, "content": "It is 6."}, QUESTION[1]])
    assert second.ids[: len(said)] != said


def test_a_template_that_refuses_says_so(talk):
    with pytest.raises(RequestRefused, match="chat template refuses"):
        talk.template.prompt(request([]), {})
    arguments = {"messages": [], "chat_template": "{{ 1 }}", "enable_thinking": True}
    with pytest.raises(RequestRefused, match="not chat_template, messages"):
        talk.template.prompt(request(QUESTION, template_arguments=arguments), {})


def test_content_after_a_tool_call_is_kept_in_the_tokens(talk):
    _, said, reply = talk.say(QUESTION, CALL_TEXT + " and more")
    second = talk.prompt([*QUESTION, reply, tool_message(reply)])
    assert second.ids[: len(said)] == said


def test_plain_text_continues_from_its_ids(talk):
    def prompt_of(given):
        return talk.template.prompt(Request(prompt=given), talk.history)

    first = prompt_of("Once upon")
    letters = [talk.template.encode(letter)[0] for letter in " a time"]
    said = talk.record(first, letters, {"role": "assistant", "content": " a time"}, ended=False)
    second = prompt_of("Once upon a time there")
    assert second.ids[: len(said)] == said
    assert talk.template.decode(second.ids) == "Once upon a time there"
    assert prompt_of(tuple(second.ids)).ids == second.ids


def test_grammars_are_those_of_schemas_and_forced_tools(talk):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    asked = [
        request(QUESTION),
        request(QUESTION, tool_choice="none"),
        request(QUESTION, tool_choice="required"),
        request(QUESTION, tool_choice={"type": "function", "function": {"name": "python"}}),
        request(QUESTION, None, response_format=schema),
        request(QUESTION, None, response_format={"type": "text"}),
        request(QUESTION, None, response_format={"type": "json_object"}),
        request(
            QUESTION, [{**PYTHON_TOOL, "function": {**PYTHON_TOOL["function"], "strict": True}}]
        ),
    ]
    given = [talk.parser.grammar(one) is not None for one in asked]
    assert given == [False, False, True, True, True, False, True, True]
