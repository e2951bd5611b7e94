"""TextArena: games of one, two and six players to their end, and what odd moves do."""

import asyncio
import random
import sys

import pytest

from agentrl.environments.game import game
from agentrl.environments.named import environment, load_environment
from agentrl.environments.random_play import random_play
from tests.support.families import QWEN25
from tests.support.playing import Saying, played
from tests.support.spy import Scripted

LAKE = "textarena:FrozenLake-v0?size=3&num_holes=1"


@pytest.fixture(autouse=True)
def generator_is_pytests():
    """The games seed the process's own."""
    state = random.getstate()
    yield
    random.setstate(state)


def ended(name: str, *said: str, **by_player):
    """A game's last observation, and its players; said: by each of them."""
    players: dict = {}
    world = load_environment(f"textarena:{name}")()
    seen = game(world, {"seed": 3}, 0, lambda one: Saying(by_player.get(one, said)), players)
    return asyncio.run(seen), players


def test_a_game_of_one_and_a_hole_that_pays_is_no_success():
    there = ("[down]", "[down]", "[right]", "[right]")
    for said, reward in [(there, 1.0), (("[right]", "[right]"), 0.5)]:
        episode = played({"env": LAKE, "seed": 3}, *said)
        assert (episode.status, episode.reward) == ("ok", reward), episode.error
        assert episode.success == (reward == 1.0)
        assert [call.reward for call in episode.calls] == [None] * (len(said) - 1) + [reward]


def test_players_take_turns_and_earn_at_the_end():
    moves = ["[0]", "[3]", "[1]", "[4]", "[2]"]
    episode = played({"env": "textarena:TicTacToe-v0", "seed": 0}, *moves)
    assert (episode.status, episode.success) == ("ok", True), episode.error
    assert episode.reward == {"player_0": 1.0, "player_1": -1.0}
    names = [f"player_{number}" for number in (0, 1, 0, 1, 0)]
    assert [(call.agent, call.reward) for call in episode.calls] == [
        *zip(names, [None, None, None, -1.0, 1.0], strict=True)
    ]
    # Each is told what is new to it, and not its own move.
    last = episode.calls[-1].messages[-1]["content"]
    assert last.startswith("Player 0 placed their symbol (O) in cell 1.")
    assert "[Player 1] [4]" in last
    assert "[Player 0]" not in last


def test_a_frozen_player_is_an_auxiliary_model():
    other = Scripted(QWEN25)
    for move in ("[3]", "[4]"):
        other.says(move)
    task, frozen = {"env": "textarena:TicTacToe-v0", "seed": 0}, {"player_1": other.client}
    episode = played(task, "[0]", "[1]", "[2]", auxiliary_models=frozen)
    assert (episode.reward, episode.success, len(other.calls)) == (1.0, True, 2)
    assert {call.agent for call in episode.calls} == {"player_0"}


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("KuhnPoker-v0?player_1=random", 20),
        ("KuhnPoker-v0?player_0=random", 20),
        ("TicTacToe-v0?player_1=random", 5),
        ("SecretMafia-v0?num_players=6&player_2=random&player_3=random", 60),
        ("GuessTheNumber-v0", 10),
    ],
)
def test_to_the_end_beside_random_players(name, most):
    end, players = ended(name)
    count = 6 if "Mafia" in name else 2 if "player" in name else 1
    assert end.done
    assert len(end.reward) == count
    assert not [one for one in players if f"{one}=random" in name]
    assert 1 <= sum(player.turns for player in players.values()) <= most
    best = max(end.reward.values())
    first = next(one for one in sorted(end.reward) if f"{one}=random" not in name)
    won = end.reward[first] == best if count > 1 else best == 1.0
    assert end.success == (won and best > 0)
    assert all(players[one].total == end.reward[one] for one in players)


def test_guesses_earn_by_how_near_they_are():
    halves = ended("GuessTheNumber-v0", *(f"[{number}]" for number in range(1, 11)))[0]
    wrong = ended("GuessTheNumber-v0", "[20]", "[20]", "[20]")[0]
    assert (halves.reward, halves.success) == ({"agent": 1.0}, True)
    assert 0 < wrong.reward["agent"] < 1
    assert not wrong.success


def test_one_seed_is_one_game_alone_and_beside_others():
    mafia = "textarena:SecretMafia-v0?num_players=6&player_5=random"

    async def one(seed: int):
        async with environment(mafia) as world:
            return await random_play(world, [{"seed": 4}], seed)

    async def beside():
        return await asyncio.gather(*(one(seed % 4) for seed in range(33)))

    alone = [asyncio.run(one(seed)) for seed in (0, 0, 1)]
    many = asyncio.run(beside())
    assert alone[0] == alone[1] == many[0] == many[32]
    assert alone[2] == many[1] != alone[0]
    # In the discussion nothing is offered, and nothing said.
    assert {said["content"] for _, messages, _ in alone[0] for said in messages[1::2]} <= {
        *("", *(f"[{number}]" for number in range(6)))
    }


@pytest.mark.parametrize("odd", ["", "x" * 100_000, "[[[", "\ud83d", "[9]", "[-1]"])
def test_odd_moves_are_answered_by_the_game(odd):
    end, players = ended("TicTacToe-v0", player_0=[odd, odd, odd])
    assert end.reward == {"player_0": -1.0, "player_1": 1.0}
    assert not end.success
    assert "attempted an invalid move" in players["player_0"].messages[2]["content"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Nothing-v0", "ValueError: Environment Nothing-v0 not found in registry"),
        ("Chess-v0", "SyntaxError: f-string"),
        ("TwentyQuestions-v0", "OpenRouter API key not found"),
        ("Hangman-v0", "LookupError: .* Resource 'words' not found"),
        ("KuhnPoker-v0?num_players=3", "The number of players has to be 2, received 3"),
        ("KuhnPoker-v0?player_1=clever", "a player is random, or a model if it is not named"),
        ("KuhnPoker-v0?color=red", "unexpected keyword argument 'color'"),
    ],
)
def test_what_cannot_be_played_is_a_sentence(name, cause):
    with pytest.raises(ValueError, match=cause):
        load_environment(f"textarena:{name}")()


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(ValueError, match="not installed: pip install textarena==0.7.4"):
        load_environment("textarena:Nim-v0")()
