import os
import signal
from functools import cache
from pathlib import Path

import pytest

# A model this small waits for a second thread longer than it computes, and the most of all where
# two processes share the cores. Read by torch when it is imported, here and in what tests start:
# an engine on a CPU takes ``torch.set_num_threads`` away from its process.
os.environ["OMP_NUM_THREADS"] = "1"

from tests.support.device import ON_GPU

# oneDNN would keep a thousand kernels, one for each length of a batch: a test of memory should see
# what the episodes hold.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
# Before anything imports triton: its kernels run on a CPU in its interpreter alone.
if ON_GPU:
    # Tests that ask for deterministic algorithms ask cuBLAS too, which reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")

from agentrl.serving.process import prepare_process
from experiments.tiny_model import Recipe, make_tiny_model
from tests.support.alone import machine as machine
from tests.support.skips import pytest_runtest_makereport as pytest_runtest_makereport
from tests.support.tiers import pytest_collection_modifyitems as pytest_collection_modifyitems

# Before anything imports vLLM.
prepare_process()

# Programs, with packages that are installed elsewhere.
collect_ignore = ["end_to_end/outside"]

SMALL = Recipe(hidden=64, layers=2, heads=2, kv_heads=1, transcripts=64, steps=20, batch=8)
"""Real in every part, and trained just enough not to be uniform."""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a small untrained model, made as the demo's is, in a cache of its own."""
    import random

    from agentrl.agents.tools import PYTHON_TOOL
    from experiments import gsm8k_offline

    rng = random.Random(0)
    tasks = gsm8k_offline.problems(0, held_out=False)
    transcripts = [gsm8k_offline.transcript(next(tasks), rng) for _ in range(SMALL.transcripts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return make_tiny_model(SMALL, transcripts, [PYTHON_TOOL], lambda share, note: None)


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory, tiny_folder):
    """Whole runs of so many steps, neither killed nor interrupted; each number of steps once."""
    from tests.support.running import repeatable, start, the_run

    @cache
    def run_of(steps: int) -> Path:
        folder = tmp_path_factory.mktemp("left_alone")
        run = start(folder, tiny_folder, *repeatable(steps))
        assert run.end() == 0, run.said
        return the_run(folder)

    return run_of


@pytest.fixture(autouse=True)
def no_run_is_left():
    from tests.support.running import Running

    yield
    for run in Running.started:
        run.kill()
    Running.started.clear()


@pytest.fixture(autouse=True)
def signals_are_pytests():
    """A command that a test calls listens until its process ends; Ctrl-C is to end pytest."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def episode():
    """An episode whose model says what the test wants, in Qwen3's form, behind a real server."""
    from tests.support.families import QWEN3
    from tests.support.spy import Scripted

    episode = Scripted(QWEN3)
    yield episode
    episode.client.close()
    episode.serving.server.close()


@pytest.fixture(scope="session")
def tokenizer(tiny_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def engine(tiny_folder):
    """One real vLLM for the whole test run; a test that changes its weights puts them back."""
    from agentrl.config import EngineConfig
    from agentrl.serving.engine import Engine
    from agentrl.serving.vllm_args import start_vllm

    options = {"max_model_len": 512, "dtype": "float32", "config": EngineConfig()}
    # On a GPU a policy stands beside it, and it can sleep.
    engine = Engine(start_vllm(tiny_folder, use="training", **options))
    yield engine
    engine.close()


@pytest.fixture
def serving(engine, tokenizer):
    """The server before that engine; 16 tokens a call."""
    from agentrl.serving.client import Serving
    from agentrl.serving.server import Server
    from tests.support.spy import make_handler

    policy = make_handler("policy", engine, tokenizer, "hermes", max_tokens=16, max_model_len=512)
    serving = Serving(Server(), policy, seed=0)
    yield serving
    serving.server.close()
