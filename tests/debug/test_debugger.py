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

from agentrl.callables import ROOT
from tests.support.debugging import debug_command, write_agent

pytestmark = pytest.mark.slow


class Debugger:
    """The little of the Debug Adapter Protocol that an IDE would speak here."""

    def __init__(self, port: int, seconds: float = 240):
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


def test_breakpoints_hold_over_an_edit(tiny_folder, tmp_path):
    """In the workflow and the judge, in the main thread; then the file is edited, and Enter."""
    port, agent = free_port(), write_agent(tmp_path)
    python, *arguments = debug_command(agent, "--checkpoint", str(tiny_folder))
    listen = ["-m", "debugpy", "--listen", f"127.0.0.1:{port}", "--wait-for-client"]
    # What compiles for vLLM asks child processes, which a debugger would hold.
    listen += ["--configure-subProcess", "false"]
    process = subprocess.Popen(
        [python, *listen, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = agent.read_text().splitlines()
        marks = ("said = answer", "return JudgeOutput")
        numbers = [next(i for i, s in enumerate(lines, 1) if mark in s) for mark in marks]
        debugger = Debugger(port)
        debugger.ask("initialize", adapterID="tests", linesStartAt1=True, pathFormat="path")
        # Answered only after the configuration.
        debugger.send("attach", justMyCode=True, subProcess=False)
        debugger.event("initialized")
        debugger.ask(
            "setBreakpoints",
            source={"path": str(agent)},
            breakpoints=[{"line": number} for number in numbers],
        )
        debugger.ask("configurationDone")

        def stops():
            for expression in ("messages[0]['content']", "len(episode.calls)"):
                thread = debugger.event("stopped")["threadId"]
                frame = debugger.ask("stackTrace", threadId=thread)["stackFrames"][0]
                value = debugger.ask("evaluate", expression=expression, frameId=frame["id"])
                threads = {t["id"]: t["name"] for t in debugger.ask("threads")["threads"]}
                yield frame["name"], frame["line"], threads[thread], value["result"]
                debugger.ask("continue", threadId=thread)

        before = list(stops())
        write_agent(tmp_path, ("QUESTION", "ANOTHER"), ("reward=0.25", "reward=0.75"))
        process.stdin.write("\n")
        process.stdin.flush()
        after = list(stops())
        process.stdin.close()
        debugger.event("terminated")
        debugger.hang_up()
        said = process.stdout.read()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    judged = ("judge", numbers[1], "MainThread", "1")
    assert before == [("solve", numbers[0], "MainThread", "'QUESTION 0'"), judged]
    assert after == [("solve", numbers[0], "MainThread", "'ANOTHER 0'"), judged]
    assert re.findall(r"reward +(\S+)", said) == ["0.25", "0.75"]


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


def test_an_edit_in_a_terminal(tiny_folder, tmp_path):
    """``bench.debug`` says in what time."""
    agent = write_agent(tmp_path)
    terminal = Terminal(*debug_command(agent, "--checkpoint", str(tiny_folder)))
    try:
        terminal.wait_for("user: QUESTION 0")
        terminal.wait_for("Enter runs it again")
        write_agent(tmp_path, ("import threading", "import threadin"))
        terminal.type("\r")
        terminal.wait_for("No module named 'threadin'")
        terminal.wait_for("Enter runs it again")
        write_agent(tmp_path, ("QUESTION", "ANOTHER"))
        terminal.type("\r")
        terminal.wait_for("user: ANOTHER 0")
        terminal.wait_for("Enter runs it again")
        terminal.type("\x04")
        assert terminal.end() == 0
    except BaseException:
        os.kill(terminal.pid, signal.SIGKILL)
        raise


def test_chat_in_a_terminal(tiny_folder):
    flags = ("--exp", "gsm8k_offline", "--chat", str(tiny_folder))
    terminal = Terminal(sys.executable, "rollout.py", *flags)
    try:
        terminal.wait_for("Tools: python.")
        terminal.wait_for("> ")
        terminal.type("Tom has 3 pens.\r")
        terminal.wait_for("assistant:")
        terminal.wait_for("> ")
        # Ctrl-C drops the line that is typed, and no more. Python's readline shows its prompt a
        # moment before it waits: a signal in between is heard with the next key alone.
        terminal.type("never sent")
        terminal.wait_for("never sent")
        time.sleep(0.5)
        terminal.type("\x03")
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
