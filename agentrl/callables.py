"""Callables by name: ``package.module:function`` or ``path/file.py:function``, and the reverse."""

import difflib
import functools
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
"""The checkout."""
OURS = {"agentrl", "kernels", "train", "rollout", "__main__", "__mp_main__"}
"""Modules and packages that are no experiment's, wherever its file lies."""
INSTALLED = {"site-packages", "dist-packages"}
LOADS = re.compile(r"^(def load\(what|load = )", re.MULTILINE)
"""In the text of a module that a name may name."""
_loading = threading.RLock()
"""No thread sees a file's module before all of it is there; one file may import another."""


def load_callable(spec: str) -> Callable:
    """The function that ``package.module:function`` or ``path/file.py:function`` names.

    As AgentJet writes it, ``->`` stands for the colon, and a class of its shapes for its function.
    """
    module_name, colon, name = spec.replace("->", ":").rpartition(":")
    if not colon:
        raise ValueError(f"{spec!r} names no function: write package.module:function")
    module = load_module(module_name)
    if not callable(getattr(module, name, None)):
        functions = [known for known, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(name, functions, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"{module_name} has no function {name!r}{hint}")
    found = getattr(module, name)
    return found.as_function() if hasattr(found, "as_function") else found


class Named:
    """``NAME:WHAT`` as a callable: what the module NAME of a package makes of WHAT."""

    def __init__(self, name: str, package: str):
        # As a function has them: its name is what was typed.
        self.__module__, _, self.__qualname__ = name.partition(":")
        self._package = package

    @property
    def load(self) -> Callable:
        name = self.__module__.replace("-", "_")
        return importlib.import_module(f"{self._package}.{name}").load

    def __call__(self, *given: Any) -> Any:
        return self.load(self.__qualname__, *given)


def load_named(name: str, package: str) -> Callable:
    """What ``NAME:WHAT`` stands for, where a module NAME of the package, one of ours, has a
    ``load(what, ...)``, a function or a class; else ``load_callable`` of it.

    Raises ValueError, in a sentence, for what is neither, or both.
    """
    first, _, what = name.partition(":")
    files = (ROOT / package.replace(".", "/")).glob("*.py")
    named = (p for p in files if LOADS.search(p.read_text(encoding="utf-8")))
    known = sorted(p.stem.replace("_", "-") for p in named)
    if first not in known:
        try:
            return load_callable(name)
        except ValueError as error:
            by_name = ", ".join(f"{one}:..." for one in known)
            raise ValueError(f"{error}; by name there are {by_name}") from error
    if not what:
        raise ValueError(f"{name} does not say what: write {first}:WHAT")
    if what.isidentifier() and _has_function(first, what):
        raise ValueError(
            f"{name} is both our {first} and a function of a module {first} that is here: name "
            f"yours by its path, or rename it"
        )
    return Named(name, package)


def _has_function(module: str, name: str) -> bool:
    if importlib.util.find_spec(module) is None:
        return False
    return callable(getattr(load_module(module), name, None))


def load_module(name: str) -> ModuleType:
    """Import ``package.module``, or the file at ``path/file.py``; once, however often it is asked.

    Raises ValueError with the lines at fault, where it cannot be imported.
    """
    if name.endswith(".py") and not Path(name).is_file():
        raise ValueError(f"there is no file {name}")
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        with _loading:
            return _load_file(Path(name))
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}"
        raise ValueError(f"cannot import {name} ({cause}){lines_at_fault(error)}") from error


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if str(path) in sys.modules:
        return sys.modules[str(path)]
    # A file may import its neighbours, but hides nothing that is installed.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(str(path), path)
    module = sys.modules[str(path)] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[str(path)]
        raise
    return module


def lines_at_fault(error: BaseException) -> str:
    """The part of a traceback that an experiment's author wrote."""
    others = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not INSTALLED & {*Path(f.filename).parts}]
    lines = traceback.format_list([f for f in theirs if not f.filename.startswith(others)])
    if isinstance(error, SyntaxError):
        lines += traceback.format_exception_only(error)[:-1]
    return "".join(["\n", *lines]).rstrip()


def experiment_modules(names: Iterable[str]) -> dict[str, ModuleType]:
    """The imported modules that belong to an experiment, by name.

    names: its own module's and its callables', ``module`` or ``module:function``. To a file belong
    those in its folder, to a module those of its package; none of ours, nothing installed.
    """
    given = {name.rpartition(":")[0] or name for name in names}
    folders = [Path(name).parent for name in given if name.endswith(".py")]
    packages = {name.partition(".")[0] for name in given}
    found = {}
    for name, module in list(sys.modules.items()):
        package, file = name.partition(".")[0], Path(getattr(module, "__file__", None) or "")
        if package in (OURS - given) | sys.stdlib_module_names or INSTALLED & {*file.parts}:
            continue
        if package in packages or any(map(file.is_relative_to, folders)):
            found[name] = module
    return found


def forget_modules(names: Iterable[str]) -> None:
    """Let the next import read the files of an experiment's modules anew; names: as above."""
    for name, module in experiment_modules(names).items():
        del sys.modules[name]
        # An edit within the second that does not change the length would leave it in use.
        with suppress(OSError):
            os.unlink(getattr(module, "__cached__", None) or "")
    importlib.invalidate_caches()


def callable_name(function: Callable | None) -> str:
    """``module:function``; a partial has its function's, another callable object its type's.

    >>> callable_name(functools.partial(load_callable, "json:loads"))
    'agentrl.callables:load_callable'
    """
    if function is None:
        return "None"
    inner = underlying(function)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}:{named.__qualname__}"


def named_like(function: Callable, name: str) -> Callable:
    """The function, of which ``callable_name`` says the name of what it stands for."""
    function.__module__, _, function.__qualname__ = name.partition(":")
    return function


def underlying(function: Callable) -> Callable:
    """What a partial calls in the end; another callable is itself."""
    while isinstance(function, functools.partial):
        function = function.func
    return function
