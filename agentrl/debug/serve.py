"""An engine left serving, so that an edited workflow runs again within seconds."""

import time

from agentrl.config import Config
from agentrl.runs.progress import Display
from agentrl.serving.client import Serving
from agentrl.serving.lending import Lender
from agentrl.signals import Interrupted, Signals


def serve_until_interrupted(
    serving: Serving, config: Config, *, folder: str, experiment: str, key: str, display: Display
) -> None:
    """Lend what is served to whoever has the key, until Ctrl-C. Raises EngineStopped."""
    Lender(serving, config, folder, key)
    url = serving.endpoint.url
    display.line(f"serving {folder}; Ctrl-C ends it")
    display.line(f"  URL {url}")
    display.line(f"  key {key}")
    display.line(f"  python rollout.py --exp {experiment} --debug --engine {url} --api-key {key}")
    display.line(f"  or any OpenAI client, at {url}/v1")
    try:
        Signals().listen()
        while True:
            time.sleep(0.5)
            serving.engine.raise_if_stopped()
    except Interrupted:
        display.line("stopped")
