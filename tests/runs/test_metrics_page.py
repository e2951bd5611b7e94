"""docs/metrics.md describes what is logged, all of it, and nothing else."""

import ast
import re
from pathlib import Path

import torch

from agentrl.agents.contract import RESERVED
from agentrl.learning.loss import policy_loss
from agentrl.types import Call, Episode, Group, Sample
from agentrl.runs.metrics import Clock, Tally, episode_metrics, token_metrics

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"\| `(\S+)` \| (.+) \| (.+) \|")


def page() -> dict[str, set[str]]:
    """The metrics of each table, by its title."""
    tables = (ROOT / "docs" / "metrics.md").read_text().split("\n## ")[1:]
    return {text.partition("\n")[0]: {m[1] for m in LINE.finditer(text)} for text in tables}


def described() -> set[str]:
    """Every metric that the page knows, an agent's name being AGENT."""
    return set().union(*page().values()) | {f"eval/{name}" for name in page()["Episodes"]}


def named_in_training() -> set[str]:
    """What train.py itself names: keys of its dicts, entries of ``metrics``, parts of a clock."""
    functions = {
        f.name: f for f in ast.parse((ROOT / "train.py").read_text()).body if is_function(f)
    }
    names = set()
    for node in [node for name in ("train", "update") for node in ast.walk(functions[name])]:
        if isinstance(node, ast.Dict):
            names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            names.add(node.slice.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "clock":
            names.add(f"time/{node.args[0].value}_seconds")
    return names


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def test_the_page_and_the_code_agree():
    call = Call(prompt_ids=[1], completion_ids=[2], logprobs=[-0.1], agent="solver")
    episode = Episode(
        task={"id": "t"},
        index=0,
        calls=(call,),
        reward={"solver": 1.0},
        success=True,
        metrics={"habit/own": 1.0},
    )
    groups = [Group(episode.task, (episode,))]
    of_episodes = set(episode_metrics(groups)) - {"habit/own"}
    assert {name.replace("solver", "AGENT") for name in of_episodes} == page()["Episodes"]
    assert set(token_metrics(groups, [Sample(call, 0.0)], 2)) == page()["Tokens"]
    tally, one = Tally(), torch.zeros(1)
    bounds = {"clip_low": 0.2, "clip_high": 0.2, "importance_sampling_cap": 2.0}
    tally.add(policy_loss(one, one, one, **bounds), one, one, one)
    of_update = set(Tally.metrics([tally])) | named_in_training()
    assert (
        of_update | set(Clock().metrics()) == page()["The row"] | page()["Update"] | page()["Time"]
    )


def test_nothing_is_described_twice():
    names = LINE.findall((ROOT / "docs" / "metrics.md").read_text())
    assert len(names) == len({name for name, *_ in names}) == sum(map(len, page().values()))


def test_nobody_may_call_a_metric_so():
    """But for agents' names: ``AGENT`` stands for any."""
    assert all(RESERVED.fullmatch(name) for name in described())
    assert not any(RESERVED.fullmatch(name) for name in ("habit/x", "checker/given", "losses"))
