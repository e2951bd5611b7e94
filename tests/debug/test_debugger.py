"""The commands as a person uses them: under a debugger, after an edit, in a terminal."""

import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.lending import KEY, ROOT, debug_command, lend, run, write_agent

pytestmark = pytest.mark.slow


class Debugger:
    """The little of the Debug Adapter Protocol that an IDE would speak here."""

    def __init__(self, port: int, seconds: float = 60):
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        self._file, self._numbers = self._socket.makefile("rb"), itertools.count(1)
        self._events: list[dict] = []

    def send(self, command: str, **arguments) -> int:
        number = next(self._numbers)
        message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return number

    def ask(self, command: str, **arguments) -> dict:
        number = self.send(command, **arguments)
        answer = self._read(lambda m: m["type"] == "response" and m["request_seq"] == number)
        assert answer["success"], answer
        return answer.get("body", {})

    def event(self, name: str) -> dict:
        for message in self._events:
            if message["event"] == name:
                self._events.remove(message)
                return message["body"]
        return self._read(lambda m: m["type"] == "event" and m["event"] == name).get("body", {})

    def hang_up(self) -> None:
        """The adapter waits for this with the process's output in its hands."""
        self._file.close()
        self._socket.close()

    def _read(self, wanted) -> dict:
        while True:
            header = {}
            while (line := self._file.readline().strip()) or not header:
                assert line, "the debugger hung up"
                name, _, value = line.partition(b":")
                header[name.lower()] = value
            message = json.loads(self._file.read(int(header[b"content-length"])))
            if wanted(message):
                return message
            if message["type"] == "event":
                self._events.append(message)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_breakpoint_in_a_workflow_and_one_in_the_judge(serving, tmp_path):
    url, port = lend(serving), free_port()
    agent = write_agent(tmp_path)
    python, *arguments = debug_command(agent, "--engine", url, "--api-key", KEY)
    listen = ["-m", "debugpy", "--listen", f"127.0.0.1:{port}", "--wait-for-client"]
    process = subprocess.Popen(
        [python, *listen, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = agent.read_text().splitlines()
        marks = ("said = answer", "return JudgeOutput")
        numbers = [next(i for i, s in enumerate(lines, 1) if mark in s) for mark in marks]
        debugger = Debugger(port)
        debugger.ask("initialize", adapterID="tests", linesStartAt1=True, pathFormat="path")
        # Answered only after the configuration.
        debugger.send("attach", justMyCode=True)
        debugger.event("initialized")
        debugger.ask(
            "setBreakpoints",
            source={"path": str(agent)},
            breakpoints=[{"line": number} for number in numbers],
        )
        debugger.ask("configurationDone")
        hit = []
        for expression in ("messages[0]['content']", "len(episode.calls)"):
            thread = debugger.event("stopped")["threadId"]
            frame = debugger.ask("stackTrace", threadId=thread)["stackFrames"][0]
            value = debugger.ask("evaluate", expression=expression, frameId=frame["id"])["result"]
            threads = {t["id"]: t["name"] for t in debugger.ask("threads")["threads"]}
            hit.append((frame["name"], frame["line"], threads[thread], value))
            debugger.ask("continue", threadId=thread)
        debugger.event("terminated")
        debugger.hang_up()
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert hit == [
        ("solve", numbers[0], "MainThread", "'QUESTION 0'"),
        ("judge", numbers[1], "MainThread", "1"),
    ]
    assert re.search(r"reward +0\.25", said)
    assert process.returncode == 0


def test_an_edited_workflow_runs_again(serving, tmp_path):
    """With its full record, from another process; ``bench.debug`` says in what time."""
    url = lend(serving)
    for text in ("QUESTION", "ANOTHER"):
        agent = write_agent(tmp_path, ("QUESTION", text))
        done = run(debug_command(agent, "--engine", url, "--api-key", KEY))
        assert done.returncode == 0, done.stdout
        assert f"user: {text} 0" in done.stdout
        assert re.search(r"1 calls, (\d+) raw tokens, \1 unique, 0 forks", done.stdout)
    done = run(debug_command(agent, "--base-url", f"{url}/v1", "--api-key", KEY))
    assert "user: ANOTHER 0" in done.stdout
    assert "1 calls; how they merge is not known without token ids" in done.stdout
    for flags, sentence in (
        (["--engine", url, "--api-key", "wrong"], "error: the engine at .* has another key: give"),
        (
            ["--engine", url, "--api-key", KEY, "--model.max-model-len", "256"],
            "model.max_model_len 512, and here it is 256: give --model.max-model-len 512, or",
        ),
    ):
        done = run(debug_command(agent, *flags))
        assert (done.returncode, done.stdout.count("\n")) == (1, 1)
        assert re.search(sentence, done.stdout), done.stdout


def test_serve_as_a_command(tiny_folder, tmp_path):
    agent = write_agent(tmp_path)
    command = [sys.executable, "-u", "rollout.py", "--exp", str(agent), "--serve"]
    server = subprocess.Popen(
        [*command, "--checkpoint", str(tiny_folder), "--api-key", KEY],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = next(line for line in server.stdout if "--debug" in line)
        command = said.split()
        done = run([sys.executable, *command[1:]])
        assert "user: QUESTION 0" in done.stdout, done.stdout
        server.send_signal(signal.SIGINT)
        assert "stopped" in server.communicate(timeout=60)[0]
        assert server.returncode == 0
        done = run([sys.executable, *command[1:]])
        assert re.match("error: nothing answers at --engine .*", done.stdout)
    finally:
        server.kill()


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str):
        self.said = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            # As a shell on a terminal has it: who runs the tests may have it ignored.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(command[0], command, {**os.environ, "COLUMNS": "200", "TERM": "dumb"})

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Read until the text comes after what was waited for before."""
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            if select.select([self._fd], [], [], 0.2)[0]:
                self.said += os.read(self._fd, 4096).decode(errors="replace")
        self.said = self.said.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> int:
        while True:
            try:
                os.read(self._fd, 4096)
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.parametrize("exp", ["gsm8k_offline", None])
def test_chat_in_a_terminal(tiny_folder, exp):
    flags = (
        ["--exp", exp] if exp else ["--model.max-model-len", "512", "--sampling.max-tokens", "16"]
    )
    terminal = Terminal(sys.executable, "rollout.py", "--chat", str(tiny_folder), *flags)
    try:
        terminal.wait_for(f"Tools: {'python' if exp else 'none'}.")
        terminal.wait_for("> ")
        terminal.type("Tom has 3 pens.\r")
        terminal.wait_for("assistant:")
        terminal.wait_for("> ")
        # Ctrl-C drops the line that is typed, and no more.
        terminal.type("never sent\x03")
        terminal.wait_for("> ")
        terminal.type('"""one\r')
        terminal.wait_for("  ")
        terminal.type('two"""\r')
        terminal.wait_for("assistant:")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    except BaseException:
        os.kill(terminal.pid, signal.SIGKILL)
        raise
