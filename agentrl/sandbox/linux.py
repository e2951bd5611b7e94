"""Linux calls that Python 3.11 has no function for. Each raises OSError where it fails."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (0x8000000 << i for i in range(4))
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SECCOMP_MODE_FILTER = 2
WAIT_FOR_CLONES_TOO = 0x40000000

INHERITED = "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"
"""What a shell sets for everybody."""

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_SYSCALL = 442
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(namespaces: int) -> None:
    """Move this process (with CLONE_NEWPID: its children) into new namespaces."""
    _checked(_libc.unshare(namespaces), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    texts = [os.fsencode(text) for text in (source, target, kind)]
    result = _libc.mount(*texts, ctypes.c_ulong(flags), options.encode())
    _checked(result, f"mount {target}")


def restrict_mount(target: str, attributes: int, *, recursive: bool) -> None:
    """Add MOUNT_ATTR_ flags to a mount, and to those below it. Linux 5.12."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    below = _AT_RECURSIVE if recursive else 0
    path, size = os.fsencode(target), ctypes.c_size_t(ctypes.sizeof(wanted))
    result = _libc.syscall(_MOUNT_ATTR_SYSCALL, _AT_FDCWD, path, below, wanted, size)
    _checked(result, f"mount_setattr {target}")


def make_root(folder: str) -> None:
    """Make a mounted folder the root of this mount namespace; the old root is out of reach."""
    os.chdir(folder)
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def prctl(option: int, *values: object) -> None:
    arguments = [ctypes.c_ulong(v) if isinstance(v, int) else v for v in values]
    arguments += [ctypes.c_ulong(0)] * (4 - len(arguments))
    _checked(_libc.prctl(option, *arguments), f"prctl {option}")


def die_with_parent() -> None:
    """Be killed as soon as the process that started this one has ended."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start_bare(command: Sequence[str], **streams: Any) -> subprocess.Popen:
    """Start a program that ends with this process, however that ends, and knows INHERITED alone."""
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return subprocess.Popen(command, **streams, env=env, preexec_fn=die_with_parent)


def drop_capabilities() -> None:
    """Give up every privilege, also for what this process will execute."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
