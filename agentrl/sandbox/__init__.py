"""Sandbox for code that a model wrote: it does no harm, and costs milliseconds. Linux only.

A worker shuts itself in, once, and then forks for every piece of code; what a piece leaves behind
ends with it. Each attempt in ``tests/sandbox/test_sandbox.py`` is one of these, tried.

network: a network namespace without interfaces, and no sockets but AF_UNIX (namespaces.py,
    seccomp.py).
files: a root of its own. The interpreter, its packages, /usr/bin and the system's libraries, all
    read-only, and the code; a scratch folder in memory, new for each piece and its home, of 64 MiB
    and 4096 files (rootfs.py).
secrets: an empty environment, nothing open but stdin, stdout and stderr, no /proc and no home,
    of /etc no more than fonts,
    no kernel keys (process.py, worker.py, rootfs.py).
other processes: a process namespace, of which the worker is the first process: it cannot be
    signalled, and it kills all the rest after each piece (namespaces.py, isolation.py).
privileges: none, and none to be had: an unprivileged user, no_new_privs, and no calls that make
    namespaces or mounts (namespaces.py, seccomp.py).
processes and threads: 32, by the kernel (limits.py).
memory: of each process by the kernel; of all together by looking every 20 ms (limits.py).
time and output: on the clock on the wall, and by the byte (worker.py).
the machine: code is niced, the first to go when memory runs out, a bounded number of pieces at once
    (worker.py, tools.py).

It does NOT protect from faults of the kernel itself, hide what is installed for Python, or hold the
memory of many processes together to the byte: in 20 ms they may overshoot. Where a machine forbids
user namespaces, code runs in the open: with limits, an empty environment and the filter of kernel
calls (so without network); a warning, once, lists what is then not contained. Without the filter
nothing is run.

Why not bubblewrap: it starts a program in a new sandbox, with Python tens of milliseconds a
call where this takes four (``python -m bench.tools``); as root it runs the code as root's
user, whose processes the kernel does not count; it leaves AF_VSOCK open; and on most GPU machines
it is not installed. Ours are the same kernel calls, once per worker.
"""
