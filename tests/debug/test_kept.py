"""Episodes that a command ran without training are there to be looked at."""

from argparse import Namespace
from dataclasses import replace

from agentrl.debug.kept import KeptEpisodes
from agentrl.records import open_run
from agentrl.runs.progress import Display
from experiments.gsm8k_offline import config
from tests.support.made_runs import tokenizer
from tests.support.recorded import GROUPS


class Tokenizer:
    save_pretrained = staticmethod(tokenizer)


def test_untrained_episodes_are_recorded_in_a_folder_of_their_own(tmp_path, capsys):
    runs = tmp_path / "looked at"
    flags = Namespace(exp="gsm8k_offline", checkpoint=None)
    kept = KeptEpisodes(replace(config, runs=runs), flags, Tokenizer, Display())
    assert not runs.exists()
    kept.add(GROUPS)
    kept.add(GROUPS[1:])
    (folder,) = runs.glob("gsm8k_offline/*-untrained")
    said = capsys.readouterr().out.splitlines()
    assert said == [f"every token  python -m agentrl.viewer '{folder}'"] * 2
    run = open_run(folder)
    assert run.batches() == [(0, True), (1, True)]
    assert [row.task_id for row in run.episodes(step=1)] == ["second", "second"]
    assert run.read(0, "first", 0).calls[0].completion_ids.tolist() == [3]
    assert run.config["experiment"] == "gsm8k_offline"
    assert len(run.decode([1, 2])) == 2
