"""Modules that stand in for what a trainer imports and its formulas do not need."""

import ast
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Anything:
    """Callable, subclassable, a decorator."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        # A bare decorator keeps the function.
        is_decorator = len(args) == 1 and not kwargs and callable(args[0])
        return args[0] if is_decorator else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __class_getitem__(cls, item):
        return cls

    def __mro_entries__(self, bases):
        return (object,)

    def __or__(self, other):
        return self

    __ror__ = __or__


class Stub(types.ModuleType):
    """A module that has whatever is asked of it."""

    def __init__(self, name: str, **attributes: Any):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        vars(self).update(attributes)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Settings(types.SimpleNamespace):
    """Attributes, ``get`` and ``[]``; what is not there is None."""

    def get(self, name, default=None):
        return vars(self).get(name, default)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None

    def __getitem__(self, name):
        return vars(self)[name]

    def __contains__(self, name):
        return name in vars(self)


def stub(*names: str, **attributes: Any) -> None:
    """Let the import of a package succeed, unless it is installed."""
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = Stub(name, **attributes)


def fake(*names: str, **attributes: Any) -> None:
    """Replace modules of a bare package."""
    for name in names:
        sys.modules[name] = Stub(name, **attributes)


def bare(root: Path, *names: str) -> None:
    """Make packages of a folder importable without running their ``__init__``."""
    for name in names:
        folder = root / name.replace(".", "/")
        assert folder.is_dir(), folder
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module


def pick(path: Path, wanted: Sequence[str], **names: Any) -> types.ModuleType:
    """A module of these functions and classes of a file alone. names: what they refer to."""
    tree = ast.parse(path.read_text())
    body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    assert len(body) == len(wanted), f"{path} has only {[node.name for node in body]}"
    for node in body:
        kept = [d for d in node.decorator_list if ast.unparse(d) == "staticmethod"]
        node.decorator_list = kept
    module = types.ModuleType(path.stem)
    vars(module).update(names)
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *body], []), str(path), "exec"), vars(module))
    return module
