"""Every token of every episode on disk: written while training, read while it is written.

    open_run(folder)      a run's records; its methods are how everything else reads them

Two Parquet files a step, which pandas and DuckDB read as well: ``schema`` has their columns,
``docs/records.md`` shows how. ``recorder`` writes them; readers need not wait for its torch.
"""

from agentrl.records.episode import CallRecord, EpisodeRecord, EpisodeRow
from agentrl.records.reader import Found, RunRecords, open_run

__all__ = ["CallRecord", "EpisodeRecord", "EpisodeRow", "Found", "RunRecords", "open_run"]
