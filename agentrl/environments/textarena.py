"""TextArena's games: ``textarena:KuhnPoker-v0?num_players=2&player_1=random``.

Players are player_0, player_1 ..., the only one is the agent; ``random`` plays itself, by what is
offered in brackets. Without ``num_players`` there are as few as the game begins with. Other options
are the game's. Rewards come at the end; it is a success where the first player that is not random
has more than 0 and no other has more, or, alone, full marks: FrozenLake's holes pay, too.
"""

import re
from random import Random
from random import seed as seed_globally
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.requirement import required
from agentrl.environments.textarena_turn import next_turn

NUM_PLAYERS = range(1, 7)


class TextArena:
    def __init__(self, name: str, /, num_players: int | None = None, **options: Any):
        textarena = required("textarena", "textarena==0.7.4")
        players = {key: options.pop(key) for key in [*options] if re.fullmatch(r"player_\d+", key)}
        if not {*players.values()} <= {"random"}:
            raise ValueError(f"textarena:{name}: a player is random, or a model if it is not named")
        self._random, error = {*players}, None
        for self._num_players in [num_players] if num_players else NUM_PLAYERS:
            try:
                self._game = textarena.make(name, **options)
                return self._game.reset(num_players=self._num_players, seed=0)
            # No key, no corpus, newer syntax, another number of players: each says so in its way.
            except Exception as raised:
                error = raised if error is None or isinstance(error, AssertionError) else error
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"textarena:{name}: {cause}") from error

    def reset(self, task: dict, seed: int) -> Observation:
        """The task's seed decides the game, the episode's what chance does in it."""
        self._game.reset(num_players=self._num_players, seed=task.get("seed", seed))
        seed_globally(seed)
        self._rng, self._offers, self._is_over = Random(seed), {}, False
        return self._until_asked()

    def step(self, action: Action) -> Observation:
        try:
            self._is_over, _ = self._game.step(action=str(action))
        except Exception as error:
            return self._asked(f"The game cannot take that: {error}"[:300], is_refused=True)
        return self._until_asked()

    def _until_asked(self) -> Observation:
        while not self._is_over:
            number, text, offered = next_turn(self._game)
            self._player = self._name(number)
            # What was offered before still is, until something else will be.
            self._offers[self._player] = offered or self._offers.get(self._player, [])
            if self._player not in self._random:
                return self._asked(text)
            move = self._rng.choice(self._offers[self._player] or [""])
            self._is_over, _ = self._game.step(action=move)
        return self._end()

    def _asked(self, text: str, **rest: Any) -> Observation:
        offered = self._offers[self._player]
        return Observation(text=text, player=self._player, actions=offered, **rest)

    def _name(self, number: int) -> str:
        return "agent" if self._num_players == 1 else f"player_{number}"

    def _end(self) -> Observation:
        rewards = self._game.close()[0] or {}
        # Some games take the words about an invalid move for its reward.
        earned = {self._name(n): float(-1 if type(r) is str else r) for n, r in rewards.items()}
        own = [earned[name] for name in sorted(earned) if name not in self._random]
        most = max(earned.values()) if len(earned) > 1 else 1
        won = bool(own) and own[0] >= most > 0
        return Observation(text="", reward=earned, done=True, success=won)


load = TextArena
