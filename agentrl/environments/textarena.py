"""TextArena's games: ``textarena:KuhnPoker-v0?num_players=2&player_1=random``.

Players are player_0, player_1 ..., the only one is the agent; ``random`` plays itself, by what is
offered in brackets. Without ``num_players`` there are as few as the game begins with. Other options
are the game's. Rewards come at the end; it is a success where the first player that is not random
has more than 0 and no other has more, or, alone, full marks: FrozenLake's holes pay, too.
"""

import re
from functools import cache, partial
from random import Random
from random import seed as seed_globally
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.query import parsed
from agentrl.environments.requirement import required

MOST_PLAYERS = 6
MOVE = re.compile(r"\[(?!Player|GAME)[^\[\]\n]{1,40}\]")


def load(what: str) -> partial:
    return partial(TextArena, what)


class TextArena:
    def __init__(self, what: str):
        self._game, self._random, self._num_players = _made(what)

    def reset(self, task: dict, seed: int) -> Observation:
        """The task's seed decides the game, the episode's what chance does in it."""
        self._game.reset(num_players=self._num_players, seed=task.get("seed", seed))
        seed_globally(seed)
        self._rng, self._offers, self._is_over = Random(seed), {}, False
        return self._until_asked()

    def step(self, action: Action) -> Observation:
        try:
            self._move(str(action))
        except Exception as error:
            return self._asked(f"The game cannot take that: {error}"[:300])
        return self._until_asked()

    def close(self) -> None:
        """Its process ends."""

    def _move(self, action: str) -> None:
        self._is_over, _ = self._game.step(action=action)

    def _until_asked(self) -> Observation:
        while not self._is_over:
            text = self._seen()
            if self._player not in self._random:
                return self._asked(text)
            self._move(self._rng.choice(self._offers.get(self._player, [""])))
        return self._end()

    def _asked(self, text: str) -> Observation:
        offered = self._offers.get(self._player, ())
        return Observation(text=text, player=self._player, actions=offered)

    def _seen(self) -> str:
        """What is new to whoever's turn it is; a wrapper would tell everything from the start."""
        inner = self._game
        while hasattr(inner, "env"):
            inner = inner.env
        number, messages = inner.get_observation()
        self._player, roles = self._name(number), inner.state.role_mapping
        for by, said, kind in messages:
            if (
                by == -1
                and kind.name != "GAME_ACTION_DESCRIPTION"
                and (moves := MOVE.findall(said))
            ):
                self._offers[self._player] = [*dict.fromkeys(moves)]
        return "\n".join(
            said if by == -1 else f"[{roles.get(by, by)}] {said}"
            for by, said, _ in messages
            if by != number
        )

    def _name(self, number: int) -> str:
        return "agent" if self._num_players == 1 else f"player_{number}"

    def _end(self) -> Observation:
        rewards, _ = self._game.close()
        # Some games take the words about an invalid move for its reward.
        by_name = {
            self._name(number): -1.0 if isinstance(reward, str) else float(reward)
            for number, reward in (rewards or {}).items()
        }
        first, *others = sorted(by_name, key=lambda name: (name in self._random, name)) or [""]
        best = max((by_name[name] for name in others), default=1.0)
        own = by_name.get(first, 0.0)
        won = own > 0 and own >= best
        return Observation(text="", reward=by_name, done=True, success=won)


@cache
def _made(what: str) -> tuple[Any, set[str], int]:
    """A game that begins, the names of random players, and how many there are."""
    textarena = required("textarena", "textarena==0.7.4")
    name, options = parsed(what)
    wanted = options.pop("num_players", None)
    players = {key: options.pop(key) for key in [*options] if re.fullmatch(r"player_\d+", key)}
    if not {*players.values()} <= {"random"}:
        raise ValueError(f"textarena:{what}: a player is random, or a model if it is not named")
    # No key, no corpus, newer syntax, another number of players: a game says so in its own way.
    error: Exception | None = None
    for number in [wanted] if wanted else range(1, MOST_PLAYERS + 1):
        try:
            game = textarena.make(name, **options)
            game.reset(num_players=number, seed=0)
            return game, {*players}, number
        except Exception as raised:
            error = raised if error is None or isinstance(error, AssertionError) else error
    cause = " ".join(str(error).split())[:300]
    raise ValueError(f"textarena:{name}: {type(error).__name__}: {cause}") from error
