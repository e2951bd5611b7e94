"""Start of serving for training: engines, and where the config asks for them, workers."""

import logging

from agentrl.config import Config
from agentrl.runs.session import Session
from agentrl.serving import start
from agentrl.serving.client import Serving
from agentrl.types import CannotStart
from agentrl.workers.pool import WorkerPool

log = logging.getLogger(__name__)


def serve(config: Config, run: Session) -> Serving:
    """``serving.start.serve``, with a trainer beside it, and the workers that load meanwhile.

    Where nothing can be loaded elsewhere, such as functions that were given to ``tune()``, episodes
    run in this process, and it is said.
    """
    models = run.model, run.first_model
    pool = WorkerPool(config, *models, run.source) if config.workers and run.source else None
    serving = start.serve(config, *models, "training")
    serving.stays_awake = config.overlap
    try:
        if config.workers and run.source is None:
            raise CannotStart("workers load what --exp names, and there is none")
        serving.workers = pool and pool.attach(serving.engines)
    except CannotStart as error:
        log.warning("%s\nEpisodes run in the engine's process", error)
    return serving
