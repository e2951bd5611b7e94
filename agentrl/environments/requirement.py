"""Packages that one environment alone needs, which may be missing."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def required(module: str, requirement: str, is_here: bool = True) -> ModuleType | None:
    """The module; None, where another process will import it: this one does not.

    Raises ValueError with the line that installs it, where it is missing.
    """
    try:
        if is_here:
            return import_module(module)
        if find_spec(module) is None:
            raise ModuleNotFoundError(name=module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install {requirement}") from error
