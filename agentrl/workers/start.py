"""Start of serving for training: engines, and where the config asks for them, workers."""

import logging
from pathlib import Path

from agentrl.cli import Source
from agentrl.config import Config
from agentrl.serving import start
from agentrl.serving.client import Serving
from agentrl.types import CannotStart
from agentrl.workers.pool import WorkerPool

log = logging.getLogger(__name__)


def serve(config: Config, folder: str | Path, source: Source | None) -> Serving:
    """``serving.start.serve``, with a trainer beside it, and the workers that load meanwhile.

    source: what they have to load; None, as where functions were given that no other process knows:
    episodes run in this one, and it is said.
    """
    pool = WorkerPool(config, folder, source) if config.workers and source else None
    serving = start.serve(config, folder, "training")
    serving.stays_awake = config.overlap
    try:
        if config.workers and source is None:
            raise CannotStart("workers load what --exp names, and there is none")
        serving.workers = pool and pool.attach(serving.engines)
    except CannotStart as error:
        log.warning("%s\nEpisodes run in the engine's process", error)
    return serving
