"""Every token of every episode on disk: written while training, read while it is written.

    open_run(folder)      a run's records; its methods are how everything else reads them
    load(folder)          its steps, one after the other, read lazily

``recorder`` writes them; readers need not wait for its torch.
``docs/records.md`` says what is stored, and how.
"""

from agentrl.records.episode import CallRecord, EpisodeRecord, EpisodeRow
from agentrl.records.reader import Found, RunRecords, Step, load, open_run

__all__ = [
    "CallRecord",
    "EpisodeRecord",
    "EpisodeRow",
    "Found",
    "RunRecords",
    "Step",
    "load",
    "open_run",
]
