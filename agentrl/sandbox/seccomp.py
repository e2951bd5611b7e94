"""Seccomp filter: the kernel calls that the code may not make.

What namespaces leave open: sockets that have no network namespace (AF_VSOCK reaches a virtual
machine's host), memory that belongs to no process (memfd, System V), kernel keys, and new
namespaces to be privileged in. Refused with EPERM, as by a lack of privileges.
"""

import ctypes
import errno
import os
import struct

from agentrl.sandbox import linux

MACHINE = "x86_64"
"""The numbers below are this machine's."""

ALWAYS = {
    # Other processes.
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "process_madvise": 440,
    "pidfd_getfd": 438,
    "kcmp": 312,
    "migrate_pages": 256,
    "move_pages": 279,
    # Priorities, the worker's among them.
    "setpriority": 141,
    "sched_setparam": 142,
    "sched_setscheduler": 144,
    "sched_setaffinity": 203,
    "sched_setattr": 314,
    "ioprio_set": 251,
    # Namespaces, mounts and roots.
    "unshare": 272,
    "setns": 308,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "chroot": 161,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    # Memory and queues that outlive processes or that nobody's limits count.
    "shmget": 29,
    "semget": 64,
    "msgget": 68,
    "mq_open": 240,
    "memfd_create": 319,
    "memfd_secret": 447,
    # Keys of the person who trains.
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    # Other ways into the kernel; io_uring would also get around this filter.
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "fanotify_init": 300,
    "syslog": 103,
}
BY_FIRST_ARGUMENT = {
    # Name: (number, the bits that its first argument may not have).
    # Every CLONE_NEW flag.
    "clone": (56, 0x7E020000),
    # Any family but AF_UNIX, which is 1.
    "socket": (41, 0xFFFFFFFE),
    # Any process but 0, which is oneself.
    "prlimit64": (302, 0xFFFFFFFF),
}
CLONE3 = 435
"""Its flags are out of a filter's sight; who finds it not implemented uses clone."""

_ARCHITECTURE = 0xC000003E
_X32 = 0x40000000
_NUMBER, _ARCHITECTURE_FIELD, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW = 0x80000000, 0x7FFF0000


def forbid() -> None:
    """Apply the filter to this process and all that it starts. Raises OSError."""
    if os.uname().machine != MACHINE:
        raise OSError(errno.ENOSYS, os.uname().machine)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_SECCOMP, linux.SECCOMP_MODE_FILTER, ctypes.byref(_PROGRAM))


def _program() -> bytes:
    lines = [
        _line(_LOAD, _ARCHITECTURE_FIELD),
        _line(_IF_EQUAL, _ARCHITECTURE, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
        _line(_IF_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _KILL),
    ]
    for number in ALWAYS.values():
        lines += [_line(_IF_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    lines += [_line(_IF_EQUAL, CLONE3, 0, 1), _refuse(errno.ENOSYS)]
    for number, bits in BY_FIRST_ARGUMENT.values():
        lines += [
            _line(_IF_EQUAL, number, 0, 4),
            _line(_LOAD, _FIRST_ARGUMENT),
            _line(_IF_ANY_BIT, bits, 0, 1),
            _refuse(errno.EPERM),
            _line(_RETURN, _ALLOW),
        ]
    return b"".join([*lines, _line(_RETURN, _ALLOW)])


def _line(operation: int, value: int, skip_if: int = 0, skip_if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, skip_if, skip_if_not, value)


def _refuse(number: int) -> bytes:
    return _line(_RETURN, 0x50000 | number)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


_LINES = _program()
_PROGRAM = _Program(len(_LINES) // 8, _LINES)
