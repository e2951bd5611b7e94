"""Namespaces of this process's own: users, processes, mounts, network, IPC.

Works for any user, where user namespaces are allowed. Inside there are one or two users: root's
worker is 0 and the code is ``NOBODY``, so that the kernel counts its processes (it counts
nobody's who is root outside); anybody else's worker and code are both ``NOBODY``, which is that
person outside.
"""

import contextlib
import os

from agentrl.sandbox import linux

NOBODY = 65534
"""The user and group that the code runs as."""

_NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)


def enter() -> None:
    """Go on as process 1 of new namespaces. Raises OSError where this machine forbids it.

    The process that called stays behind, waits and ends with the new one, and the other way round.
    """
    # Only root may leave its groups.
    with contextlib.suppress(PermissionError):
        os.setgroups([])
    unshared, tell = os.pipe()
    mapper = _fork_mapper(unshared, tell)
    try:
        linux.unshare(_NAMESPACES)
    finally:
        os.close(unshared)
        os.close(tell)
        failed = os.waitpid(mapper, 0)[1]
    if failed:
        raise PermissionError("the user cannot be mapped")
    if inside := os.fork():
        _wait_and_end(inside)
    linux.die_with_parent()


def become_nobody() -> None:
    """Give up the worker's privileges for good: what the code runs with."""
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    linux.drop_capabilities()
    # Changing users has hidden how much memory it uses from the worker, too.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)


def _fork_mapper(unshared: int, tell: int) -> int:
    """A process that stays outside, and from there says who is who inside, once told."""
    user, group, target = os.geteuid(), os.getegid(), f"/proc/{os.getpid()}"
    mapper = os.fork()
    if mapper == 0:
        with _ending_here():
            os.close(tell)
            os.read(unshared, 1)
            _write(f"{target}/setgroups", "deny")
            _map(f"{target}/gid_map", group, two=user == 0)
            _map(f"{target}/uid_map", user, two=user == 0)
            os._exit(0)
    return mapper


def _map(path: str, identity: int, *, two: bool) -> None:
    if two:
        # Refused in a container whose root is nobody's root outside: there one will do.
        with contextlib.suppress(PermissionError):
            return _write(path, f"0 {identity} 1\n{NOBODY} {NOBODY} 1\n")
    return _write(path, f"{NOBODY} {identity} 1\n")


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, text.encode())
    os.close(file)


@contextlib.contextmanager
def _ending_here():
    """Never let a forked process return into what its parent was doing."""
    try:
        yield
    finally:
        os._exit(1)


def _wait_and_end(inside: int) -> None:
    with _ending_here():
        # Whoever reads the worker's answers should see the end of file when it dies.
        os.closerange(0, 1 << 16)
        os.waitpid(inside, 0)
        os._exit(0)
