"""What a run says of itself at its end."""

import shlex

from agentrl.runs import summary
from agentrl.runs.progress import Display
from agentrl.runs.run import Run


def test_the_command_to_talk_to_it_works_for_an_experiment_given_by_its_path(tmp_path, capsys):
    run = Run(tmp_path / "my agents" / "x")
    for step in (2, 10):
        (run.checkpoints / f"step-{step:05d}").mkdir(parents=True)
    summary.summary(Display(), "my agents/mine.py", run, 65.0)
    said = capsys.readouterr().out
    assert "wall clock  1m05s" in said
    command = said[said.index("talk to it") :].removeprefix("talk to it")
    assert shlex.split(command) == [
        *("python", "rollout.py", "--exp", "my agents/mine.py", "--num-tasks", "3"),
        *("--checkpoint", str(run.checkpoints / "step-00010")),
    ]
