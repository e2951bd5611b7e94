"""Beginning and end of a run's process: signals, ranks and trackers; saved, and in a sentence."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agentrl.config import Config, compute_dtype
from agentrl.learning.checkpoint import CheckpointError
from agentrl.learning.ranks import Ranks
from agentrl.learning.rendezvous import RankLost
from agentrl.records.recorder import RecordsFailed
from agentrl.runs.session import Session
from agentrl.runs.trackers import Trackers
from agentrl.signals import Interrupted, Signals
from agentrl.types import CannotStart, EngineStopped, StepRefused, StoppedEarly

GO_ON = "the last checkpoint is whole: go on from it with --resume and the run's folder"


@contextmanager
def open_session(config: Config, flags: Namespace) -> Iterator[tuple[Session, Ranks]]:
    """Ranks, signals, trackers and a run; and how it ends: saved, and in a sentence."""
    signals = Signals()
    signals.listen()
    try:
        ranks = Ranks(
            compute_dtype(config.model),
            signals,
            config.rank_timeout_seconds,
            config.engine.tensor_parallel_size,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    names = config.trackers if ranks.is_first else ()
    with exit_messages(ranks), Trackers(names) as trackers:
        run = Session(config, flags, ranks, trackers)
        try:
            # It is a whole run that stops early, and has saved.
            with suppress(StoppedEarly):
                yield run, ranks
        except BaseException as error:
            _end(run, error)
            raise
        else:
            run.close(None)
        run.finish()


def _end(run: Session, error: BaseException) -> None:
    """Close what a run has open, and save it where it can go on."""
    if isinstance(error, ValueError) and not run.is_checked:
        raise CannotStart(str(error)) from error
    try:
        if isinstance(error, Interrupted | StepRefused) and run.is_checked:
            run.leave(error)
    finally:
        run.close(error)


@contextmanager
def exit_messages(ranks: Ranks) -> Iterator[None]:
    """What a person caused is told without a traceback; peers, who may wait, hear of any end."""
    try:
        yield
    except Interrupted as signal:
        ranks.fail(f"it was interrupted by {signal}")
        sys.exit(128 + signal.number)
    except CannotStart as error:
        ranks.fail(str(error))
        sys.exit(f"error: {error}")
    except StepRefused as error:
        sys.exit(f"error: {error}")
    except (CheckpointError, EngineStopped, RankLost, RecordsFailed) as error:
        ranks.fail(str(error))
        sys.exit(f"error: {error}; {GO_ON}")
    except BaseException as error:
        ranks.fail(f"{type(error).__name__}: {error}")
        raise
