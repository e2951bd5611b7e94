"""SPIRAL: the credit of two players, whose means its builder of groups remembers."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

from bench.oracles.stubs import pick


class Spiral:
    def __init__(self, root: Path):
        mean = pick(root / "spiral/core/utils.py", ["EMA"]).EMA
        names = {"EnvGroupBuilder": object, "ClassVar": ClassVar, "EMA": mean}
        path, name = root / "spiral/tinker/training/env.py", "SpiralTwoPlayerEnvGroupBuilder"
        found = pick(path, [name], **names, logger=logging.getLogger("spiral"))
        self._builder = getattr(found, name)

    def credit(self, batches: Sequence[Sequence[Sequence[float]]]) -> Iterator[float]:
        """Of batches of games, each of both players' rewards; the means start anew."""
        builder = self._builder()
        builder.env_id, builder._role_baseline_emas = "game", {}
        builder.__post_init__()
        for games in batches:
            played = [
                [SimpleNamespace(transitions=[SimpleNamespace(reward=r)]) for r in rewards]
                for rewards in games
            ]
            for game in played:
                for reward, _ in asyncio.run(builder.compute_group_rewards(game)):
                    yield reward
            builder.update_role_baselines([SimpleNamespace(trajectories_G=g) for g in played])
