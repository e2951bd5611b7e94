"""Escapes, tried against the Python tool.

Each attempt is also made outside the sandbox, where that does no harm: there it must succeed, so
that what fails inside fails because of the walls.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agentrl.agents.tools import NOTHING_PRINTED, PythonTool
from agentrl.sandbox import process, seccomp
from agentrl.sandbox.isolation import require_filter
from agentrl.sandbox.limits import PROCESSES
from agentrl.sandbox.rootfs import SCRIPT, readable

HELPERS = """
import ctypes, errno, mmap, os, resource, shutil, signal, socket, struct, subprocess, sys
import threading, time
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def syscall(number, *arguments):
    return call("syscall", ctypes.c_long(number), *map(ctypes.c_ulong, arguments))

def reach(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(2)
        s.connect(address)
        s.send(b"x")

def read(path):
    with open(path, "rb") as file:
        return len(file.read(9))

def write(path):
    with open(path, "w") as file:
        file.write("x")

def in_child(step):
    # Nothing of this process changes.
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            step()
            os.write(write_end, bytes([0]))
        except OSError as error:
            os.write(write_end, bytes([error.errno]))
        os._exit(0)
    if number := os.read(read_end, 1)[0]:
        raise OSError(number, "in a child")

def trace_a_child():
    child = os.fork()
    if child == 0:
        time.sleep(9)
    try:
        call("ptrace", 16, child, 0, 0)
    finally:
        os.kill(child, 9)

def read_a_childs_memory():
    text = ctypes.create_string_buffer(b"secret")
    child = os.fork()
    if child == 0:
        time.sleep(9)
    try:
        to, copy = ctypes.create_string_buffer(7), (ctypes.c_size_t * 2)()
        here = (ctypes.c_size_t * 2)(ctypes.addressof(to), 7)
        there = (ctypes.c_size_t * 2)(ctypes.addressof(text), 7)
        call("process_vm_readv", child, here, 1, there, 1, 0)
    finally:
        os.kill(child, 9)

def attempt(step):
    try:
        print("reached", step())
    except OSError as error:
        print(errno.errorcode.get(error.errno) or error)
"""


@dataclass(frozen=True)
class Escape:
    """One attempt, an expression in Python; how it fails inside; and what it reaches outside."""

    name: str
    step: str
    fails: str
    """The error's name."""
    control: bool = True
    """Whether it is also tried outside: it does no harm there, and any user may do it."""
    no_isolation: bool = False
    """Whether it fails without namespaces, too."""


ESCAPES = [
    # Network. On open ground, the filter is what stops it.
    Escape("TCP", "reach(2, 1, ('127.0.0.1', tcp))", "EPERM", no_isolation=True),
    Escape("UDP", "reach(2, 2, ('127.0.0.1', udp))", "EPERM", no_isolation=True),
    Escape("DNS", "socket.getaddrinfo('localhost', 80)[0][0]", "[Errno -"),
    Escape("IPv6", "socket.socket(socket.AF_INET6).close()", "EPERM", no_isolation=True),
    Escape("netlink", "socket.socket(socket.AF_NETLINK, 3).close()", "EPERM", no_isolation=True),
    Escape("a virtual machine's host", "socket.socket(40, 1)", "EPERM", False, no_isolation=True),
    Escape("packets", "socket.socket(17, 3)", "EPERM", False, no_isolation=True),
    Escape("a unix socket by its path", "reach(1, 1, unix)", "ENOENT"),
    Escape("an abstract unix socket", "reach(1, 1, abstract)", "ECONNREFUSED"),
    # Reading.
    Escape("a file in a home", "read(secret_file)", "ENOENT"),
    Escape("the repository", "read(readme)", "ENOENT"),
    Escape("a path with dots", "read('../' * 30 + secret_file[1:])", "ENOENT"),
    Escape("a symbolic link", "(os.symlink(secret_file, 'link'), read('link'))", "ENOENT"),
    Escape("the users of this machine", "read('/etc/passwd')", "ENOENT"),
    Escape("other processes' command lines", "read(f'/proc/{trainer}/cmdline')", "ENOENT"),
    Escape("its parent's environment", "read(f'/proc/{os.getppid()}/environ')", "ENOENT"),
    Escape("its parent's memory", "open(f'/proc/{os.getppid()}/mem', 'rb').close()", "ENOENT"),
    Escape("its parent's root", "os.listdir(f'/proc/{os.getppid()}/root')[:0]", "ENOENT"),
    Escape("the kernel's log", "syscall(103, 10, 0, 0)", "EPERM", no_isolation=True),
    Escape("a disk", "os.listdir('/sys/block')[:0]", "ENOENT"),
    Escape("the terminal of the parent", "open('/dev/tty')", "ENOENT", False),
    # Writing.
    Escape("writing elsewhere", "write(outside_file)", "ENOENT"),
    Escape("writing into the root", "os.mkdir('/new')", "EROFS", False),
    Escape("writing into the library", "write(os.__file__ + '.new')", "EROFS", False),
    Escape(
        "deleting the interpreter", "os.remove(os.path.realpath(sys.executable))", "EROFS", False
    ),
    Escape("deleting the packages", "os.rename(sys.prefix, sys.prefix + 'x')", "EROFS", False),
    Escape("a device's mode", "os.chmod('/dev/null', 0)", "EROFS", False),
    Escape("a device of its own", "os.mknod('disk', 0o60600, os.makedev(254, 0))", "EPERM", False),
    # Processes and privileges.
    Escape("finding the trainer", "os.kill(trainer, 0)", "ESRCH"),
    Escape("the trainer's limits", "resource.prlimit(trainer, resource.RLIMIT_CPU)", "EPERM"),
    Escape("tracing", "trace_a_child()", "EPERM", no_isolation=True),
    Escape("another's memory", "read_a_childs_memory()", "EPERM", no_isolation=True),
    Escape("the worker's limits", "resource.prlimit(os.getppid(), 0)", "EPERM", no_isolation=True),
    Escape(
        "the worker's priority",
        "os.setpriority(0, os.getppid(), os.getpriority(0, os.getppid()))",
        "EPERM",
        no_isolation=True,
    ),
    Escape(
        "the worker's processor",
        "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid()))",
        "EPERM",
        no_isolation=True,
    ),
    # EPERM, or EINVAL where there is no root inside.
    Escape("becoming root", "os.setuid(0)", "E", False),
    Escape("a user namespace", "in_child(lambda: call('unshare', 1 << 28))", "EPERM", False, True),
    Escape("a clone in one", "syscall(56, 1 << 28 | 17, 0, 0, 0, 0)", "EPERM", False, True),
    Escape("the newer clone in one", "syscall(435, 0, 0)", "ENOSYS", False, True),
    Escape("a mount", "call('mount', b't', b'.', b'tmpfs', 0, None)", "EPERM", False, True),
    Escape(
        "mounting the library anew", "call('mount', 0, b'/usr', 0, 4128, 0)", "EPERM", False, True
    ),
    Escape(
        "unmounting the scratch folder", "call('umount2', b'/scratch', 2)", "EPERM", False, True
    ),
    Escape("another root", "os.chroot('.')", "EPERM", False, True),
    Escape("a file by its handle", "syscall(304, -100, 0, 0)", "EPERM", False, True),
    # Memory that no process has.
    Escape("memory as a file", "os.close(os.memfd_create('m'))", "EPERM", no_isolation=True),
    Escape("System V shared memory", "call('shmget', 0, 4096, 0o1600)", "EPERM", False, True),
    Escape("a message queue", "syscall(240, 0, 0, 0, 0)", "EPERM", False, True),
    # The kernel.
    Escape("the kernel's keys", "syscall(250, 0, -3 % 2**64, 0)", "EPERM", no_isolation=True),
    Escape("io_uring", "syscall(425, 0, 0)", "EPERM", False, True),
    Escape("BPF", "syscall(321, 0, 0, 0)", "EPERM", False, True),
    Escape(
        "performance counters",
        "syscall(298, 0, 0, -1 % 2**64, -1 % 2**64, 0)",
        "EPERM",
        False,
        True,
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What there is to reach outside, by the names that the attempts use."""
    with contextlib.ExitStack() as stack:
        home = tmp_path_factory.mktemp("home")
        (home / "secret").write_text("the secret")
        servers = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(home / "socket")),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0agentrl-{os.getpid()}"),
        }
        addresses = {}
        for name, (family, kind, address) in servers.items():
            server = stack.enter_context(socket.socket(family, kind))
            server.bind(address)
            if kind == socket.SOCK_STREAM:
                server.listen()
            bound = server.getsockname()
            addresses[name] = bound[1] if family == socket.AF_INET else bound
        yield {
            **addresses,
            "trainer": os.getpid(),
            "secret_file": str(home / "secret"),
            "outside_file": str(home / "written"),
            "readme": str(Path(__file__).parents[2] / "README.md"),
        }


@pytest.fixture(scope="module")
def isolations():
    """The kinds of sandbox that this machine can give, a tool of each."""
    with pytest.MonkeyPatch.context() as patch:
        best = process.isolation()
        tools = {}
        for kind in dict.fromkeys([best, "none"]):
            patch.setattr(process, "isolation", lambda kind=kind: kind)
            tools[kind] = make_tool()
            tools[kind].run("")
        yield tools


def make_tool(seconds: float = 2.0, **kwargs) -> PythonTool:
    settings = {"memory_mib": 256, "max_characters": 500, "workers": 1} | kwargs
    return PythonTool(seconds=seconds, **settings)


@pytest.fixture
def walled(isolations):
    if "namespaces" not in isolations:
        pytest.skip("this machine forbids user namespaces")
    return isolations["namespaces"]


@pytest.fixture
def patient(walled, monkeypatch):
    """The same walls, for what is slow on a busy machine."""
    monkeypatch.setattr(process, "isolation", lambda: "namespaces")
    return make_tool(seconds=60.0)


def prelude(world: dict) -> str:
    return HELPERS + "".join(f"{name} = {value!r}\n" for name, value in world.items())


def outside(code: str, folder: Path, **kwargs) -> str:
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, **kwargs)
    return (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.name)
def test_escape(walled, world, tmp_path, escape):
    code = f"{prelude(world)}attempt(lambda: {escape.step})"
    assert walled.run(code).startswith(escape.fails)
    if escape.control:
        assert outside(code, tmp_path).startswith("reached")


@pytest.mark.parametrize("escape", [e for e in ESCAPES if e.no_isolation], ids=lambda e: e.name)
def test_escape_on_open_ground(isolations, world, escape):
    code = f"{prelude(world)}attempt(lambda: {escape.step})"
    assert isolations["none"].run(code).startswith(escape.fails)


def test_what_is_open(patient, world, tmp_path):
    """No file but the three, however many the trainer and the worker have."""
    code = HELPERS + textwrap.dedent("""
        def is_open(number):
            try:
                return bool(os.fstat(number))
            except OSError:
                return False
        print([number for number in range(4096) if is_open(number)])
        """)
    assert patient.run(code) == "[0, 1, 2]"
    with open(world["secret_file"]) as file:
        number = file.fileno()
        assert outside(code, tmp_path, pass_fds=[number]) == str([0, 1, 2, number])


def test_environment(isolations, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "the secret")
    code = "import os; print(sorted(os.environ))"
    for tool in isolations.values():
        assert tool.run(code) == "['HOME', 'LC_CTYPE', 'OMP_NUM_THREADS']"
    assert "SECRET_TOKEN" in outside(code, tmp_path)


def test_all_that_can_be_listed(walled, world):
    """The whole room: nothing outside the folders that are meant to be read."""
    code = textwrap.dedent("""
        import os
        beyond = {'/usr', '/bin', '/lib', '/lib32', '/lib64', '/dev'}
        for folder, folders, files in os.walk('/'):
            folders[:] = [f for f in folders if os.path.join(folder, f) not in beyond | readable]
            for file in files:
                if os.path.join(folder, file) not in readable: print(folder, file)
        """)
    code = f"readable = { ({*readable(), SCRIPT})!r}\n{code}"
    assert walled.run(code) == NOTHING_PRINTED


PRIVILEGES = (
    HELPERS
    + """
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
call("capget", header, sets)
PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS = 21, 39
print(list(sets), call("prctl", PR_GET_SECCOMP, 0), call("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))
print(os.getresuid(), os.getresgid())
"""
)
NONE = "[0, 0, 0, 0, 0, 0] 2 1\n(65534, 65534, 65534) (65534, 65534, 65534)"


def test_privileges(walled):
    assert walled.run(PRIVILEGES) == NONE


def test_nothing_is_left_for_the_next(walled):
    names = ["note", "/dev/shm/agentrl-shared"]
    if not any(path.startswith("/tmp/") for path in readable()):
        names.append("/tmp/agentrl-note")
    leave = f"import os\nfor name in {names}: open(name, 'w').write('x')\nprint(len(os.listdir()))"
    look = f"import os; print([os.path.exists(name) for name in {names}], os.listdir())"
    assert walled.run(leave) == str(len(names))
    assert walled.run(look) == f"{[False] * len(names)} []"
    assert not any(map(os.path.exists, names))


def test_filling_the_disk(patient):
    code = textwrap.dedent("""
        written = 0
        try:
            for i in range(100):
                with open(str(i), 'wb') as file:
                    written += file.write(bytes(4 << 20))
        except OSError as error:
            print(error, written >> 20)
        """)
    assert patient.run(code) in [f"[Errno 28] No space left on device {n}" for n in (56, 60, 64)]
    files = "for i in range(10**6): open(str(i), 'x').close()"
    assert (
        patient.run(files) == "Error on line 1: OSError: [Errno 28] No space left on device: '4095'"
    )
    assert patient.run("import os; print(os.listdir())") == "[]"


def test_a_large_file(isolations):
    code = "open('large', 'wb').write(bytes(17 << 20))"
    for tool in isolations.values():
        assert tool.run(code) == "Error on line 1: OSError: [Errno 27] File too large"


MANY_CHILDREN = """
import os, time
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        children += 1
except OSError as error:
    print(error, children)
"""


def test_counted_processes(patient):
    # The worker, and who waits for it, are counted unless the trainer is root.
    taken = 1 if os.geteuid() == 0 else 3
    assert (
        patient.run(MANY_CHILDREN)
        == f"[Errno 11] Resource temporarily unavailable {PROCESSES - taken}"
    )
    assert alive(patient) == 0


@pytest.mark.alone
def test_fork_bomb(walled):
    started = time.monotonic()
    walled.run("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass")
    assert time.monotonic() - started < 4
    assert alive(walled) == 0
    assert walled.run("print(1)") == "1"


def test_thread_bomb(walled):
    code = textwrap.dedent("""
        import threading, time
        threading.stack_size(1 << 16)
        for i in range(100): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
        """)
    assert walled.run(code) == "Error on line 4: RuntimeError: can't start new thread"


@pytest.mark.parametrize(
    ("kind", "mebibytes"), [("namespaces", 100), ("none", 100), ("namespaces", 20), ("none", 20)]
)
def test_memory_of_children_together(isolations, kind, mebibytes):
    """Each is below the bound, and four are; eight times a hundred are not."""
    if kind not in isolations:
        pytest.skip("this machine forbids user namespaces")
    code = textwrap.dedent(f"""
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                held = b'x' * ({mebibytes} << 20)
                time.sleep(1)
                os._exit(0)
        time.sleep(1)
        """)
    too_much = "The code used more than 256 MiB of memory."
    assert isolations[kind].run(code) == (too_much if mebibytes == 100 else NOTHING_PRINTED)


def test_shared_memory_is_counted(walled):
    code = textwrap.dedent("""
        import mmap, os, time
        for _ in range(8):
            if os.fork() == 0:
                held = mmap.mmap(-1, 100 << 20)
                for page in range(0, 100 << 20, 4096): held[page] = 1
                time.sleep(1)
                os._exit(0)
        time.sleep(1)
        """)
    assert walled.run(code) == "The code used more than 256 MiB of memory."


def test_memory_of_threads_without_their_first(walled):
    code = HELPERS + textwrap.dedent("""
        def hold():
            time.sleep(0.2)
            held = b'x' * (100 << 20)
            time.sleep(1)
            os._exit(0)
        for _ in range(8):
            if os.fork() == 0:
                threading.Thread(target=hold).start()
                libc.syscall(60, 0)
        time.sleep(1)
        """)
    assert walled.run(code) == "The code used more than 256 MiB of memory."


def test_many_processes_on_open_ground(isolations):
    """There the worker has to look; the kernel counts for the whole user."""
    code = textwrap.dedent("""
        import os, time
        for _ in range(40):
            if os.fork() == 0:
                time.sleep(1)
                os._exit(0)
        time.sleep(1)
        """)
    assert isolations["none"].run(code) == "The code had more than 32 processes and threads."
    assert alive(isolations["none"]) == 0


def test_forks_share_what_they_do_not_write(patient):
    """A pool of processes over large data is not taken for more than it is."""
    code = textwrap.dedent("""
        import os, time
        data = b'x' * (100 << 20)
        for _ in range(6):
            if os.fork() == 0:
                time.sleep(0.3)
                os._exit(0)
        time.sleep(0.3)
        print(len(data) >> 20)
        """)
    assert patient.run(code) == "100"


def test_a_gigabyte_of_output(walled):
    before = psutil.Process().memory_info().rss
    message = walled.run("import os\nfor _ in range(1024): os.write(1, b'x' * (1 << 20))")
    assert message == f"{'x' * 500}\n[cut after 500 characters]"
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.alone
def test_time():
    """Three at once, each with a time of its own."""
    steps = ["time.sleep(9)", "exec('while True: pass')", "signal.pause()"]
    tool = make_tool(workers=len(steps))

    def timed(step: str) -> tuple[str, float]:
        started = time.monotonic()
        return tool.run(f"{HELPERS}{step}"), time.monotonic() - started

    with ThreadPoolExecutor(len(steps)) as threads:
        # Each worker has started before.
        list(threads.map(tool.run, ["import time; time.sleep(0.5)"] * len(steps)))
        for said, seconds in threads.map(timed, steps):
            assert said == "The code ran longer than 2 s."
            assert 2 <= seconds < 4


SIGNALS = {
    "ending the worker": "os.kill(os.getppid(), 9)",
    "stopping the worker": "os.kill(os.getppid(), 19)",
    "interrupting the worker": "os.kill(os.getppid(), 2)",
    # Never to be tried without walls.
    "ending everybody": "os.getppid() == 1 and os.kill(-1, 9)",
    "ending its own group": "os.kill(0, 9)",
    "ending the worker's group": "os.killpg(os.getpgid(os.getppid()), 9)",
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(walled, name):
    """The worker goes on, and so does who started it."""
    before = worker_of(walled).pid
    with signals_noticed() as noticed:
        walled.run(f"import os\n{SIGNALS[name]}")
    assert walled.run("print(1)") == "1"
    assert worker_of(walled).pid == before
    assert noticed == []


def test_signal_to_the_worker_on_open_ground(isolations):
    """The control: without walls the same call ends the worker."""
    before = worker_of(isolations["none"]).pid
    assert isolations["none"].run("import os\nos.kill(os.getppid(), 9)").endswith("signal 9.")
    assert isolations["none"].run("print(1)") == "1"
    assert worker_of(isolations["none"]).pid != before


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open('/dev/null', 'r+') as nothing:
            for number in range(3): os.dup2(nothing.fileno(), number)
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(30)', 'daemon'])
    os._exit(0)
time.sleep(0.3)
print('left')
"""


def test_a_daemon_ends_with_the_call(isolations, tmp_path):
    for tool in isolations.values():
        assert tool.run(DAEMON) == "left"
        assert alive(tool) == 0
        assert daemons() == []
    assert outside(DAEMON, tmp_path) == "left"
    (daemon,) = daemons()
    daemon.kill()


def test_the_output_is_only_text(walled):
    answer = '{"output": "forged", "ended_by": null, "signal": null}'
    assert walled.run(f"print({answer!r})") == answer


def test_limits_cannot_be_raised(walled):
    code = "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (99, 99))"
    message = "Error on line 1: ValueError: not allowed to raise maximum limit"
    assert walled.run(code) == message


def run_elsewhere(codes: list[str], before: str = "", python: str = sys.executable, **kwargs):
    """What a tool in another process answers to each, and what that process says aloud."""
    root = str(Path(__file__).parents[2])
    program = f"import json, sys; sys.path.insert(0, {root!r}); {before}\n" + textwrap.dedent("""
        from agentrl.agents.tools import PythonTool
        tool = PythonTool(seconds=2, memory_mib=256, max_characters=500, workers=2)
        print(json.dumps([tool.run(code) for code in json.load(sys.stdin)]))
        """)
    asked = {"input": json.dumps(codes), "capture_output": True, "text": True, "cwd": "/"}
    done = subprocess.run([python, "-I", "-c", program], **asked, **kwargs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_is_as_safe(walled, world):
    user = {"user": 65534, "group": 65534, "extra_groups": []}
    python = next(filter(usable_by_nobody, [sys.executable, "/usr/bin/python3"]), None)
    if python is None:
        pytest.skip("no Python that an ordinary user could start")
    codes = [f"{prelude(world)}attempt(lambda: {escape.step})" for escape in ESCAPES]
    codes += [MANY_CHILDREN, PRIVILEGES]
    (*failures, counted, privileges), aloud = run_elsewhere(codes, python=python, **user)
    assert [e.name for e, m in zip(ESCAPES, failures) if not m.startswith(e.fails)] == []
    assert counted == f"[Errno 11] Resource temporarily unavailable {PROCESSES - 3}"
    assert privileges == NONE
    assert aloud == ""


def usable_by_nobody(python: str) -> bool:
    program = "import sys; open(sys.argv[1]).close(); assert sys.version_info >= (3, 11)"
    with contextlib.suppress(PermissionError, FileNotFoundError):
        command = [python, "-I", "-c", program, process.__file__]
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        return subprocess.run(command, **as_nobody, capture_output=True).returncode == 0
    return False


def test_a_machine_without_namespaces(walled, world):
    """It is said once, in words, however many workers there are; and what is left still holds."""
    forbid = (
        "from agentrl.sandbox import linux; linux.unshare(linux.CLONE_NEWUSER); "
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')"
    )
    tried = [escape for escape in ESCAPES if escape.no_isolation]
    codes = [f"{prelude(world)}attempt(lambda: {escape.step})" for escape in tried]
    messages, aloud = run_elsewhere(codes, before=forbid)
    assert [e.name for e, m in zip(tried, messages) if not m.startswith(e.fails)] == []
    assert aloud.splitlines() == [
        "The Python tool runs without namespaces (unshare: No space left on device). Of the code "
        "that a model writes, this machine does NOT contain: reading and writing whatever this "
        "user may; sockets of other programs on this machine; signals to this user's processes, "
        "this one among them; the number of processes, other than by looking. Train in a "
        "container without secrets, or allow user namespaces."
    ]


def test_where_kernel_calls_cannot_be_filtered_nothing_is_run(monkeypatch):
    require_filter()
    monkeypatch.setattr(seccomp, "MACHINE", "another")
    with pytest.raises(OSError, match="its kernel's calls cannot be filtered"):
        require_filter()


def test_the_trainer_is_killed(isolations, tmp_path):
    """Nothing is left: not the worker, not the code, not its children."""
    for kind in isolations:
        code = textwrap.dedent(f"""
            from agentrl.sandbox import process
            from agentrl.agents.tools import PythonTool
            process.ground = lambda: {kind!r}
            PythonTool(seconds=60).run({DAEMON + "time.sleep(60)"!r})
            """)
        trainer = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        wait_until(lambda: len(daemons()) == 1)
        below = psutil.Process(trainer.pid).children(recursive=True)
        assert len(below) >= 3
        trainer.kill()
        trainer.wait()
        wait_until(lambda below=below: not any(map(is_alive, below)))
        assert daemons() == []


def worker_of(tool: PythonTool) -> psutil.Process:
    return psutil.Process(tool._idle.queue[-1]._process.pid)


def alive(tool: PythonTool) -> int:
    """How many processes of the code are left."""
    worker = worker_of(tool)
    # Behind walls, the process that was started waits for the worker.
    return len(worker.children(recursive=True)) - ("namespaces" in worker.cmdline())


def daemons() -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-1:] == ["daemon"]
    ]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_until(true, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def signals_noticed():
    """The signals that this process is sent meanwhile."""
    noticed = []
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {n: signal.signal(n, lambda number, _: noticed.append(number)) for n in numbers}
    try:
        yield noticed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
