"""docs/metrics.md describes what is logged, all of it, and nothing else."""

import ast
import re

import torch

from agentrl.agents.contract import RESERVED
from agentrl.algorithms import GRPO
from agentrl.learning.packing import pack
from agentrl.learning.ranks import Ranks
from agentrl.runs.evaluation import task_metrics
from agentrl.runs.metrics import Clock, episode_metrics, token_metrics
from agentrl.runs.tally import Tally
from agentrl.signals import Signals
from agentrl.types import Call, Episode, Group, Sample
from tests.support.checkout import ROOT
from tests.support.metrics_page import LINE, described, page
from tests.support.terms import make_terms


def named_in_training() -> set[str]:
    """What train.py and rollout.py name: keys of dicts, entries of ``metrics``, phases."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / "train.py").read_text())):
        if isinstance(node, ast.Dict):
            names |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            names.add(node.slice.value)
    source = (ROOT / "train.py").read_text() + (ROOT / "rollout.py").read_text()
    phases = set(re.findall(r'run\.phase\("(\w+)"\)', source)) - {"load"}
    return names | {f"time/{phase}_seconds" for phase in phases} | {"step"}


def test_the_page_and_the_code_agree():
    call = Call(prompt_ids=[1], completion_ids=[2], logprobs=[-0.1], agent="solver")
    episode = Episode(
        task={"id": "t"},
        index=0,
        calls=(call,),
        reward={"solver": 1.0},
        success=True,
        metrics={"habit/own": 1.0},
        parts={"right": 1.0},
    )
    groups = [Group(episode.task, (episode,))]
    of_episodes = set(episode_metrics(groups)) - {"habit/own"}
    general = {"reward/solver": "reward/AGENT", "reward/parts/right": "reward/parts/PART"}
    assert {general.get(name, name) for name in of_episodes} == page()["Episodes"]
    of_tasks = task_metrics([Group(episode.task, (episode,) * 8)] * 2)
    assert {re.sub(r"@\d+", "@K", name) for name in of_tasks} == page()["Evaluation"]
    assert set(token_metrics(groups, [Sample(call, 0.0)], 2)) == page()["Tokens"]
    of_update = set(of_one_update(groups, call)) - of_episodes - page()["Tokens"]
    named = of_update | named_in_training() | set(Clock().metrics())
    assert named == page()["The row"] | page()["Update"] | page()["Time"] | {"habit/own"}


def of_one_update(groups: list[Group], call: Call) -> dict:
    sample = Sample(call, 1.0)
    (micro,) = pack([sample], budget=8)
    tally, terms = Tally(GRPO()), make_terms(torch.zeros(1), [0.0], [1.0])
    tally.begin(groups, [sample])
    tally.weigh([sample], 1.0)
    losses = GRPO().loss(terms)
    tally.add([sample], micro, terms, losses, losses.values.sum())
    ranks = Ranks("float32", Signals())
    tally.stepped(torch.tensor(0.5), ranks)
    return tally.gather(ranks)


def test_nothing_is_described_twice():
    names = LINE.findall((ROOT / "docs" / "metrics.md").read_text())
    assert len(names) == len({name for name, *_ in names}) == sum(map(len, page().values()))


def test_nobody_may_call_a_metric_so():
    """But for agents' names: ``AGENT`` stands for any."""
    assert all(RESERVED.fullmatch(name) for name in described() | page()["Evaluation"])
    assert not any(RESERVED.fullmatch(name) for name in ("habit/x", "checker/given", "losses"))
