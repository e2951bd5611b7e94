"""A model behind its API, for as long as somebody needs it: ``hub.behind_url``.

python -m agentrl.debug.serve MODEL

A line of JSON says where it is and by which key. It ends with its standard input.
"""

import json
import sys

from agentrl.agents.contract import WorkflowOutput
from agentrl.config import Config, ModelConfig
from agentrl.debug.start import start
from agentrl.runs.progress import Display
from agentrl.types import CannotStart


async def none(task: dict, model: object) -> WorkflowOutput:
    """Whoever asks is elsewhere."""
    return WorkflowOutput()


def main() -> None:
    model = ModelConfig(path=sys.argv[1], tool_parser=None)
    try:
        config = Config(workflow=none, tasks=lambda data: ([], []), model=model)
        serving = start(config, None, Display(silent=True))
    except (ValueError, CannotStart) as error:
        sys.exit(f"error: {error}")
    client, _ = serving.open(step=-1, task_id="served", episode=0, own_sampling=True)
    print(json.dumps([client.base_url, client.api_key, client.name]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
