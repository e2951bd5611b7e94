"""Players of a script, good and bad, who know what they were shown and nothing else."""

import random
import re
from collections.abc import Sequence

PASSES = 0.6
"""How often one who plays badly names nothing, where he is to choose."""


class WerewolfScript:
    """One who plays well with the probability ``skill``, each time he is asked anew."""

    def __init__(self, skill: float, rng: random.Random):
        self._skill, self._rng, self._shown = skill, rng, ""

    def answer(self, text: str, offered: Sequence[str]) -> str:
        self._shown += f"{text}\n"
        what = re.findall(r"(?:kill|check|save|poison|speak|vote|shoot)", text)[-1]
        if self._rng.random() < self._skill:
            return self._speech() if what == "speak" else self._good(what, [*offered])
        if what == "speak":
            return self._rng.choice(["pass", f"{self._rng.randint(1, 9)} wolf"])
        return "pass" if self._rng.random() < PASSES else self._rng.choice(offered)

    def _good(self, what: str, offered: list[str]) -> str:
        """A choice that serves the player's side."""
        if what == "save":
            return "yes"
        if what == "check":
            return self._one({*offered} - {*self._found("wolf|good")}, offered)
        if what == "kill":
            return self._one(self._seers, offered)
        others = [one for one in offered if one not in self._friends | {"no"}]
        if self._is_wolf:
            return self._one(self._accused, others)
        suspects = [*self._denounced, *self._found("wolf")]
        return self._last(suspects, others) or (
            self._rng.choice(others) if what == "vote" else "no"
        )

    def _speech(self) -> str:
        if self._is_wolf:
            return f"{self._one(self._accused, [*(set('123456789') - self._friends)])} wolf"
        if found := re.findall(r"^(\d) is (wolf|good)$", self._shown, re.M):
            # A wolf before what is good, the last before what is older.
            number, kind = max(found[::-1], key=lambda one: one[1] == "wolf")
            return f"seer {number} {kind}"
        return f"{self._denounced[-1]} wolf" if self._denounced else "pass"

    def _one(self, wanted: set[str], offered: list[str]) -> str:
        """One of those that are wanted, where one is offered; else any."""
        return self._rng.choice(sorted(wanted & {*offered}) or sorted(offered))

    def _last(self, wanted: Sequence[str], offered: list[str]) -> str | None:
        return next((one for one in wanted[::-1] if one in offered), None)

    @property
    def _is_wolf(self) -> bool:
        return "wolves are" in self._shown

    @property
    def _friends(self) -> set[str]:
        """A wolf's pack, himself included."""
        told = re.search(r"you are (\d), wolf\nthe other wolves are (.*)", self._shown)
        return {told[1], *told[2].split()} if told else set()

    @property
    def _seers(self) -> set[str]:
        return {*re.findall(r"^(\d): seer", self._shown, re.M)}

    @property
    def _denounced(self) -> list[str]:
        """By those who said that they are the seer."""
        return re.findall(r"^\d: seer (\d) wolf", self._shown, re.M)

    @property
    def _accused(self) -> set[str]:
        """By anybody."""
        return {*re.findall(r"^\d: (?:seer )?(\d) wolf", self._shown, re.M)} - self._friends

    def _found(self, kinds: str) -> list[str]:
        """Whom a seer has checked."""
        return re.findall(rf"^(\d) is (?:{kinds})$", self._shown, re.M)
