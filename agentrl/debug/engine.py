"""Engine that stays up: ``rollout.py --serve``, and the commands that use it with ``--engine``.

    python rollout.py --exp gsm8k_offline --serve [--checkpoint DIR]
    python rollout.py --exp gsm8k_offline --debug --engine 127.0.0.1:PORT

Agents run in the second process, with the full record, and the first draws for them by token ids.
Whoever connects knows a key, which lies in a file that its owner alone can read; from another host,
or as another user, the variable AGENTRL_ENGINE_KEY has it.
"""

import os
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from pathlib import Path

import msgspec
import platformdirs

from agentrl.config import Config, ServerConfig
from agentrl.runs.progress import Display
from agentrl.serving.client import Serving
from agentrl.serving.connection import EngineEnd, RemoteEngine, WorkerEnd
from agentrl.serving.sampling import EngineClient
from agentrl.serving.start import front

KEY_VARIABLE = "AGENTRL_ENGINE_KEY"


class Hello(msgspec.Struct):
    """What an engine says of itself to who connects."""

    folder: str
    max_model_lens: dict[str, int]
    """Of each of its models."""


def serve_engine(server: ServerConfig, serving: Serving, display: Display) -> None:
    """Draw for all who connect to that address, until the process is interrupted."""
    key = os.environ.get(KEY_VARIABLE, secrets.token_urlsafe(24)).encode()
    with Listener((server.host, server.port), backlog=64) as listener:
        host, port = listener.address
        _keep(key, key_file(port))
        display.line(f"--engine {host}:{port}, until Ctrl-C")
        threading.Thread(target=_accept, args=(listener, key, serving), daemon=True).start()
        try:
            while True:
                time.sleep(1.0)
                serving.engine.raise_if_stopped()
        except KeyboardInterrupt:
            display.line("the engine ends")
        finally:
            key_file(port).unlink(missing_ok=True)


def _accept(listener: Listener, key: bytes, serving: Serving) -> None:
    # Until the listener is closed. Each in a thread of its own: one that says nothing stops none.
    with suppress(OSError):
        while True:
            given = (listener.accept(), key, serving)
            threading.Thread(target=_welcome, args=given, daemon=True).start()


def _welcome(connection: Connection, key: bytes, serving: Serving) -> None:
    lens = {name: handler.max_model_len for name, handler in serving.handlers.items()}
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        connection.send_bytes(msgspec.json.encode(Hello(str(serving.folder), lens)))
    except (AuthenticationError, EOFError, OSError):
        # Who has not the key, speaks something else, or hangs up.
        connection.close()
    else:
        EngineEnd(connection, serving.engines)


def connect(config: Config, address: str) -> Serving:
    """The models at an address, for agents of this process. Raises ValueError, in a sentence."""
    connection, told = _reach(address)
    end = WorkerEnd(connection)

    def engine(name: str, *_) -> EngineClient:
        if name not in told.max_model_lens:
            raise ValueError(f"the engine at {address} has no model {name}: start it with the same")
        return RemoteEngine(name, end)

    model = replace(config.model, max_model_len=told.max_model_lens["policy"])
    return front(replace(config, model=model), told.folder, told.folder, engine)


def _reach(address: str) -> tuple[Connection, Hello]:
    host, _, port = address.rpartition(":")
    try:
        file, key = key_file(int(port)), os.environ.get(KEY_VARIABLE, "none").encode()
        key = file.read_bytes() if file.exists() and KEY_VARIABLE not in os.environ else key
        connection = Client((host, int(port)), authkey=key)
        return connection, msgspec.json.decode(connection.recv_bytes(), type=Hello)
    except AuthenticationError as error:
        raise ValueError(f"the engine at {address} has another key: set {KEY_VARIABLE}") from error
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"no engine at --engine {address} ({error}): give the HOST:PORT that "
            "rollout.py --serve printed"
        ) from error


def _keep(key: bytes, file: Path) -> None:
    """For commands of the same user on this host."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "wb") as out:
        out.write(key)


def key_file(port: int) -> Path:
    return platformdirs.user_cache_path("agentrl") / "engines" / f"{port}.key"
