"""Frozen models beside the trained one: by URL, and in an engine of their own."""

import asyncio
from itertools import pairwise

import pytest

import rollout
from agentrl.cli import parse
from agentrl.config import AuxiliaryModel, Config, EngineConfig, ModelConfig, SamplingConfig
from agentrl.serving import start
from agentrl.serving.sampling import Sampling
from agentrl.serving.start import _auxiliary, serve
from tests.support.families import QWEN25, tokenizer
from tests.support.spy import Scripted, SpyEngine

ASK = [{"role": "user", "content": "2+3?"}]


async def ask(model, **options) -> str:
    answer = await model.openai.chat.completions.create(
        model=model.name, messages=ASK, max_tokens=5, **options
    )
    return answer.choices[0].message.content


async def solve(task, model, auxiliary_models):
    await ask(model)
    await ask(auxiliary_models["judge"], temperature=0.0)
    return 1.0


def make_config(**fields) -> Config:
    return Config(
        workflow=solve,
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m", max_model_len=512),
        sampling=SamplingConfig(max_tokens=16),
        **fields,
    )


def collect(config, serving):
    tasks = [{"id": str(i)} for i in range(2)]
    return rollout.run_groups(
        tasks, config, serving, step=1, group_size=2, report=lambda share, note: None
    )


@pytest.fixture(scope="module")
def judged(tiny_folder):
    """What serves two real vLLMs of this process, the policy's and a judge's, and its settings."""
    judge = AuxiliaryModel(model=str(tiny_folder), max_model_len=256)
    config = make_config(auxiliary_models={"judge": judge})
    serving = serve(config, tiny_folder)
    yield config, serving
    serving.close()


@pytest.mark.slow
def test_an_engine_of_its_own(judged):
    """A second real vLLM in this process: drawn from as the agent asks, recorded nowhere."""
    config, serving = judged
    groups = collect(config, serving)
    client, auxiliary = serving.open(step=0, task_id="t", episode=0)
    greedy = {asyncio.run(ask(auxiliary["judge"], temperature=0.0)) for _ in range(3)}
    episodes = [episode for group in groups for episode in group.episodes]
    assert [episode.status for episode in episodes] == ["truncated"] * 4
    assert [[call.agent for call in episode.calls] for episode in episodes] == [["agent"]] * 4
    # Temperature 0 was honoured.
    assert len(greedy) == 1
    # Their keys died with their episodes.
    assert len(serving.server.agent_keys) == 2
    client.close()


@pytest.mark.slow
def test_engines_of_one_process_take_turns(judged):
    """vLLM keeps its running forward pass in globals: two at once draw nonsense or die."""
    _, serving = judged
    engines = [serving.engine, serving.auxiliary["judge"].engine]
    inside, turns, overlaps = [], [], []

    def watch(engine):
        step = engine._llm.step

        def watched():
            inside.append(engine)
            overlaps.append(len(inside) > 1)
            turns.append(engines.index(engine))
            try:
                return step()
            finally:
                inside.remove(engine)

        engine._llm.step = watched

    for engine in engines:
        watch(engine)
    sampling = Sampling(temperature=1.0, max_tokens=40, seed=0)
    futures = [engine.submit([20, 7, i], sampling) for engine in engines for i in range(4)]
    together = [future.result().ids for future in futures]
    alone = [
        engine.submit([20, 7, i], sampling).result().ids for engine in engines for i in range(4)
    ]
    # The end of one leaves the other as it was.
    engines[1].close()
    after = [engines[0].submit([20, 7, i], sampling).result().ids for i in range(4)]
    assert after == alone[:4]
    assert together == alone
    assert not any(overlaps)
    # Neither waits for the other to finish.
    assert sum(a != b for a, b in pairwise(turns)) > 10


def spy(*_) -> SpyEngine:
    return SpyEngine()


@pytest.mark.parametrize(
    ("use", "fields", "started"),
    [
        ("alone", {"model": "j"}, [("checkpoint", "auxiliary"), ("j", "auxiliary")]),
        ("alone", {"model": "j", "url": "http://there/v1"}, [("checkpoint", "alone")]),
        ("training", {"model": "j"}, [("checkpoint", "training"), ("j", "auxiliary")]),
        # What began: also where a run goes on from a checkpoint.
        ("training", {"model": None}, [("checkpoint", "training"), ("start", "auxiliary")]),
    ],
)
def test_what_engines_are_of_and_what_they_leave_each_other(monkeypatch, use, fields, started):
    """With 0.9 of a GPU's memory for the policy's, the other would find none."""
    uses = []

    def start_vllm(folder, **options):
        uses.append((folder, options["use"]))

    monkeypatch.setattr(start, "start_vllm", start_vllm)
    monkeypatch.setattr(start, "Engine", lambda *_, **__: spy())
    monkeypatch.setattr(start.AutoTokenizer, "from_pretrained", lambda _: tokenizer(QWEN25))
    monkeypatch.setattr(start, "key_of", lambda name, model: "")
    config = make_config(auxiliary_models={"judge": AuxiliaryModel(**fields)})
    serve(config, "checkpoint", "start", use).close()
    assert uses == started


def test_one_that_names_no_model_is_what_the_policy_starts_from(monkeypatch):
    def started(config, name, folder, *_):
        return lambda: (name, folder)

    monkeypatch.setattr(start, "_handler", started)
    opponent, judge = AuxiliaryModel(model=None), AuxiliaryModel(model="j")
    assert _auxiliary(make_config(), "opponent", opponent, "policy", spy)() == (
        "opponent",
        "policy",
    )
    assert _auxiliary(make_config(), "judge", judge, "policy", spy)() == ("judge", "j")
    with pytest.raises(
        ValueError, match="an auxiliary model has no name: give it the one that http"
    ):
        AuxiliaryModel(model=None, url="http://there")


def test_a_server_somewhere(monkeypatch):
    """Any OpenAI-compatible URL; here that of another server, in this process."""
    there = Scripted(QWEN25)
    monkeypatch.setenv("JUDGE_KEY", there.client.api_key)
    judge = AuxiliaryModel(model="m", url=there.client.base_url, key_variable="JUDGE_KEY")
    remote = _auxiliary(make_config(), "judge", judge, "not looked at", spy)()
    there.says("five")
    assert asyncio.run(ask(remote)) == "five"
    assert remote.agentscope.model == "m"
    there.client.close()
    there.serving.server.close()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="set that variable"):
        _auxiliary(make_config(), "judge", judge, "not looked at", spy)


def test_on_the_command_line(tmp_path):
    """What an experiment names can be pointed elsewhere."""
    file = tmp_path / "judged.py"
    file.write_text(
        "from agentrl.config import AuxiliaryModel, Config, ModelConfig\n"
        "async def solve(task, model): return 1.0\n"
        "def tasks(data): return [], []\n"
        "judge = AuxiliaryModel(model='gpt-5', url='https://api.openai.com/v1')\n"
        "config = Config(workflow=solve, tasks=tasks, model=ModelConfig(path='m'),\n"
        "                auxiliary_models={'judge': judge})\n"
    )
    flags = ["--exp", str(file), "--auxiliary-models.judge.url", "http://127.0.0.1:9/v1"]
    config, _ = parse(flags, "")
    assert config.auxiliary_models["judge"].url == "http://127.0.0.1:9/v1"
    assert config.auxiliary_models["judge"].engine == EngineConfig(gpu_memory_utilization=0.2)
