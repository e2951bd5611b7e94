"""Frozen lake: what a person would say of a move, players that know the way, and what is told."""

import random
from collections import deque
from functools import cache
from statistics import fmean, pstdev

import numpy as np
import pytest

from experiments import frozen_lake
from experiments.frozen_lake import MOST_MOVES, MOVES, Lake

OPEN = {"ice": "dry", "map": ["FFFF", "FSFF", "FFFF", "FFHG"]}
LEFT, DOWN, RIGHT, UP = 4, 9, 6, 1
NONE = 5
"""Where each leads from the second cell of the second row; what is no move leads nowhere."""
AWKWARD = [
    ("left", LEFT),
    ("LEFT", LEFT),
    (" Left\n", LEFT),
    ("left.", LEFT),
    ("(left)", LEFT),
    ("**left**", LEFT),
    ("`left`", LEFT),
    ('"left"', LEFT),
    ("left!!!", LEFT),
    ("left left left", LEFT),
    ("I go left", LEFT),
    ("not right, left", LEFT),
    ("Right is a hole, so I go: left", LEFT),
    ("<answer>left</answer>", LEFT),
    ('{"move": "down"}', DOWN),
    ("move=down;", DOWN),
    ("1. down", DOWN),
    ("\\boxed{down}", DOWN),
    ("\t\u00a0down\u200b", DOWN),
    ("right/up -> up", UP),
    ("up\x00", UP),
    ("x" * 100_000 + " up", UP),
    ("right-hand", RIGHT),
    ("right\u2026", RIGHT),
    ("right,down,right", RIGHT),
    ("", NONE),
    ("   ", NONE),
    ("west", NONE),
    ("0", NONE),
    ("l", NONE),
    ("\u2190", NONE),
    ("links", NONE),
    ("stay", NONE),
    ("lef t", NONE),
    ("l e f t", NONE),
    ("leftwards", NONE),
    ("upright", NONE),
    ("downtown", NONE),
    ("leftleft", NONE),
    ("\uff4c\uff45\uff46\uff54", NONE),
    ("None", NONE),
    ("Answer with one of", NONE),
]


@pytest.mark.parametrize(("said", "cell"), AWKWARD)
def test_an_awkward_move(said, cell):
    world = Lake()
    world.reset(OPEN, 0)
    seen = world.step(said)
    assert (world.state, seen.is_refused) == (cell, cell == NONE)
    assert (seen.done, seen.reward) == (False, 0.0)


def test_what_is_told():
    world = Lake()
    assert world.reset(OPEN, 0).text.splitlines() == [
        "Go from S to G over dry ice, around the holes H. "
        "Answer with one of left, down, right, up.",
        *("F F F F", "F S F F", "F F F F", "F F H G"),
        "left ice, down ice, right ice, up ice; goal 2 down 2 right",
    ]
    for move in ("down", "right", "right"):
        told = world.step(move).text
    assert told == "left ice, down goal, right edge, up ice; goal 1 down 0 right"


@pytest.mark.parametrize(
    ("moves", "reward", "is_success"),
    [
        (["right", "right", "down", "down"], 1.0, True),
        (["right", "down", "down"], 0.0, False),
        (["left"] * MOST_MOVES, 0.0, False),
    ],
)
def test_the_goal_alone_is_a_success(moves, reward, is_success):
    world = Lake()
    world.reset(OPEN, 0)
    *before, last = [world.step(move) for move in moves]
    assert not any(seen.done or seen.reward for seen in before)
    assert (last.done, last.reward, last.success) == (True, reward, is_success)


@cache
def tasks():
    train, held_out = frozen_lake.tasks(frozen_lake.DataConfig())
    return train, *held_out.values()


def test_no_map_is_on_both_sides_and_each_has_its_size():
    assert [*map(len, tasks())] == [2000, 200, 200]
    train, dry, slippery = ({tuple(task["map"]) for task in of} for of in tasks())
    assert [*map(len, (train, dry, slippery))] == [2000, 200, 200]
    assert train.isdisjoint(dry | slippery)
    assert {(task["ice"], len(task["map"])) for task in tasks()[0]} == {("dry", 4), ("slippery", 6)}


def walked(rows: list[str]) -> list[str]:
    """The shortest way from S to G, breadth first."""
    cells = {(r, c): mark for r, row in enumerate(rows) for c, mark in enumerate(row)}
    start = next(at for at, mark in cells.items() if mark == "S")
    ways, todo = {start: []}, deque([start])
    while todo:
        at = todo.popleft()
        if cells[at] == "G":
            return ways[at]
        for move, (down, right) in MOVES.items():
            to = at[0] + down, at[1] + right
            if cells.get(to, "H") != "H" and to not in ways:
                ways[to] = [*ways[at], move]
                todo.append(to)
    raise AssertionError("there is no way")


def test_who_knows_the_way_always_comes_to_the_goal_of_dry_ice():
    world = Lake()
    for task in tasks()[1]:
        way = walked(task["map"])
        world.reset(task, 0)
        *before, last = [world.step(move) for move in way]
        assert not any(seen.done for seen in before)
        assert (last.success, last.reward) == (True, 1.0)
        assert turns(world, task, frozen_lake.best_moves(task), seed=0) == (1.0, len(way))


def turns(world: Lake, task, best, seed: int) -> tuple[float, int]:
    """What the best moves earn in a game, and in how many moves."""
    number = 0
    seen = world.reset(task, seed)
    while not seen.done:
        seen, number = world.step(best[number][world.state]), number + 1
    return seen.reward, number


def values(task) -> tuple[float, float]:
    """How likely the best moves come to the goal in time, and the best that anybody can do."""
    odds, rewards = frozen_lake.chances(task)
    cells = range(len(rewards))
    own, best = np.zeros(len(cells)), np.zeros(len(cells))
    for said in reversed(frozen_lake.best_moves(task)):
        moves = [[*MOVES].index(move) for move in said]
        own = (rewards + odds @ own)[cells, moves]
        best = (rewards + odds @ best).max(1)
    return own[0], best[0]


def test_value_iteration_is_worth_on_slippery_ice_what_it_says():
    some, rng, world = tasks()[2][:20], random.Random(0), Lake()
    own, best = np.array([values(task) for task in some]).T
    assert own == pytest.approx(best, abs=2e-3)
    games = [
        [turns(world, task, plan, rng.getrandbits(32))[0] for _ in range(30)]
        for task, plan in zip(some, map(frozen_lake.best_moves, some), strict=True)
    ]
    error = fmean(pstdev(of) ** 2 for of in games) ** 0.5 / 600**0.5
    assert abs(np.mean(games) - own.mean()) < 1.96 * error
    assert 0.5 < own.mean() < 0.95


def test_half_of_the_transcripts_are_played_well():
    some, rng = tasks()[0][:100], random.Random(1)
    games = [frozen_lake.transcript(task, rng) for task in some]
    ways = [len(walked(task["map"])) for task in some]
    said = [[m["content"] for m in game if m["role"] == "assistant"] for game in games]
    well = [len(moves) == way for moves, way in zip(said, ways, strict=True)]
    assert 0.4 < fmean(well) < 0.65
