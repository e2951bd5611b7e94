"""OpenEnv's capturing proxy and this server, claim by claim: each request is sent to both.

The proxy stands before a server of ours, as it would before vLLM. Its own probe grades us, and what
it captures is what we record.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openenv.core.harness import capture
from openenv.core.harness.capture.server import create_app
from starlette.testclient import TestClient

from agentrl.serving.sampling import Completion
from agentrl.serving.server import make_app
from tests.support.checkout import ROOT
from tests.support.families import QWEN25
from tests.support.spy import Scripted, SpyEngine

pytestmark = pytest.mark.slow

ASK = [{"role": "user", "content": "2+3?"}]
SAID = [*ASK, {"role": "assistant", "content": "5"}]
FUNCTION = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
REDACTED = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}
GOOGLES = {"contents": [{"role": "user", "parts": [{"text": "2+3?"}]}]}
SHELL = {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}}


def chat(**fields: Any) -> tuple[str, dict]:
    return "/v1/chat/completions", {"model": "m", "messages": ASK, **fields}


def response(**fields: Any) -> tuple[str, dict]:
    return "/v1/responses", {"model": "m", "input": ASK, **fields}


def message(**fields: Any) -> tuple[str, dict]:
    return "/v1/messages", {"model": "m", "max_tokens": 9, "messages": ASK, **fields}


@dataclass(frozen=True)
class Claim:
    """A row of the table in docs/serving.md; where a cell begins with "yes" it is answered."""

    what: str
    ours: str
    openenvs: str
    requests: Sequence[tuple[str, dict]] = ()
    held_by: str = "`test_a_claim`"


CLAIMS = [
    Claim(
        "chat completions, responses, messages; plain and streamed",
        *("yes", "yes"),
        [of(stream=stream) for of in (chat, response, message) for stream in (False, True)],
    ),
    Claim(
        "text completions",
        *("yes", "no"),
        [("/v1/completions", {"model": "m", "prompt": "Once"})],
    ),
    Claim(
        "Google's `generateContent`, plain and streamed, and `countTokens`",
        *("no: before us, OpenEnv's proxy speaks it", "yes"),
        [
            ("/v1beta/models/m:generateContent", GOOGLES),
            ("/v1beta/models/m:streamGenerateContent?alt=sse", GOOGLES),
            ("/v1beta/models/m:countTokens", GOOGLES),
        ],
    ),
    Claim(
        "`count_tokens`",
        *("yes: what the prompt comes to", "yes: a quarter of the letters"),
        [("/v1/messages/count_tokens", {"model": "m", "messages": ASK})],
    ),
    Claim("`n` above 1", "yes: each a call", "no", [chat(n=2)]),
    Claim(
        "an empty list of tools, and what goes with tools beside it",
        *("yes", "yes"),
        [
            chat(tools=[], parallel_tool_calls=True, tool_choice="auto"),
            message(tools=[], tool_choice={"type": "auto"}),
        ],
    ),
    Claim(
        "a tool that is forced, of none",
        *("no", "yes: forgotten"),
        [chat(tools=[], tool_choice="required")],
    ),
    Claim(
        "a tool that is forced, or a schema",
        *("yes: recorded, not trained", "yes: not in a session that pins its sampling"),
        [chat(tools=[TOOL], tool_choice="required"), chat(response_format={"type": "json_object"})],
    ),
    Claim(
        "`max_tokens` beyond the context, or under both of its names",
        *("yes", "yes"),
        [chat(max_tokens=64000), chat(max_tokens=5, max_completion_tokens=6)],
    ),
    Claim(
        "`stream_options` without a stream, `top_logprobs` null",
        *("yes", "yes"),
        [chat(stream_options={"include_usage": True}), chat(logprobs=True, top_logprobs=None)],
    ),
    Claim(
        "sampling of the agent's own",
        "yes: overridden, and said once",
        "yes: all but the temperature overridden",
        [chat(temperature=0.3, top_p=0.5)],
    ),
    Claim(
        "`developer`, earlier reasoning, a message of the system's among Anthropic's",
        *("yes", "yes"),
        [
            chat(messages=[{"role": "developer", "content": "Add."}, *ASK]),
            chat(messages=[ASK[0], {**SAID[1], "reasoning_content": "hm"}, *ASK]),
            message(messages=[{"role": "system", "content": "Add."}, *ASK]),
        ],
    ),
    Claim(
        "`context_management` and `thinking`, as Claude Code asks for them",
        *("yes", "yes"),
        [message(context_management={"edits": []}, thinking={"type": "adaptive"})],
    ),
    Claim(
        "the id of a response, an item or a thread that there is not",
        *("no: a 404", "yes: forgotten, as are those that there are"),
        [
            response(previous_response_id="resp_x"),
            response(input=[*ASK, {"type": "item_reference", "id": "msg_x"}]),
            message(thread={"type": "continue", "previous_message_id": "x"}),
        ],
    ),
    Claim(
        "tools that a provider runs, such as `web_search`",
        *("no: named", "yes: forgotten"),
        [
            response(tools=[{"type": "web_search"}]),
            message(tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        ],
    ),
    Claim(
        "`local_shell` and its calls, of responses",
        *("no: named", "yes: as a function `shell`"),
        [response(tools=[{"type": "local_shell"}]), response(input=[*ASK, SHELL])],
    ),
    Claim(
        "an option that is not known; `functions`",
        *("no: named", "yes: dropped, once the engine has named it"),
        [chat(frobnicate=1), chat(functions=[FUNCTION])],
    ),
    Claim(
        "an answer begun for the model; thoughts that are locked",
        *("no: named", "yes"),
        [message(messages=SAID), message(messages=[*ASK, REDACTED, *ASK])],
    ),
    Claim(
        "a picture",
        *("no: named", "no: the engine's to say"),
        [chat(messages=[{"role": "user", "content": [PICTURE]}])],
    ),
    Claim(
        "OpenEnv's `validate_llm`, its levels `tokens`, `logprobs` and `text`",
        *("`tokens`, by each of them", "as its engine does"),
        held_by="`test_openenvs_probe_grades_us`, `test_what_openenv_captures_is_what_is_recorded`",
    ),
    Claim(
        "its measure of log-probabilities at two temperatures",
        "`processed` with `--eval.sampling agent`; else all is drawn at one: it says `raw`",
        "the engine's",
        held_by="`test_openenvs_measure_of_temperatures`",
    ),
    Claim(
        "a prompt goes on from the ids that were sampled",
        "yes, whatever tokens the text would come to",
        "where the engine's tokens begin alike",
        held_by="`test_what_openenv_captures_is_what_is_recorded`; graph.py",
    ),
    Claim(
        "the line of Claude Code's for the bill is no part of the prompt",
        *("yes", "yes"),
        held_by="`test_the_line_for_the_bill_is_no_part_of_the_prompt`; dialects/anthropic.py",
    ),
    Claim(
        "a request that is sent again",
        "takes the first's place",
        "a sibling of the first",
        held_by="`test_an_answer_that_was_delivered_is_superseded_by_its_retry`; graph.py",
    ),
    Claim(
        "a prompt that does not fit any more",
        "`context_length_exceeded`; the episode is `truncated`",
        "an answer that ends the agent's loop, and is not recorded",
        held_by="`test_a_context_that_is_full`; server.py",
    ),
    Claim(
        "a limit of calls an episode",
        "none: `--episode-seconds`",
        "`max_model_calls`",
        held_by="server.py",
    ),
    Claim(
        "a stream that waits for its answer",
        *("a comment every 15 seconds", "a comment every 10"),
        held_by="`test_a_stream_that_waits_for_its_answer_says_so`; sse.py",
    ),
]
"""Rows without requests are held by the tests and by the files of OpenEnv's that they name."""


class Both:
    """One request, to a server of ours and to OpenEnv's proxy before another."""

    def __init__(self):
        self.direct, self.behind = Scripted(QWEN25), Scripted(QWEN25)
        self.ours = TestClient(make_app(self.direct.serving.server))
        url, key = self.behind.client.base_url, self.behind.client.api_key
        self.proxy = create_app(llm_url=url, model="m", api_key=key)
        self.openenvs = TestClient(self.proxy)
        self.session = self.proxy.state.registry.create(None).session_id

    def says(self, text: str, **fields: Any) -> None:
        for episode in (self.direct, self.behind):
            episode.says(text, **fields)

    def post(self, path: str, body: dict) -> list[Any]:
        sides = [(self.ours, self.direct.client.api_key), (self.openenvs, self.session)]
        return [
            client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
            for client, key in sides
        ]


@pytest.fixture(scope="module")
def both():
    both = Both()
    # A client of the proxy's is bound to one loop.
    with both.openenvs:
        yield both
    both.behind.serving.server.close()


REQUESTS = [
    pytest.param(claim, *request, id=f"{claim.what} {number}")
    for claim in CLAIMS
    for number, request in enumerate(claim.requests)
]


@pytest.mark.parametrize(("claim", "path", "body"), REQUESTS)
def test_a_claim(both, claim, path, body):
    episodes = both.direct, both.behind
    before = [len(episode.calls) for episode in episodes]
    for episode in episodes:
        episode.engine.next.clear()
    for _ in range(2):
        both.says("five")
    answers = both.post(path, body)
    claimed = [claim.ours, claim.openenvs]
    assert [a.status_code == 200 for a in answers] == [c.startswith("yes") for c in claimed]
    assert {a.status_code for a in answers} <= {200, 400, 404}
    drawn = body.get("n", 1) * (not path.lower().endswith(("count_tokens", "counttokens")))
    expected = [drawn if claim.startswith("yes") else 0 for claim in claimed]
    assert [len(e.calls) - n for e, n in zip(episodes, before)] == expected


def test_openenvs_probe_grades_us(both):
    episode = both.behind
    episode.engine.next.clear()
    for text in ("ok", CALL, "hello"):
        episode.says(text)
    report = capture.validate_llm(episode.client.base_url, "m", api_key=episode.client.api_key)
    assert (report.capture_level, report.rollout_type, report.tool_support) == (
        *("tokens", "train"),
        "ok",
    )
    probed = episode.calls[-3]
    assert report.n_prompt_ids == len(probed.prompt_ids)
    assert report.n_completion_ids == len(probed.completion_ids)
    assert (report.served_models, report.param_fixes) == (["m"], [])


@pytest.mark.parametrize("level", ["tokens", "logprobs", "text"])
def test_what_openenv_captures_is_what_is_recorded(both, level):
    """Also a call whose tokens are not those that its text would come to."""
    episode = both.behind
    episode.engine.next.clear()
    client, _ = episode.serving.open(step=0, task_id=level, episode=0)
    url = client.base_url
    proxy = create_app(llm_url=url, model="m", api_key=client.api_key, capture_level=level)
    said = list(ASK)
    with TestClient(proxy) as openenvs:
        session = openenvs.post("/sessions", json={}).json()
        headers = {"authorization": f"Bearer {session['session_id']}"}
        for ids in ([i for letter in "hello" for i in episode.encode(letter)], None):
            episode.says("hello", ids=ids)
            sent = {"model": "m", "messages": said}
            answer = openenvs.post("/v1/chat/completions", json=sent, headers=headers).json()
            said += [answer["choices"][0]["message"], *ASK]
    assert session["rollout_type"] == ("train" if level == "tokens" else "eval")
    nodes = proxy.state.registry.get(session["session_id"]).graph.nodes()
    first, second = client.calls
    assert first.completion_ids[:-1] != episode.encode("hello")
    assert second.prompt_ids[: len(first.ids)] == first.ids
    captured = [(node.prompt_ids, node.sampled_ids, node.sampled_logprobs) for node in nodes]
    recorded = [(c.prompt_ids, c.completion_ids, c.logprobs) for c in client.calls]
    if level == "tokens":
        assert captured == recorded
        assert [node.parent_id for node in nodes] == [None, nodes[0].node_id]
    else:
        assert [ids for *ids, _ in captured] == [[[], []]] * 2


class Sharp(SpyEngine):
    """Says "ok", whose first token is three nats ahead of the next at temperature 1."""

    def submit(self, prompt_ids, sampling):
        top = (((0, -0.05), (1, -0.05 - 3 / (sampling.temperature or 1))),) * 3
        self.next.append(Completion([78, 74, 1], [-1.0] * 3, "length", top=top))
        return super().submit(prompt_ids, sampling)


@pytest.mark.parametrize(
    ("own_sampling", "mode", "level"),
    [(True, "processed", "tokens"), (False, "raw", "logprobs")],
)
def test_openenvs_measure_of_temperatures(own_sampling, mode, level):
    """In training all is drawn at one temperature, whatever the probe asks for."""
    episode = Scripted(QWEN25)
    episode.serving.policy.engine = Sharp()
    client, _ = episode.serving.open(step=0, task_id="t", episode=1, own_sampling=own_sampling)
    report = capture.validate_llm(client.base_url, "m", api_key=client.api_key)
    assert (report.logprobs_mode, report.capture_level) == (mode, level)
    episode.serving.server.close()


def row_of(claim: Claim) -> str:
    return f"| {claim.what} | {claim.ours} | {claim.openenvs} | {claim.held_by} |"


def test_the_table_in_the_docs_is_of_these():
    docs = (ROOT / "docs" / "serving.md").read_text()
    assert [claim.what for claim in CLAIMS if row_of(claim) not in docs] == []
    named = " ".join(claim.held_by for claim in CLAIMS)
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert [n for n in re.findall(r"`(\w+)`", named) if f"def {n}(" not in tests] == []
    files = {
        f"{path.parent.name}/{path.name}" for path in Path(capture.__file__).parent.rglob("*.py")
    }
    assert [
        n for n in re.findall(r"[a-z/]+\.py", named) if not any(f.endswith(n) for f in files)
    ] == []
