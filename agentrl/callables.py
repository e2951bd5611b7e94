"""Callables by name: ``package.module:function`` or ``path/file.py:function``, and the reverse."""

import difflib
import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
"""The checkout."""


def load_callable(spec: str) -> Callable:
    """The function that ``package.module:function`` or ``path/file.py:function`` names."""
    module_name, colon, name = spec.rpartition(":")
    if not colon:
        raise ValueError(f"{spec!r} names no function: write package.module:function")
    module = load_module(module_name)
    if not callable(getattr(module, name, None)):
        functions = [known for known, value in vars(module).items() if callable(value)]
        raise ValueError(f"{module_name} has no function {name!r}{_nearest(name, functions)}")
    return getattr(module, name)


def load_module(name: str) -> ModuleType:
    """Import ``package.module``, or the file at ``path/file.py``; once, however often it is asked.

    Raises ValueError with the lines at fault, where it cannot be imported.
    """
    if name.endswith(".py") and not Path(name).is_file():
        raise ValueError(f"there is no file {name}")
    try:
        return _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except (Exception, SystemExit) as error:
        cause = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}"
        raise ValueError(f"cannot import {name} ({cause}){_lines_at_fault(error)}") from error


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


def _lines_at_fault(error: BaseException) -> str:
    """The part of a traceback that an experiment's author wrote."""
    ours = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<")
    frames = traceback.extract_tb(error.__traceback__)
    lines = traceback.format_list([f for f in frames if not f.filename.startswith(ours)])
    if isinstance(error, SyntaxError):
        lines += traceback.format_exception_only(error)[:-1]
    return "".join(["\n", *lines]).rstrip()


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


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


def underlying(function: Callable) -> Callable:
    """What a partial calls in the end; another callable is itself."""
    while isinstance(function, functools.partial):
        function = function.func
    return function
