"""Any environment by its name: what its tiny model is made of, and what it cannot be made of."""

from pathlib import Path

import pytest

from agentrl.config import DataConfig
from experiments import environment

WORLDS = str(Path(__file__).parents[1] / "environments" / "worlds.py")
LAKE = "gymnasium:FrozenLake-v1?is_slippery=false"


def silent(share: float, note: str) -> None:
    pass


def test_the_best_games_are_learned_from(monkeypatch):
    given = []
    monkeypatch.setattr(environment, "GAMES", 512)
    monkeypatch.setattr(environment, "make_tiny_model", lambda *all: given.append(all))
    environment.make_model(silent, data=DataConfig(env=LAKE))
    environment.make_model(silent, data=DataConfig(env=LAKE))
    (recipe, games, tools, _), again = given
    assert (recipe, tools, games) == (environment.RECIPE, [], again[1])
    # Who came to the goal was shown it right before: in every game of the best, four times.
    won = [game for game in games if game[-2]["content"].endswith("HF[F]G")]
    assert len(games) > len({str(game) for game in games}) > 60
    assert len(won) >= 4 * len({str(game) for game in won if game[-1]["content"] == "right"}) > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (None, "no environment is named: give --env, such as gymnasium:FrozenLake-v1"),
        ("mcp:cat", "no game can be played at random .*a task has no question.*--model.path"),
        (f"{WORLDS}:Odd", "no game can be played at random .*KeyError: 'way'.*give --model.path"),
        (f"{WORLDS}:Mute", "Mute lists no legal actions to draw from: give --model.path"),
    ],
)
def test_what_no_model_can_be_made_of_is_a_sentence(name, sentence, monkeypatch):
    monkeypatch.setattr(environment, "GAMES", 256)
    with pytest.raises(ValueError, match=sentence):
        environment.make_model(silent, data=DataConfig(env=name))
