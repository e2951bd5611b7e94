"""A few groups, and runs that have recorded them."""

from pathlib import Path

from agentrl.records.recorder import Recorder
from agentrl.types import Call, Episode, Group


def a_call(prompt, completion, **other) -> Call:
    logprobs = [-0.5 * (i + 1) for i in range(len(completion))]
    return Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs, **other)


GROUPS = [
    Group(
        {"id": "first"},
        (
            Episode(
                task={"id": "first"},
                index=0,
                calls=(a_call([1, 2], [3]), a_call([1, 2, 3, 4], [5, 6], finish_reason="length")),
                status="truncated",
                reward=1.0,
                success=True,
                metrics={"habit/no_print": 1.0},
                seconds=1.25,
            ),
            Episode(
                task={"id": "first"},
                index=1,
                calls=(a_call([1, 2], [3]),),
                reward=0.0,
                success=False,
                metrics={"habit/no_print": 0.0},
            ),
        ),
    ),
    Group(
        {"id": "second"},
        (
            Episode(task={"id": "second"}, index=0, status="error", error="KeyError: 'x'"),
            Episode(
                task={"id": "second"},
                index=1,
                calls=(a_call([9], [8, 7], agent="checker", under_grammar=True),),
                status="timeout",
                error="too slow",
            ),
        ),
    ),
]


def record(run: Path, step: int, groups, samples=(), scores=(), held_out=False) -> Path:
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text('{"experiment": "mine"}')
    recorder = Recorder(run / "records")
    recorder.add(step, groups, samples, scores, held_out=held_out)
    recorder.close()
    return run
