"""What a person may type that cannot work: a sentence, an exit code, and no traceback.

Every line of ``FLAGS`` runs twice: in this process, and as the command itself; of the latter some
are slow, and the others are left to the soak.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

import agentrl.hub
import rollout
import train
from agentrl.runs.run import Run
from tests.support.sizes import some_of

ROOT = Path(__file__).parents[2]
NO_HUB = "http://127.0.0.1:9"
ROW = {"question": "How many?", "answer": "#### 2"}

EXPERIMENT = """
    from agentrl.config import Config, ModelConfig

    async def solve(task, model):
        return 1.0

    def tasks(data):
        rows = [{"id": str(i), "question": "?" * 40} for i in range(20)]
        return rows[2:], rows[:2]

    model = ModelConfig(path="MODEL", max_model_len=256)
    config = Config(workflow=solve, tasks=tasks, tasks_per_step=2, model=model)
"""

FLAGS = [
    # (flags after a good --exp, exit code, what is said)
    ("--stepz 3", 2, r"Unrecognized options: --stepz, 3 .*Perhaps you meant: --steps"),
    ("--steps three", 2, r"Error parsing --steps: .*'three'"),
    ("--steps 0", 2, "steps is 0: give at least 1"),
    ("--group-size 0", 2, "group_size is 0: give at least 2, because episodes of a group are comp"),
    ("--group-size 1", 2, "group_size is 1: give at least 2, because episodes of a group are comp"),
    ("--group-size 2.5", 2, "Error parsing --group-size: invalid literal for int.*'2.5'"),
    ("--tasks-per-step 0", 2, "tasks_per_step is 0: give at least 1"),
    ("--micro-batch-tokens -1", 2, "micro_batch_tokens is -1: give at least 1"),
    ("--episode-seconds 0", 2, "episode_seconds is 0.0: give above 0"),
    ("--optim.lr -1e-6", 2, "optim.lr is -1e-06: give 0 to 1: AdamW moves every weight"),
    ("--optim.lr nan", 2, "optim.lr is nan: give 0 to 1: AdamW moves every weight"),
    ("--optim.lr inf", 2, "optim.lr is inf: give 0 to 1: AdamW moves every weight"),
    ("--optim.betas 0.9 1", 2, "optim.betas is .0.9, 1.0.: give two numbers from 0 to below 1"),
    ("--optim.warmup-steps -1", 2, "optim.warmup_steps is -1: give 0 or more"),
    ("--optim.final-lr-share 2", 2, "optim.final_lr_share is 2.0: give 0 to 1"),
    ("--optim.max-grad-norm 0", 2, "optim.max_grad_norm is 0.0: give above 0"),
    ("--optim.weight-decay -1", 2, "optim.weight_decay is -1.0: give 0 to 1 / lr"),
    ("--algorithm.clip-low 2", 2, "algorithm.clip_low is 2.0: give above 0, at most 1"),
    ("--algorithm.clip-high 0", 2, "algorithm.clip_high is 0.0: give above 0"),
    (
        "--algorithm.importance-sampling-cap 0",
        2,
        "algorithm.importance_sampling_cap is 0.0: give above 0",
    ),
    ("--algorithm gpro", 1, "error: there is no algorithm 'gpro': choose one of .*grpo"),
    ("--loss.clip-low 2", 1, "--loss.clip-low has another name now: give --algorithm.clip-low"),
    ("--kernels triton", 1, "--kernels has another name now: give --attention"),
    (
        "--sampling.temperature 0",
        2,
        "sampling.temperature is 0.0: give 0.01, the lowest at which v",
    ),
    ("--sampling.max-tokens 0", 2, "sampling.max_tokens is 0: give at least 1"),
    ("--eval.num-tasks 0", 2, "eval.num_tasks is 0: give 1 or more"),
    (
        "--engine.gpu-memory-utilization 2",
        2,
        "engine.gpu_memory_utilization is 2.0: give a share of the GPU's memory",
    ),
    ("--engine.cpu-cache-gib 0", 2, "engine.cpu_cache_gib is 0: give 1 or more"),
    ("--server.port 70000", 2, "server.port is 70000: give 0 to 65535; 0: any free"),
    ("--model.dtype float16", 2, r"invalid choice 'float16' .* \('auto', 'float32', 'bfloat16'\)"),
    ("--model.max-model-len 1", 2, "model.max_model_len is 1: give at least 16 tokens"),
    ("--judge experiments.gsm8k:judje", 2, "has no function 'judje': did you mean judge?"),
    ("--judge experiments.gsm8k", 2, "names no function: write package.module:function"),
    ("--workflow nowhere:solve", 2, "cannot import nowhere .*No module named 'nowhere'"),
    ("--workflow nowhere.py:solve", 2, "there is no file nowhere.py"),
    ("--workflow agentrl.tasks.jsonl:with_id", 2, "the workflow with_id is not async: define it"),
    ("--workflow experiments.gsm8k:judge", 2, "its parameters must be task, model, then any of"),
    ("--resume nowhere", 1, "--resume nowhere is not the folder of a run: name one of runs/<exper"),
    ("--resume EMPTY", 1, "--resume .*EMPTY is not the folder of a run"),
    ("--resume MINE", 1, "--resume .*MINE is a run of mine, not of good: use --exp mine"),
    ("--attention triton", 1, "attention 'triton' needs a GPU: use segments on a CPU, or auto"),
    ("--tasks-per-step 50", 1, "tasks_per_step is 50, but there are only 18 train tasks"),
    ("--model.path ./nowhere", 1, "./nowhere is neither a transformers folder nor a hub model"),
    ("--model.path no/such", 1, "no/such is neither a transformers folder nor .*gsm8k_offline"),
    ("--model.path EMPTY", 1, "EMPTY is no transformers folder, as it has no config.json: give an"),
    ("--model.path RUN", 1, "it has no config.json: did you mean .*/checkpoints/step-00002?"),
    ("--model.path WEIGHTLESS", 1, "it has no weights: give another"),
    ("--model.path TEMPLATELESS", 1, "tokenizer has no chat template: use an instruct model"),
    (
        "--model.max-model-len 4096",
        1,
        "but the model has 2048 positions: give --model.max-model-len 2048 or l",
    ),
    ("--model.tool-parser herms", 1, "tool_parser is 'herms', which vLLM .*give one of .*hermes,"),
    ("--model.reasoning-parser x", 1, "reasoning_parser is 'x', which vLLM .*give one of .*qwen3"),
    ("--server.port TAKEN", 1, "cannot serve at .*port TAKEN .*in use.*free, or 0 for any"),
    ("--server.host 192.0.2.1", 1, "cannot serve at .*192.0.2.1.*give an address of this mach"),
    ("--trackers wandbb", 2, r"invalid choice 'wandbb'.*'tensorboard', 'wandb', 'swanlab'"),
    ("--trackers wandb", 1, "cannot log in: run `wandb login`, set WANDB_API_KEY, or keep"),
    (
        "--trackers swanlab",
        1,
        "in: run `swanlab login`, set SWANLAB_API_KEY, .*SWANLAB_MODE=offline",
    ),
    ("--runs EMPTY/file/runs", 1, "cannot write to EMPTY/file/runs .*give another folder with --r"),
]
TYPED = [
    # Of each kind of mistake one or two: as the flags are read, a callable's name, an experiment's
    # own, a run's, a model's, and the machine's.
    *("--stepz 3", "--steps 0", "--workflow nowhere:solve", "--workflow experiments.gsm8k:judge"),
    *("--resume MINE", "--model.path no/such", "--server.port TAKEN", "--runs EMPTY/file/runs"),
]

FILES = [
    # (an experiment's text, what is said)
    ("x = 1\ndef (:\n", r"cannot import .*\(SyntaxError: invalid syntax\).*line 2 def \(:"),
    ("import jsn\n", r"No module named 'jsn'\).*mine.py\", line 1, in <module> import jsn"),
    ("x = {}\nx['y']\n", r"\(KeyError: 'y'\) .*line 2, in <module> x\['y'\]"),
    ("x = 1\n", "mine.py defines no `config` of type agentrl.config.Config"),
    ("x = '\udcff'\n", r"cannot import .*utf-8.* line 1"),
    (EXPERIMENT.replace("async def", "def"), "the workflow solve is not async: define it with"),
    (EXPERIMENT.replace("(task, model)", "(task, modell)"), r"solve takes \(task, modell\): its"),
    (EXPERIMENT.replace("(task, model)", "(task)"), r"takes \(task\): it needs task, model"),
    (EXPERIMENT.replace("tasks_per", "task_per"), "unexpected keyword argument 'task_per_step'"),
    (EXPERIMENT.replace("_step=2", "_step=0"), "tasks_per_step is 0: .*line 12, in <module> conf"),
    (EXPERIMENT.replace("rows[:2]", "[]"), "there are no held-out tasks to evaluate: give some"),
    (
        EXPERIMENT.replace("str(i)", "str(i % 5)").replace("* 40", "* i"),
        "two different train tasks have the id '2': give each its own",
    ),
    (
        EXPERIMENT.replace(
            "Config(w",
            "Config(auxiliary_models={'j': A(model='m', url='u', key_variable='NO_KEY')}, w",
        ).replace("import Config", "import AuxiliaryModel as A, Config"),
        "auxiliary_models.j.key_variable is NO_KEY: set that variable to the key of u",
    ),
]

ROWS = [
    # (what train.jsonl holds, what is said)
    (b"", "train.jsonl holds no tasks: give one JSON object a line"),
    (b'{"question": "?"}', "train.jsonl:2: no 'answer'"),
    (b'{"answer": "#### 2"}', "train.jsonl:2: no 'question'"),
    (b'{"question": "?", "answer": 2}', "train.jsonl:2: no text as 'answer', but 2"),
    (b'{"question": "?", "answer": "two"}', "train.jsonl:2: no number after #### in the answer"),
    (b'{"question": "?"', r"train.jsonl:2: not JSON \(Expecting ',' delimiter, column 17\)"),
    (b'"question"', "train.jsonl:2: not a JSON object, but a str"),
    (b'{"question": "\xff"}', "train.jsonl:2: not UTF-8: convert the file, say with iconv"),
]


@pytest.fixture
def place(tmp_path, tiny_folder):
    """Good and bad things under the names that the flags above use."""
    for name in ("EMPTY", "RUN/checkpoints/step-00002"):
        (tmp_path / name).mkdir(parents=True)
    Run.create(tmp_path / "runs", "mine", '{"steps": 3}', model="m").folder.rename(
        tmp_path / "MINE"
    )
    (tmp_path / "EMPTY/file").touch()
    for name, missing in {
        "WEIGHTLESS": "model.safetensors",
        "TEMPLATELESS": "chat_template.jinja",
    }.items():
        shutil.copytree(tiny_folder, tmp_path / name)
        (tmp_path / name / missing).unlink()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield lambda text: re.sub(
            "EMPTY|RUN|MINE|WEIGHTLESS|TEMPLATELESS",
            lambda name: str(tmp_path / name[0]),
            text.replace("TAKEN", str(taken.getsockname()[1])).replace("MODEL", str(tiny_folder)),
        )


@pytest.fixture
def experiment(tmp_path, place):
    (tmp_path / "good.py").write_text(place(textwrap.dedent(EXPERIMENT)))
    return str(tmp_path / "good.py")


@pytest.fixture
def in_process(monkeypatch, capsys, tmp_path):
    """Run a command's main; return its exit code and what it said, on one line."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", NO_HUB)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    # Triton's interpreter, which the tests of the kernels use, is not for people.
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    agentrl.hub.stay_offline_where_unreachable.cache_clear()

    def call(script: str, *argv: str) -> tuple[int, str]:
        if "--runs" not in argv:
            argv = (*argv, "--runs", str(tmp_path / "runs"))
        monkeypatch.setattr(sys, "argv", [script, *argv])
        with pytest.raises(SystemExit) as stopped:
            {"train.py": train, "rollout.py": rollout}[script].main()
        said, code = capsys.readouterr(), stopped.value.code
        # What Python does with an exit of a text.
        text, code = (code, 1) if isinstance(code, str) else ("", code)
        return code, one_line(said.out + said.err + text)

    return call


def as_command(script: str, *argv: str, **environment: str) -> tuple[int, str]:
    """The same as a process of its own, where there is no hub."""
    result = subprocess.run(
        [sys.executable, script, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": NO_HUB, "TRITON_INTERPRET": "0", **environment},
    )
    return result.returncode, one_line(result.stdout + result.stderr)


def one_line(text: str) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def write_rows(folder: Path, line: bytes) -> str:
    good = json.dumps(ROW).encode()
    (folder / "train.jsonl").write_bytes(good + b"\n" + line if line else b"\n")
    (folder / "test.jsonl").write_bytes(good)
    return str(folder)


@pytest.mark.parametrize(("flags", "code", "sentence"), FLAGS)
def test_a_flag(in_process, experiment, place, flags, code, sentence):
    got, said = in_process("train.py", "--exp", experiment, *place(flags).split())
    assert got == code
    assert re.search(place(sentence), said), said
    assert "Traceback" not in said


@pytest.mark.parametrize(("text", "sentence"), FILES)
def test_an_experiment(in_process, tmp_path, place, text, sentence):
    file = tmp_path / "mine.py"
    file.write_text(place(textwrap.dedent(text)), errors="surrogateescape")
    code, said = in_process("train.py", "--exp", str(file))
    assert code == 1
    assert re.search(sentence, said), said
    # The lines at fault are the person's own.
    assert not re.search(r"Traceback|config\.py\"", said)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "gsm9k",
            "error: there is no experiment 'gsm9k': choose one of bfcl, bfcl_gpu, countdown, ",
        ),
        ("experiments", "there is no experiment 'experiments': choose one of"),
        ("EMPTY/../good", "there is no experiment '.*good': did you mean .*good.py?"),
        ("nowhere.py", "error: there is no file nowhere.py"),
    ],
)
@pytest.mark.parametrize("script", ["train.py", "rollout.py"])
def test_an_experiments_name(in_process, experiment, place, script, name, sentence):
    code, said = in_process(script, "--exp", place(name))
    assert code == 1
    assert re.search(sentence, said), said


@pytest.mark.parametrize(("line", "sentence"), ROWS)
def test_a_row(in_process, tmp_path, line, sentence):
    code, said = in_process("train.py", "--exp", "gsm8k", "--data.path", write_rows(tmp_path, line))
    assert code == 1
    assert re.search(sentence, said), said


def test_no_such_data(in_process):
    code, said = in_process("train.py", "--exp", "gsm8k", "--data.path", "nowhere")
    assert (code, said[:58]) == (1, "error: there is no nowhere/train.jsonl: --data.path wants ")


def test_a_file_that_may_not_be_read(in_process):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), json.dumps(ROW).encode())
        Path(folder).chmod(0o755)
        (Path(folder) / "train.jsonl").chmod(0)
        # Root may read anything.
        os.seteuid(user or 65534)
        try:
            code, said = in_process("train.py", "--exp", "gsm8k", "--data.path", folder)
        finally:
            os.seteuid(user)
    assert (code, said) == (1, f"error: cannot read {folder}/train.jsonl (Permission denied)")


def test_no_hub(in_process, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    started = time.monotonic()
    code, said = in_process("train.py", "--exp", "gsm8k")
    assert code == 1
    assert "cannot load openai/gsm8k from the hub, nor from its cache here" in said
    assert "give a local folder of jsonl with --data.path, or try --exp gsm8k_offline" in said
    # The libraries alone would have tried for half a minute.
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        ("--num-tasks x", 2, "argument --num-tasks: invalid at_least_one value: 'x'"),
        ("--num-tasks 0", 2, "argument --num-tasks: it is 0: give at least 1"),
        ("--checkpoint RUN", 1, "did you mean .*/checkpoints/step-00002?"),
        ("--checkpoint ./nowhere", 1, "./nowhere is neither a transformers folder nor a hub model"),
        (
            "--model.tool-parser herms",
            1,
            "tool_parser is 'herms', which vLLM .*give one of .*hermes,",
        ),
        ("--server.port TAKEN", 1, "cannot serve at .*port TAKEN .*in use.*free, or 0 for any"),
    ],
)
def test_a_flag_of_rollout(in_process, experiment, place, flags, code, sentence):
    got, said = in_process("rollout.py", "--exp", experiment, *place(flags).split())
    assert got == code
    assert re.search(place(sentence), said), said


def test_the_commands_say_it_before_slow_imports(tmp_path):
    """With a torch that cannot be imported, what was typed is still answered."""
    (tmp_path / "torch.py").write_text("raise ImportError('slow')")
    for script in ("train.py", "rollout.py"):
        for argv, code, sentence in (
            (["--exp", "gsm9k"], 1, "error: there is no experiment 'gsm9k': choose one of"),
            (["--exp", "gsm8k", "--stepz", "3"], 2, "Perhaps you meant: --steps"),
        ):
            got, said = as_command(script, *argv, PYTHONPATH=str(tmp_path))
            assert got == code
            assert sentence in said
    # The control: nothing is wrong with what was typed, and torch is missed.
    got, said = as_command("train.py", "--exp", "gsm8k", PYTHONPATH=str(tmp_path))
    assert (got, said.endswith("ImportError: slow")) == (1, True)


@pytest.mark.parametrize(("flags", "code", "sentence"), some_of(FLAGS, in_slow=TYPED))
def test_a_flag_as_typed(experiment, place, tmp_path, flags, code, sentence):
    runs = () if "--runs" in flags else ("--runs", str(tmp_path / "runs"))
    started = time.monotonic()
    got, said = as_command("train.py", "--exp", experiment, *place(flags).split(), *runs)
    print(f"{time.monotonic() - started:5.1f} s  exit {got}  {flags}")
    assert got == code
    assert re.search(place(sentence), said), said
    assert "Traceback" not in said
