"""Episodes in workers of an engine that is scripted; ``agents.py`` is what they load."""

import threading
from concurrent.futures import Future

import rollout
from agentrl.cli import config_of
from agentrl.serving.sampling import Completion
from agentrl.types import Episode
from agentrl.workers.pool import WorkerPool
from tests.support.checkout import ROOT
from tests.support.spy import SpyEngine

SOURCE = (
    str(ROOT / "tests/workers/agents.py"),
    None,
    ["--workers", "2", "--episode-seconds", "8"],
)


class Drawing(SpyEngine):
    """Draws by seed, as an engine does, on a thread of its own."""

    def submit(self, prompt_ids, sampling):
        done = Future()
        ids = [3 + (sampling.seed + sum(prompt_ids) + i) % 200 for i in range(sampling.max_tokens)]
        self.samplings.append(sampling)
        completion = Completion(ids, [-0.5 * i for i in ids], "length")
        threading.Timer(0.01, lambda: done.cancelled() or done.set_result(completion)).start()
        return done


class Pooled:
    """What ``run_groups`` needs, with the pool in it."""

    def __init__(self, pool: WorkerPool, engine: Drawing):
        self.workers, self.engine = pool, engine

    @property
    def num_tokens(self):
        return self.workers.num_tokens

    def decode(self, ids):
        return str(ids)


def run(pooled, *tasks: dict, group_size: int = 1, **options) -> list[Episode]:
    config = config_of(*SOURCE)
    tasks = [{"id": str(i), **task} for i, task in enumerate(tasks)]
    options = {"report": lambda share, note: None, "step": 1, **options}
    groups = rollout.run_groups(tasks, config, pooled, group_size=group_size, **options)
    assert [group.task for group in groups] == tasks
    return [episode for group in groups for episode in group.episodes]
