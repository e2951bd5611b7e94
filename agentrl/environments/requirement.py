"""Packages that one environment alone needs, which may be missing."""

import importlib
import importlib.util
from types import ModuleType


def required(module: str, requirement: str) -> ModuleType:
    """The module. Raises ValueError with the line that installs it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install {requirement}") from error


def require(module: str, requirement: str) -> None:
    """The same of a module that another process will import: this one does not."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{module} is not installed: pip install {requirement}")
