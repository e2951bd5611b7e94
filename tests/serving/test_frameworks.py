"""Frameworks unchanged: experiments/frameworks, programs that know nothing of us.

Each speaks to a real server with the real template and parsers; what the model says is scripted.
Two questions, and one tool: the first is answered with a call and what was made of its result.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentrl.serving import server as serving_server
from agentrl.types import Call
from tests.support.checkout import ROOT
from tests.support.families import QWEN25
from tests.support.sizes import SLOW, SOAK
from tests.support.spy import Scripted

FOLDER = ROOT / "experiments" / "frameworks"
QUESTIONS = ("What is 2 + 3?", "And twice that?")
ANSWERS = ("It is 5.", "It is 10.")
COMMANDS = {".py": [sys.executable], ".sh": ["bash"], ".mjs": ["node"]}
QUIET = {
    # No telemetry, and no price lists from elsewhere: none of it speaks with the model.
    **{"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true"},
    **{"OPENAI_AGENTS_DISABLE_TRACING": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    # Else Claude Code asks for a title as well, under a schema.
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}


def calling(name: str, **arguments: Any) -> str:
    call = {"name": name, "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def fields(**said: str) -> str:
    """What DSPy's format asks a model for."""
    written = [f"[[ ## {name} ## ]]\n{text}" for name, text in said.items()]
    return "\n\n".join([*written, "[[ ## completed ## ]]"])


def step(tool: str, **arguments: int) -> str:
    written = json.dumps(arguments)
    return fields(next_thought="Hm.", next_tool_name=tool, next_tool_args=written)


ADD = {"a": 2, "b": 3}
SAYS = (calling("add", **ADD), *ANSWERS)
OF_SMOLAGENTS = (SAYS[0], *(calling("final_answer", answer=answer) for answer in ANSWERS))
OF_DSPY = (
    *(step("add", **ADD), step("finish"), fields(reasoning="Hm.", answer=ANSWERS[0])),
    *(step("finish"), fields(reasoning="Hm.", answer=ANSWERS[1])),
)
OF_CLAUDE = (calling("mcp__sums__add", **ADD), *ANSWERS)


@dataclass(frozen=True, kw_only=True)
class Framework:
    name: str
    package: str = ""
    """By which its version is pinned."""
    folder: str = ""
    """Of packages of its own, in .environments, or several of them; else .venv has them."""
    whole: str = ""
    """The program whose answers come whole, and the one whose answers come in a stream."""
    stream: str = ""
    says: Sequence[str] = SAYS
    """The model."""
    continues: Sequence[bool] = (True, True)
    """Whether each prompt goes on from the exact ids of the call before; the last is turn two's."""
    under_grammar: bool = False
    in_slow: str = "whole stream"
    """The ways that the slow tier looks at; the soak at the others."""


def both(file: str) -> dict[str, str]:
    """A program that streams where STREAM is set."""
    return {"whole": file, "stream": file}


FRAMEWORKS = [
    Framework(
        name="OpenAI SDK", package="openai", whole="openai_sdk.py", stream="openai_stream.py"
    ),
    Framework(
        name="openai-agents",
        package="openai-agents",
        folder="openai_agents",
        whole="openai_agents.py",
        stream="openai_agents_stream.py",
        in_slow="stream",
    ),
    Framework(
        name="LangChain", package="langchain", **both("langchain_agent.py"), in_slow="stream"
    ),
    Framework(name="LangGraph", package="langgraph", **both("langgraph_agent.py"), in_slow="whole"),
    Framework(
        name="AgentScope",
        package="agentscope",
        # Its streams break on the fields of a newer client.
        folder="agentscope_1 openai_2",
        **both("agentscope_1.py"),
        in_slow="stream",
    ),
    Framework(name="AgentScope", package="agentscope", **both("agentscope_2.py"), in_slow="whole"),
    Framework(
        name="pydantic-ai",
        package="pydantic-ai-slim",
        **both("pydantic_ai_agent.py"),
        in_slow="stream",
    ),
    Framework(
        name="smolagents",
        package="smolagents",
        **both("smolagents_agent.py"),
        says=OF_SMOLAGENTS,
        continues=(False, False),
        under_grammar=True,
        in_slow="whole",
    ),
    Framework(
        name="LiteLLM",
        package="litellm",
        folder="litellm",
        whole="litellm_agent.py",
        stream="litellm_stream.py",
        in_slow="",
    ),
    Framework(
        name="LlamaIndex",
        package="llama-index-core",
        folder="llama_index",
        **both("llama_index_agent.py"),
        in_slow="",
    ),
    Framework(
        name="CrewAI",
        package="crewai",
        folder="crewai",
        **both("crewai_agent.py"),
        continues=(True, False),
        in_slow="",
    ),
    Framework(
        name="DSPy",
        package="dspy",
        folder="dspy",
        whole="dspy_agent.py",
        says=OF_DSPY,
        continues=(False,) * 4,
        in_slow="",
    ),
    Framework(
        name="Google ADK",
        package="google-adk",
        folder="google_adk",
        **both("google_adk.py"),
        in_slow="",
    ),
    Framework(
        name="Claude Code",
        package="claude-agent-sdk",
        folder="claude_code",
        stream="claude_code.py",
        says=OF_CLAUDE,
        in_slow="",
    ),
    Framework(name="Vercel AI SDK", package="ai", folder="ai_sdk", **both("ai_sdk.mjs")),
    Framework(name="curl", whole="curl.sh"),
]
NEEDED = {".py": (), ".sh": ("curl", "jq"), ".mjs": ("node",)}


def marks(framework: Framework, way: str) -> list[pytest.MarkDecorator]:
    """The tier, and what a machine may lack."""
    needed = NEEDED[Path(getattr(framework, way)).suffix]
    missing = [name for name in needed if not shutil.which(name)]
    tier = SLOW if way in framework.in_slow else SOAK
    return [tier, pytest.mark.skipif(bool(missing), reason=f"needs {missing}")]


WAYS = [
    pytest.param(
        *(framework, way),
        id=f"{getattr(framework, way)}, {way}",
        marks=marks(framework, way),
    )
    for framework in FRAMEWORKS
    for way in ("whole", "stream")
    if getattr(framework, way)
]


@pytest.fixture
def posts(monkeypatch) -> list[tuple[int, str]]:
    """Of every POST over HTTP the status and the kind of what came back."""
    make_app, noted = serving_server.make_app, []

    def noting(server: serving_server.Server) -> Any:
        app = make_app(server)

        async def noting_app(scope, receive, send):
            async def noting_send(message):
                if scope["method"] == "POST" and message["type"] == "http.response.start":
                    kind = dict(message["headers"])[b"content-type"].decode()
                    noted.append((message["status"], kind))
                await send(message)

            await app(scope, receive, noting_send)

        return noting_app

    monkeypatch.setattr(serving_server, "make_app", noting)
    return noted


def run(framework: Framework, way: str, client: Any, tmp_path) -> str:
    """What a framework's program prints, which is told of nothing but the client's variables."""
    file, variables = FOLDER / getattr(framework, way), {**os.environ, **client.environment}
    folders = [ROOT / ".environments" / name for name in framework.folder.split()]
    for folder in folders:
        assert folder.is_dir(), f"make .environments/{folder.name}/installed"
    if folders:
        variables["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    if file.suffix == ".mjs":
        # Node looks for packages beside the program.
        (tmp_path / "node_modules").symlink_to(folders[0] / "node_modules")
        file = tmp_path / file.name
        file.write_text((FOLDER / file.name).read_text())
    variables |= QUIET | {"HOME": str(tmp_path)} | ({"STREAM": "1"} if way == "stream" else {})
    done = subprocess.run(
        [*COMMANDS[file.suffix], str(file), *QUESTIONS],
        **{"cwd": tmp_path, "env": variables, "capture_output": True, "text": True},
        timeout=120,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def continued(calls: Sequence[Call]) -> list[bool]:
    """Of each call but the first, whether its prompt goes on from the ids of the one before."""
    return [later.prompt_ids[: len(call.ids)] == call.ids for call, later in pairwise(calls)]


@pytest.mark.parametrize(("framework", "way"), WAYS)
def test_every_token_of_a_framework_is_recorded(framework, way, posts, tmp_path):
    episode = Scripted(QWEN25)
    for text in framework.says:
        episode.says(text)
    printed = run(framework, way, episode.client, tmp_path)
    episode.serving.server.close()
    calls = episode.calls
    assert all(answer in printed for answer in ANSWERS), printed
    assert "5" in calls[1].messages[-1]["content"]
    drawn = [(prompt, ids) for prompt, ids, _ in episode.engine.log]
    assert [(call.prompt_ids, call.completion_ids) for call in calls] == drawn
    assert [call.text.removesuffix("<|im_end|>") for call in calls] == list(framework.says)
    kind = "text/event-stream" if way == "stream" else "application/json"
    assert posts == [(200, kind)] * len(framework.says)
    assert continued(calls) == list(framework.continues)
    assert {call.under_grammar for call in calls} == {framework.under_grammar}


ON_A_MODEL = ["OpenAI SDK", "LangChain", "LangGraph", "AgentScope", "curl"]


@pytest.mark.slow
def test_on_a_real_model(serving, monkeypatch, posts, tmp_path):
    """Of those whose prompt and format a tiny model can manage, at once; it says what it likes."""
    chosen = [f for f in FRAMEWORKS if f.name in ON_A_MODEL and f.folder == ""]
    submit, futures = serving.engine.submit, {}

    def noting_submit(prompt_ids, sampling):
        future = submit(prompt_ids, sampling)
        futures.setdefault(sampling.rng_key[0], []).append((prompt_ids, future))
        return future

    monkeypatch.setattr(serving.engine, "submit", noting_submit)
    clients = [serving.open(step=0, task_id=f.whole, episode=0)[0] for f in chosen]
    folders = [tmp_path / framework.whole for framework in chosen]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(len(chosen)) as pool:
        list(pool.map(run, chosen, ["whole"] * len(chosen), clients, folders))
    for client in clients:
        drawn = [(prompt, future.result().ids) for prompt, future in futures[client.rng_key]]
        assert [(call.prompt_ids, call.completion_ids) for call in client.calls] == drawn
        assert continued(client.calls) == [True] * (len(drawn) - 1)
    assert [status for status, _ in posts] == [200] * sum(map(len, futures.values()))
    assert min(map(len, futures.values())) >= len(QUESTIONS)


def test_a_client_that_changes_its_history_is_seen():
    episode = Scripted(QWEN25)
    for text in ("five", "ten", "ten"):
        episode.says(text)
    asked = [{"role": "user", "content": QUESTIONS[0]}]
    said = [*asked, episode.ask(asked), {"role": "user", "content": QUESTIONS[1]}]
    episode.ask(said)
    assert continued(episode.calls) == [True]
    said[1]["content"] = "Five."
    episode.ask(said)
    assert continued(episode.calls[::2]) == [False]


def num_lines(file: str) -> int:
    return sum(bool(line.strip()) for line in (FOLDER / file).read_text().splitlines())


def pin(framework: Framework) -> str:
    """The version that its requirements name."""
    folder = framework.folder.partition(" ")[0]
    own = FOLDER / "requirements"
    if framework.folder == "ai_sdk":
        return json.loads((own / "ai_sdk/package.json").read_text())["dependencies"]["ai"]
    files = [own / f"{folder}.txt"] if folder else ROOT.glob("requirements*.txt")
    lines = "\n".join(file.read_text() for file in files)
    return re.search(rf"^{framework.package}(\[.*\])?==(.+)$", lines, re.MULTILINE)[2]


def table_row(framework: Framework) -> str:
    files = list(dict.fromkeys(filter(None, (framework.whole, framework.stream))))
    drawn = f"{len(framework.says)} of {len(framework.says)} calls"
    streams = {(True, True): "both", (True, False): "no", (False, True): "always"}
    cells = [
        f"{framework.name} {pin(framework)}" if framework.package else framework.name,
        ", ".join(f"[{file}](../experiments/frameworks/{file})" for file in files),
        ", ".join(str(num_lines(file)) for file in files),
        drawn + (", under a grammar" if framework.under_grammar else ""),
        "continues" if framework.continues[-1] else "rewrites",
        streams[bool(framework.whole), bool(framework.stream)],
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_in_the_docs_is_of_these():
    docs = (ROOT / "docs" / "serving.md").read_text()
    rows = [table_row(framework) for framework in FRAMEWORKS]
    assert [row for row in rows if row not in docs] == []
    programs = {file.name for file in FOLDER.glob("*.*")}
    named = {file for f in FRAMEWORKS for file in (f.whole, f.stream) if file}
    assert programs == named
    assert max(map(num_lines, programs)) <= 15
