"""Callables by name, and names of callables."""

import json
import threading
from functools import partial

import pytest

from agentrl.callables import (
    callable_name,
    experiment_modules,
    forget_modules,
    load_callable,
    load_module,
)
from agentrl.cli import parse, to_json


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


EXPERIMENT = """
import threading
from dataclasses import dataclass, field
from functools import partial
from agentrl.config import Config, ModelConfig

@dataclass
class Agent:
    style: str = "plain"
    lock: object = field(default_factory=threading.Lock)

    async def solve(self, task, model): ...
    async def __call__(self, task, model): ...
    def tasks(self, data): ...

agent = Agent()
config = Config(workflow=WORKFLOW, tasks=agent.tasks, model=ModelConfig(path="m"))
"""


@pytest.mark.parametrize(
    ("file", "workflow", "named"),
    [
        ("my-agent.py", "agent.solve", "Agent.solve"),
        ("my agent.py", "agent", "Agent"),
        ("ünï.v2/1st.agent.py", "partial(agent.solve)", "Agent.solve"),
        ("read only/agent.py", "partial(agent)", "Agent"),
    ],
)
def test_an_experiments_file_and_what_it_calls(tmp_path, monkeypatch, file, workflow, named):
    """Whatever its name is, and whatever its callables hold; they stand in config.json by name."""
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(EXPERIMENT.replace("WORKFLOW", workflow))
    # No bytecode can be written beside it, not even by root.
    (path.parent / "__pycache__").write_text("")
    for argv in (["--exp", str(path)], ["--exp", str(path), "--workflow", f"{path}:agent"]):
        config, _ = parse(argv, "")
        described = json.loads(to_json(config))
        name = "Agent" if "--workflow" in argv else named
        assert described["workflow"] == f"{path}:{name}"
        assert described["tasks"] == f"{path}:Agent.tasks"
        assert described["model"]["path"] == "m"
        assert described["algorithm"]["name"] == "GRPO"
        assert set(experiment_modules([described["workflow"]])) == {str(path)}
    forget_modules([str(path)])


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


def test_threads_that_load_one_file_all_see_the_whole_of_it(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.2)\ndef late(): return 1\n")
    found = []
    load = lambda: found.append(load_callable(f"{tmp_path}/slow.py:late"))  # noqa: E731
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one() for one in found] == [1] * 4
