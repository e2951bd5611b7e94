"""One agent built in many ways, each against a scripted server over real HTTP."""

import asyncio
import json
import shutil
import textwrap
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from agentrl.agents.judges.numbers import boxed_equals
from agentrl.agents.tools import NOTHING_PRINTED, PYTHON_TOOL
from agentrl.callables import load_callable
from agentrl.cli import load_experiment
from agentrl.records import open_run
from experiments import gsm8k_subprocess
from experiments.gsm8k.agent import MAX_TURNS, SYSTEM
from tests.support.commands import RANDOM_REWARDS
from tests.support.device import RUN_TOLERANCE
from tests.support.running import metrics, start, the_run
from tests.support.sizes import SLOW, SOAK

NEEDED = {
    **{
        f"experiments.gsm8k.{name}:solve": ()
        for name in ("openai_sdk", "raw_http", "langchain_agent", "agentscope_agent")
    },
    "experiments.gsm8k_subprocess:node": ("node",),
    "experiments.gsm8k_subprocess:shell": ("curl", "jq"),
}
"""The programs that each way takes, beside Python."""
MISSING = {
    way: [name for name in needed if not shutil.which(name)] for way, needed in NEEDED.items()
}
WAYS = [
    pytest.param(way, marks=pytest.mark.skipif(bool(missing), reason=f"needs {missing}"))
    for way, missing in MISSING.items()
]
TASK = {"id": "t", "question": 'What is "3 + 4"?\nIt\'s $x.', "answer": "#### 7"}


class Server(ThreadingHTTPServer):
    """Answers chat completions from a script and keeps what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[dict] = []
        self.asked: list[dict] = []
        self.keys: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        assert self.path == "/v1/chat/completions"
        self.server.keys.add(self.headers["authorization"])
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        reply = self.server.script[len(self.server.asked) - 1]
        choice = {"index": 0, "message": reply, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {
            "id": f"call-{len(self.server.asked)}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }
        self.send_response(200 if reply else 400)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer if reply else {"error": {"message": "no"}}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(server):
    """The client as workflows know it."""
    from agentscope.credential import OpenAICredential
    from agentscope.model import OpenAIChatModel

    url = f"http://127.0.0.1:{server.server_port}/v1"
    return SimpleNamespace(
        name="policy",
        base_url=url,
        api_key="key",
        openai=openai.AsyncOpenAI(base_url=url, api_key="key"),
        agentscope=OpenAIChatModel(
            OpenAICredential(api_key="key", base_url=url), "policy", stream=False, max_retries=0
        ),
        environment={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "key"},
    )


def calling(arguments: str) -> dict:
    function = {"name": "python", "arguments": arguments}
    call = {"id": "call-0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def saying(text: str) -> dict:
    return {"role": "assistant", "content": text}


def plain(message: dict) -> tuple:
    """A message less what libraries add to it: names, nulls, text in parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    return message["role"], content, *calls


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_same_agent(way, server, model):
    server.script = [calling('{"code": "print(3 + 4)"}'), saying("It is \\boxed{7}.")]
    output = asyncio.run(load_callable(way)(TASK, model))
    assert output.response == "It is \\boxed{7}."
    assert boxed_equals(output.response, TASK["answer"])
    first, second = server.asked
    opening = [("system", SYSTEM), ("user", TASK["question"])]
    assert [plain(message) for message in first["messages"]] == opening
    assert [plain(message) for message in second["messages"]] == [
        *opening,
        ("assistant", "", {"code": "print(3 + 4)"}),
        ("tool", "7"),
    ]
    assert second["messages"][3]["tool_call_id"] == "call-0"
    for body in server.asked:
        # To the letter, because the chat template writes it as it comes.
        assert json.dumps(body["tools"]) == json.dumps([PYTHON_TOOL])
        assert set(body) - {"model", "messages", "tools"} <= {"stream"}
        assert not body.get("stream")
        assert body["model"] == "policy"
    assert server.keys == {"Bearer key"}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_up_after_as_many_turns(way, server, model):
    server.script = [calling('{"code": "print(3 + 4)"}')] * 20
    asyncio.run(load_callable(way)(TASK, model))
    assert len(server.asked) == MAX_TURNS


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_told_what_is_wrong_with_its_arguments(way, server, model):
    server.script = [calling('{"cod": "print(1)"}'), saying("\\boxed{7}")]
    output = asyncio.run(load_callable(way)(TASK, model))
    assert output.response == "\\boxed{7}"
    complaint = {
        "experiments.gsm8k.agentscope_agent:solve": (
            "Input validation failed for tool 'python': 'code' is a required property (at $)"
        )
    }.get(way, 'The arguments must be JSON like {"code": "print(1 + 2)"}.')
    assert plain(server.asked[1]["messages"][3]) == ("tool", complaint)


@pytest.mark.parametrize("way", WAYS)
def test_what_the_server_refuses_is_raised(way, server, model):
    server.script = [{}]
    with pytest.raises(Exception, match=r"400"):
        asyncio.run(load_callable(way)(TASK, model))
    assert len(server.asked) == 1


def test_agentscope_does_not_swallow_the_end_of_an_episode(server, model):
    server.script = [calling('{"code": "import time; time.sleep(1)"}')]
    solve = load_callable("experiments.gsm8k.agentscope_agent:solve")

    async def in_time():
        async with asyncio.timeout(0.5):
            await solve(TASK, model)

    with pytest.raises(TimeoutError):
        asyncio.run(in_time())
    assert len(server.asked) == 1


def test_the_subprocess_experiment_is_the_offline_one():
    config = load_experiment("gsm8k_subprocess")
    assert config.workflow is gsm8k_subprocess.node
    assert config.make_model is load_experiment("gsm8k_offline").make_model


def test_the_programs_know_the_same_prompt_and_tool():
    request = json.loads((gsm8k_subprocess.FOLDER / "request.json").read_text())
    assert request["messages"] == [{"role": "system", "content": SYSTEM}]
    assert json.dumps(request["tools"]) == json.dumps([PYTHON_TOOL])
    assert f"MAX_TURNS = {MAX_TURNS};" in (gsm8k_subprocess.FOLDER / "agent.mjs").read_text()
    assert f"{{1..{MAX_TURNS}}}" in (gsm8k_subprocess.FOLDER / "agent.sh").read_text()


@pytest.mark.parametrize("way", WAYS[-2:])
@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("1 + 2", NOTHING_PRINTED),
        ("import os; print(os.environ.get('OPENAI_API_KEY'))", "None"),
        ("print('\"$(echo hi)\"')\nprint(2)", '"$(echo hi)"\n2'),
        ("print(end='1'); import sys; sys.exit(3)", "1"),
        ("print('x' * 3000)", "x" * 2000),
        pytest.param(
            "import time; time.sleep(9)", "The code ran longer than 5 s.", marks=pytest.mark.slow
        ),
    ],
)
def test_the_programs_run_code(way, code, printed, server, model):
    server.script = [calling(json.dumps({"code": code})), saying("\\boxed{7}")]
    asyncio.run(load_callable(way)(TASK, model))
    assert plain(server.asked[1]["messages"][3]) == ("tool", printed)


def processes_of(session: int) -> list[str]:
    """The command lines of the processes in a session, except those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(stat.with_name("cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("way", WAYS[-2:])
def test_no_process_is_left_when_an_episode_is_cancelled(way, server, model, tmp_path):
    """Also the code that its agent runs, which notes its session and sleeps."""
    note = tmp_path / "session"
    code = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getsid(0)))\ntime.sleep(60)"
    server.script = [calling(json.dumps({"code": code}))]

    async def cancel_when_the_code_runs():
        episode = asyncio.create_task(load_callable(way)(TASK, model))
        async with asyncio.timeout(30):
            while not (note.exists() and note.read_text()):
                assert not episode.done(), episode.exception()
                await asyncio.sleep(0.02)
        running = processes_of(int(note.read_text()))
        episode.cancel()
        with pytest.raises(asyncio.CancelledError):
            await episode
        return running

    running = asyncio.run(cancel_when_the_code_runs())
    assert len(running) >= 2
    time.sleep(0.1)
    assert processes_of(int(note.read_text())) == []


def test_no_process_is_left_when_a_program_ends_before_its_children(model):
    async def answer():
        return await gsm8k_subprocess.run(
            *("bash", "-c", "sleep 60 >&- 2>&- & ps -o sid= $$"), question="", model=model
        )

    session = int(asyncio.run(answer()))
    # What is killed takes a moment to end, on a busy machine.
    time.sleep(0.1)
    assert processes_of(session) == []


def test_a_program_that_fails_says_why(model):
    command = ("bash", "-c", "echo $OPENAI_API_KEY is not enough >&2; exit 3")
    with pytest.raises(RuntimeError, match="bash ended with 3: key is not enough"):
        asyncio.run(gsm8k_subprocess.run(*command, question="", model=model))


EACH_ITS_WAY = (
    RANDOM_REWARDS
    + """
    from agentrl.config import load_callable

    solvers = {way: load_callable(way) for way in WAYS}

    async def solve(task, model):
        return await solvers[task["id"].partition(" ")[2]](task, model)

    def tasks(data):
        train, held_out = (
            [{**task, "id": f"{i} {WAYS[i % len(WAYS)]}"} for i, task in enumerate(side)]
            for side in gsm8k_offline.tasks(data)
        )
        # Every step takes all of them.
        return train[:6], held_out

    config = dataclasses.replace(config, workflow=solve, tasks=tasks, tasks_per_step=6)
"""
)


@pytest.mark.skipif(any(MISSING.values()), reason=f"needs {MISSING}")
@pytest.mark.parametrize(
    "ways",
    [
        pytest.param([*NEEDED], id="all in one run", marks=SLOW),
        *(pytest.param([way], id=way, marks=SOAK) for way in NEEDED),
    ],
)
def test_two_steps(ways, tmp_path, tiny_folder):
    experiment = tmp_path / "each_its_way.py"
    experiment.write_text(f"WAYS = {ways!r}\n" + textwrap.dedent(EACH_ITS_WAY))
    run = start(
        *(tmp_path, tiny_folder),
        *("--steps", "2", "--group-size", "4", "--concurrent-episodes", "16"),
        *("--eval.num-tasks", "8", "--eval.every", "2", "--sampling.max-tokens", "24"),
        experiment=str(experiment),
    )
    assert run.end() == 0, run.said
    folder = the_run(tmp_path)
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows[1:]:
        assert row["grad_norm"] > 0.01
        assert 0 < row["gap/max_abs_logprob"] < RUN_TOLERANCE
    well = Counter(
        row.task_id.partition(" ")[2]
        for row in open_run(folder).episodes(held_out=False, limit=10_000)
        if row.status in ("ok", "truncated")
    )
    assert well == dict.fromkeys(ways, 2 * 24 // len(ways))
