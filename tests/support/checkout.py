"""The checkout whose tests these are."""

from pathlib import Path

import agentrl

ROOT = Path(agentrl.__file__).parents[1]
