"""Werewolf for nine: three wolves, a seer, a witch, a hunter and three villagers.

At night the wolves take turns to kill, the seer learns one player's side, and the witch may save
whom they killed or poison somebody, each once. By day all who live speak in turn and then vote, by
secret ballot. The hunter may shoot as he dies. The wolves win once they are as many as the others,
the village once there are none or three days are over. Nobody is told a role but by what players
say.
"""

import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

WOLVES, VILLAGE = SIDES = "wolves", "village"
ROLES = (*["wolf"] * 3, "seer", "witch", "hunter", *["villager"] * 3)
MOST_WORDS, MOST_DAYS = 12, 3

Answer = Callable[[int, str, Sequence[str]], Awaitable[str]]
"""What a player says to what is new to him; the last: what he may choose of, or nothing."""


def chosen(said: str, offered: Sequence[str]) -> str | None:
    """The only thing named of what is offered; None where that is nothing, or several.

    >>> chosen("I vote 3!", ["1", "3"]), chosen("3 or 1", ["1", "3"]), chosen("13", ["1", "3"])
    ('3', None, None)
    """
    named = {*re.findall(r"[a-z]+|[0-9]+", said.lower())} & {*offered}
    return named.pop() if len(named) == 1 else None


def heard(said: str) -> str:
    """A speech in a line of few words, which can be taken for nobody else's.

    >>> heard("4 wolf!" + chr(10) + "6: <i>7</i>  is\\tgood"), heard(" ")
    ('4 wolf! 6 i 7 i is good', '...')
    """
    return " ".join(re.findall(r"[\w',.!?-]+", said)[:MOST_WORDS]) or "..."


class Werewolf:
    """A game among players whose answers are awaited; who is not understood does nothing."""

    def __init__(self, roles: Sequence[str], answer: Answer, rng: random.Random):
        self.roles, self._answer, self._rng = dict(enumerate(roles, 1)), answer, rng
        self.alive, self.potions = [*self.roles], {"save", "poison"}
        self.days = 0
        self.asked, self.refused = Counter(), Counter()
        """Choices by side, and those of them that named nothing that was offered."""
        self.votes: list[tuple[int, int]] = []
        """Of all days: who voted, and against whom."""
        self._news = {n: [f"you are {n}, {role}"] for n, role in self.roles.items()}
        pack = self._living("wolf")
        for wolf in pack:
            others = " ".join(str(other) for other in pack if other != wolf)
            self._tell(f"the other wolves are {others}", [wolf])

    async def play(self) -> str:
        """The side that wins."""
        while self.winner is None and self.days < MOST_DAYS:
            self.days += 1
            await self._night()
            if self.winner is None:
                await self._day()
        return self.winner or VILLAGE

    def side(self, player: int) -> str:
        return WOLVES if self.roles[player] == "wolf" else VILLAGE

    @property
    def winner(self) -> str | None:
        num_wolves = len(self._living("wolf"))
        if not num_wolves:
            return VILLAGE
        return WOLVES if 2 * num_wolves >= len(self.alive) else None

    async def _night(self) -> None:
        wolves = self._living("wolf")
        wolf = wolves[self.days % len(wolves)]
        killed = {await self._choose(wolf, "kill", set(self.alive) - set(wolves))} - {None}
        for seer in self._living("seer"):
            if checked := await self._choose(seer, "check", set(self.alive) - {seer}):
                kind = "wolf" if self.side(checked) == WOLVES else "good"
                self._tell(f"{checked} is {kind}", [seer])
        for witch in self._living("witch"):
            killed = await self._brewed(witch, killed)
        await self._bury(killed, f"night {self.days}: {_listed(killed)} died")

    async def _brewed(self, witch: int, killed: set[int]) -> set[int]:
        """Who dies when the witch has done what she wanted, one thing a night."""
        if killed and "save" in self.potions:
            question = f"{min(killed)} is killed, save"
            if await self._choose(witch, question, ["yes", "no"]) == "yes":
                self.potions.remove("save")
                return set()
        if "poison" in self.potions:
            others = set(self.alive) - {witch}
            if poisoned := await self._choose(witch, "poison", [*others, "no"]):
                self.potions.remove("poison")
                return killed | {poisoned}
        return killed

    async def _day(self) -> None:
        for player in self.alive:
            said = heard(await self._ask(player, "speak"))
            self._tell(f"{player}: {said}", set(self.alive) - {player})
        ballots = [
            (voter, await self._choose(voter, "vote", {*self.alive} - {voter}))
            for voter in self.alive
        ]
        votes = [(voter, out) for voter, out in ballots if out]
        self.votes += votes
        counts = Counter(out for _, out in votes)
        most = [player for player in sorted(counts) if counts[player] == max(counts.values())]
        # A tie is drawn.
        out = {self._rng.choice(most)} if most else set()
        await self._bury(out, f"day {self.days}: {_listed(out)} voted out")

    async def _bury(self, died: set[int], news: str) -> None:
        self.alive = [player for player in self.alive if player not in died]
        self._tell(news, self.roles)
        for hunter in died:
            if self.roles[hunter] == "hunter":
                shot = await self._choose(hunter, "shoot", [*self.alive, "no"])
                if shot:
                    await self._bury({shot}, f"{hunter} was the hunter and shot {shot}")

    async def _choose(
        self, player: int, what: str, offered: Iterable[int | str]
    ) -> int | str | None:
        """What is chosen: who lives, as a number; None for no, or for what was not offered."""
        words = sorted(map(str, offered))
        named = chosen(await self._ask(player, f"{what} {' '.join(words)}", words), words)
        self.asked[self.side(player)] += 1
        self.refused[self.side(player)] += named is None
        if named and named.isdigit():
            return int(named)
        return None if named == "no" else named

    async def _ask(self, player: int, question: str, offered: Sequence[str] = ()) -> str:
        text = "\n".join([*self._news[player], question])
        self._news[player] = []
        return await self._answer(player, text, offered)

    def _tell(self, news: str, players: Iterable[int]) -> None:
        for player in players:
            self._news[player].append(news)

    def _living(self, role: str) -> list[int]:
        return [player for player in self.alive if self.roles[player] == role]


def _listed(players: set[int]) -> str:
    return " ".join(map(str, sorted(players))) or "nobody"
