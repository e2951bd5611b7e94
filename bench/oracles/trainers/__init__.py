"""Ten trainers, from their unpacked wheels, a file each: ``loss(batch, ...)`` is a scalar,
``kl(batch, ...)`` a mean, ``credit(...)`` the advantages of the example's rewards."""

from pathlib import Path
from typing import Any

from bench.oracles.trainers.areal import AReaL
from bench.oracles.trainers.art import ART
from bench.oracles.trainers.openrlhf import OpenRLHF
from bench.oracles.trainers.skyrl import SkyRL
from bench.oracles.trainers.spiral import Spiral
from bench.oracles.trainers.swift import Swift
from bench.oracles.trainers.tinker import Tinker
from bench.oracles.trainers.trinity import Trinity
from bench.oracles.trainers.trl import TRL
from bench.oracles.trainers.verl import Verl

WHEELS = {
    "trl": TRL,
    "verl": Verl,
    "trinity_rft": Trinity,
    "areal": AReaL,
    "skyrl": SkyRL,
    "openrlhf": OpenRLHF,
    "tinker_cookbook": Tinker,
    "spiral_rl": Spiral,
    "ms_swift": Swift,
    "openpipe_art": ART,
}
"""Which versions, requirements-oracles.txt says."""


def load(folder: Path) -> dict[str, Any]:
    """Each trainer, by the first word of its wheel's name."""
    found = {}
    for wheel, trainer in WHEELS.items():
        (root,) = folder.glob(f"{wheel}-*")
        found[wheel.partition("_")[0]] = trainer(root)
    return found
