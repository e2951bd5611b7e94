"""Callables by name, and names of callables."""

from functools import partial

import pytest

from agentrl.callables import (
    callable_name,
    experiment_modules,
    forget_modules,
    load_callable,
    load_module,
)


class Judge:
    def __call__(self): ...

    def judge(self): ...


def test_every_callable_has_a_name():
    """A partial has its function's, an object its type's, as each stands in config.json."""
    callables = (
        *(None, test_every_callable_has_a_name, Judge, Judge(), Judge().judge),
        *(partial(partial(load_callable, "json:loads")), partial(Judge())),
    )
    here = __name__
    assert [callable_name(one) for one in callables] == [
        *("None", f"{here}:test_every_callable_has_a_name", f"{here}:Judge", f"{here}:Judge"),
        *(f"{here}:Judge.judge", "agentrl.callables:load_callable", f"{here}:Judge"),
    ]


def test_a_file_is_imported_once(tmp_path):
    (tmp_path / "mine.py").write_text("solve = object\n")
    module = load_module(f"{tmp_path}/mine.py")
    assert load_module(f"{tmp_path}/../{tmp_path.name}/mine.py") is module
    assert load_callable(f"{tmp_path}/mine.py:solve") is object
    with pytest.raises(ValueError, match="mine.py has no function 'solv': did you mean solve?"):
        load_callable(f"{tmp_path}/mine.py:solv")


def test_which_modules_are_an_experiments(tmp_path):
    """What lies beside its file, or in its package; none of ours and none that is installed."""
    for name, text in {
        "experiment_of_mine.py": "import json, numpy, agentrl.types, beside_me.deep, kernels",
        "beside_me/__init__.py": "",
        "beside_me/deep.py": "import tests.support.running, loose_namespace.far",
        "loose_namespace/far.py": "X = 1",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    file = str(tmp_path / "experiment_of_mine.py")
    module = load_module(file)
    beside = {"beside_me", "beside_me.deep", "loose_namespace.far"}
    assert set(experiment_modules([file])) == {file, *beside}
    assert set(experiment_modules(["beside_me.deep:solve"])) == {"beside_me", "beside_me.deep"}
    nothing = ["json:loads", "numpy:mean", "agentrl.types:Call", "sys:exit", "absent.here:it"]
    assert experiment_modules(nothing) == {}
    forget_modules([file])
    assert experiment_modules([file]) == {}
    (tmp_path / "loose_namespace" / "far.py").write_text("X = 2")
    again = load_module(file)
    assert again is not module
    assert again.beside_me.deep.loose_namespace.far.X == 2
    assert again.kernels is module.kernels
