"""Root file system of the sandbox: the files that code can see, in a mount namespace.

Read-only: the interpreter's folders (with the packages installed for it) and the system's programs
and libraries; where fonts are looked for; and the code, in ``/script``. Writable: ``/scratch``, in
memory, new and empty for each piece of code. And ``/dev/null`` and its like. There is no ``/proc``,
``/sys``, ``/var``, ``/run`` or home, and nothing else of ``/etc``.
"""

import os
import sys
from os.path import exists

from agentrl.sandbox import linux
from agentrl.sandbox.namespaces import NOBODY

SCRATCH, SCRIPT = "/scratch", "/script/code.py"
SCRATCH_BYTES, SCRATCH_FILES = 64 << 20, 4096

_SYSTEM = ["/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/etc/fonts"]
_SHORT_NAMES = ["/bin", "/lib", "/lib32", "/lib64"]
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
_READ_ONLY = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID
_PLAIN = linux.MS_NOSUID | linux.MS_NODEV
_SITE = "/proc"
"""Where the new root is put together: a folder that is always there, and that nothing is taken
from."""


def build() -> None:
    """Make the room and move in. Raises OSError where this machine forbids it."""
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", _SITE, "tmpfs", _PLAIN, "size=1m,mode=0755")
    for path in readable():
        _show(path, _READ_ONLY | linux.MOUNT_ATTR_NODEV)
    for name in _SHORT_NAMES:
        if os.path.islink(name):
            os.symlink(os.readlink(name), _SITE + name)
    for path in _DEVICES:
        _show(path, _READ_ONLY | linux.MOUNT_ATTR_NOEXEC)
    _make_scratch()
    linux.restrict_mount(_SITE, _READ_ONLY | linux.MOUNT_ATTR_NODEV, recursive=False)
    linux.make_root(_SITE)


def empty_scratch() -> None:
    """Give this process and its children a scratch folder that nobody else has, and go there."""
    linux.unshare(linux.CLONE_NEWNS)
    size = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES}"
    options = f"{size},mode=0700,uid={NOBODY},gid={NOBODY}"
    linux.mount("tmpfs", SCRATCH, "tmpfs", _PLAIN | linux.MS_NOEXEC, options)
    os.chdir(SCRATCH)


def write_script(code: str) -> None:
    """Let this process and its children read the code, as a file."""
    folder = os.path.dirname(SCRIPT)
    linux.mount("tmpfs", folder, "tmpfs", _PLAIN | linux.MS_NOEXEC, "nr_inodes=3,mode=0755")
    with open(SCRIPT, "w", errors="surrogatepass") as file:
        file.write(code)
    linux.restrict_mount(folder, _READ_ONLY, recursive=False)


def readable() -> list[str]:
    """The folders and files of this machine that the code may read."""
    python = [f"{sys.base_prefix}/{name}" for name in ("bin", "lib")]
    environment = [f"{sys.prefix}/{name}" for name in ("bin", "lib", "pyvenv.cfg")]
    real = [name for name in _SHORT_NAMES if not os.path.islink(name)]
    return [path for path in dict.fromkeys(python + environment + _SYSTEM + real) if exists(path)]


def _show(path: str, attributes: int) -> None:
    if os.path.isdir(path):
        os.makedirs(_SITE + path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(_SITE + path), exist_ok=True)
        open(_SITE + path, "x").close()
    linux.mount(path, _SITE + path, flags=linux.MS_BIND | linux.MS_REC)
    linux.restrict_mount(_SITE + path, attributes, recursive=True)


def _make_scratch() -> None:
    os.mkdir(_SITE + SCRATCH)
    os.mkdir(_SITE + os.path.dirname(SCRIPT))
    os.symlink(SCRATCH, f"{_SITE}/dev/shm")
    # It is there already when Python itself is installed below /tmp.
    if not os.path.exists(f"{_SITE}/tmp"):
        os.symlink(SCRATCH, f"{_SITE}/tmp")
