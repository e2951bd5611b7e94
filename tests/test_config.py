import dataclasses
import functools
import json
import re
import sys
import textwrap

import pytest

from agentrl.cli import parse, to_json
from agentrl.config import Config, ModelConfig, OptimConfig, SamplingConfig

EXPERIMENT = """
    from agentrl.config import Config, ModelConfig
    from neighbour import REWARD

    async def solve(task, model):
        return REWARD

    async def other(task, model):
        return 0.0

    def tasks(data):
        return [{"id": "a"}] * 40, [{"id": "b"}]

    config = Config(workflow=solve, tasks=tasks, group_size=4, model=ModelConfig(path="m"))
"""


TEMPERED = """
    from dataclasses import dataclass
    from agentrl.algorithms import GRPO

    @dataclass(frozen=True, kw_only=True)
    class Tempered(GRPO):
        tempering: float = 1.0

    algorithm = Tempered()
"""


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "tempered.py").write_text(textwrap.dedent(TEMPERED))
    (tmp_path / "neighbour.py").write_text("REWARD = 1.0\n")
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(EXPERIMENT))
    return str(path)


def test_flags_override_the_experiment(experiment):
    flags = f"--exp {experiment} --steps 7 --optim.lr 0.5 --model.max-model-len 99 --data.path x"
    config, _ = parse(flags.split(), "")
    assert (config.group_size, config.steps, config.optim.lr) == (4, 7, 0.5)
    assert (config.model.path, config.model.max_model_len, config.data.path) == ("m", 99, "x")


@pytest.mark.parametrize(
    "flag",
    [
        "--steps",
        "--epochs",
        "--tasks-per-step",
        "--group-size",
        "--seed",
        "--workflow",
        "--model.path",
        "--model.max-model-len",
        "--data.path",
        "--optim.lr",
        "--sampling.temperature",
        "--sampling.max-tokens",
        "--trained-agents",
    ],
)
def test_names_that_a_person_will_guess(experiment, flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--exp", experiment, "--help"], "")
    assert stopped.value.code == 0
    assert flag in capsys.readouterr().out


def test_a_workflow_by_name(experiment):
    argv = ["--exp", experiment, "--workflow", f"{experiment}:other"]
    assert parse(argv, "")[0].workflow.__name__ == "other"
    argv = ["--exp", experiment, "--workflow", "experiments.gsm8k:solve"]
    assert parse(argv, "")[0].workflow.__name__ == "solve"


def test_agents_by_name(experiment):
    def trained(flags):
        return parse(["--exp", experiment, *flags.split()], "")[0].trained_agents

    assert trained("") is None
    assert trained("--trained-agents solver checker") == ("solver", "checker")
    assert trained("--trained-agents None") is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--optim.lr -1", "optim.lr is -1.0: give 0 to 1: AdamW moves every weight by about that"),
        ("--optim.lr 1e30", "optim.lr is 1e+30: give 0 to 1"),
        ("--optim.weight-decay inf", "optim.weight_decay is inf: give 0 to 1 / lr"),
        ("--optim.lr 1e-6 --optim.weight-decay 2e6", "optim.weight_decay is 2000000.0: give 0 to"),
        ("--optim.lr 0 --optim.weight-decay inf", "optim.weight_decay is inf: give 0 to 1 / lr"),
        ("--failed-reward nan", "failed_reward is nan: give a finite number"),
        ("--failed-reward=-inf", "failed_reward is -inf: give a finite number"),
        ("--algorithm.clip-high nan", "algorithm.clip_high is nan: give above 0"),
        ("--algorithm tempered.py --algorithm.tempering nan", "algorithm.tempering is nan: give"),
        ("--group-size 1", "group_size is 1: give at least 2"),
        ("--sampling.temperature 0", "temperature is 0.0: give 0.01, the lowest at which vLLM"),
        ("--sampling.temperature 1e-6", "temperature is 1e-06: give 0.01, the lowest at which"),
        ("--sampling.temperature 3", "temperature is 3.0: give 0.01, the lowest at which vLLM"),
        ("--sampling.temperature nan", "temperature is nan: give 0.01, the lowest at which vLLM"),
        ("--rank-timeout-seconds nan", "rank_timeout_seconds is nan: give above 0, at most 1e+09"),
        ("--rank-timeout-seconds inf", "rank_timeout_seconds is inf: give above 0, at most 1e+09"),
        ("--episode-seconds 1e10", "episode_seconds is 10000000000.0: give above 0, at most 1e+09"),
        ("--engine.max-num-seqs 100000", "max_num_seqs is 100000: give 1 to 16384, the tokens"),
        ("--seed -1", "seed is -1: give 0 to"),
        ("--deterministic --compile", "compile is True: what is compiled may depend on times"),
        ("--steps 0", "steps is 0: give at least 1"),
        ("--env gymnasium:Taxi-v4", "data.env is gymnasium:Taxi-v4: this workflow opens no world"),
        ("--trained-agents", "trained_agents is (): name one, or leave it out to train all"),
        ("--stepz 3", "--steps"),
        ("--workflow nothing", "'nothing' names no function: write package.module:function"),
        ("--workflow json:nothing", "json has no function 'nothing'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(experiment, flags, sentence, capsys):
    flags = flags.replace("tempered.py", experiment.replace("mine.py", "tempered.py"))
    with pytest.raises(SystemExit) as stopped:
        parse(["--exp", experiment, *flags.split()], "")
    said = capsys.readouterr()
    text = " ".join((said.out + said.err + str(stopped.value.code)).replace("│", " ").split())
    assert stopped.value.code != 0
    assert sentence in text


def test_an_unknown_experiment(capsys):
    with pytest.raises(SystemExit, match="no experiment 'gsm9k': choose one of .*gsm8k_offline"):
        parse(["--exp", "gsm9k"], "")


@pytest.mark.parametrize(
    "line", ["from agentrl.environments.named import environment", "world = task['env']", "pass"]
)
def test_a_workflow_that_may_open_worlds_is_not_refused(tmp_path, line, capsys):
    """Also where it looks for them late, or has a way of its own to open them."""
    (tmp_path / "mine.py").write_text(f"async def solve(task, model):\n    {line}\n")
    flags = ["--exp", "gsm8k_offline", "--workflow", f"{tmp_path / 'mine.py'}:solve"]
    if line == "pass":
        with pytest.raises(SystemExit):
            parse([*flags, "--env", "gymnasium:Taxi-v4"], "")
        assert "this workflow opens no" in capsys.readouterr().err
    else:
        config, _ = parse([*flags, "--env", "gymnasium:Taxi-v4"], "")
        assert config.data.env == "gymnasium:Taxi-v4"


def test_help_lists_the_experiments(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], "")
    assert stopped.value.code == 0
    listed = re.search(r"experiments: (.*)", capsys.readouterr().out)[1].split(", ")
    assert {"countdown", "gsm8k", "gsm8k_offline_shuffled", "werewolves", "bfcl_gpu"} < {*listed}
    # What else lies among them is none.
    assert not {"ledger", "tiny_model", "curves", "LOG"} & {*listed}


def test_config_is_recorded_with_callables_by_name(experiment):
    recorded = json.loads(to_json(parse(["--exp", experiment], "")[0]))
    assert recorded["workflow"] == f"{experiment}:solve"
    assert recorded["judge"] is None
    assert recorded["optim"]["betas"] == [0.9, 0.95]


def test_a_config_needs_a_model():
    async def solve(task, model):
        return 1.0

    with pytest.raises(ValueError, match="model.path is None: name a transformers folder"):
        Config(workflow=solve, tasks=lambda data: ([], []))
    assert (
        Config(workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="m")).steps
        is None
    )


def test_everything_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OptimConfig().lr = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingConfig().temperature = 3


def test_a_partial_is_recorded_by_its_function(experiment, capsys):
    config = parse(["--exp", experiment], "")[0]
    config = dataclasses.replace(config, after_step=functools.partial(max, default=0))
    assert json.loads(to_json(config))["after_step"] == "builtins:max"
    (module,) = [m for name, m in sys.modules.items() if name == experiment]
    module.config = config
    with pytest.raises(SystemExit):
        parse(["--exp", experiment, "--help"], "")
    assert "builtins:max" in capsys.readouterr().out
