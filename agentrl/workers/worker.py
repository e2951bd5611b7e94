"""Worker: the process itself, which runs the episodes that it is given until nobody gives any."""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import rollout
from agentrl.cli import Source, config_of
from agentrl.serving.connection import RemoteEngine, WorkerEnd
from agentrl.serving.process import freeze_garbage, prepare_process
from agentrl.serving.start import front


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a worker has to know."""

    source: Source
    """What its config comes from, as the command's did."""
    decided: dict[str, Any]
    """The fields of the config that were settled since: by the model, and the port."""
    folder: str
    """The policy's."""
    first: str
    """What training began with."""


def work(setting: Setting, orders: Connection, line: Connection) -> None:
    """A worker's whole life. orders: what to begin, and the episodes that ended."""
    # Whoever is at the keyboard interrupts the command, which ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare_process()
    try:
        config = replace(config_of(*setting.source), **setting.decided)
        end = WorkerEnd(line)
        serving = front(
            config, setting.folder, setting.first, lambda name, *_: RemoteEngine(name, end)
        )
    except BaseException as error:
        return orders.send(f"{type(error).__name__}: {error}")
    freeze_garbage()
    orders.send("")
    running = rollout.Episodes(config, serving)
    threading.Thread(target=_listen, args=(orders, running), daemon=True).start()
    while True:
        running.start()
        if ended := running.end():
            # Without their tasks, which whoever gave them has.
            light = [(key, replace(episode, task={})) for key, episode in ended.items()]
            with suppress(OSError):
                orders.send(light)


def _listen(orders: Connection, running: "rollout.Episodes") -> None:
    """Take orders until whoever gives them is gone; then everything here ends, too."""
    with suppress(EOFError, OSError):
        while True:
            order = orders.recv()
            if order is None:
                running.close()
            for key, task, index, sampling in order or ():
                running.add(key, task, index, **sampling)
            running.wake()
    try:
        running.close()
    finally:
        os._exit(0)
