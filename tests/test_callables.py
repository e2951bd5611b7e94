"""Callables by name, and names of callables."""

from functools import partial

import pytest

from agentrl.callables import callable_name, load_callable, load_module


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
