"""Linear rows, which others train on: a token is in as many of them as calls have seen it.

Rows go through the policy in the better of two ways: padded to a rectangle through transformers'
own attention, or one behind the other as a forest of chains.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentrl.learning.packing import MicroBatch
from agentrl.types import Sample
from kernels.logprob import linear_logprob
from kernels.tree import TokenTree
from kernels.tree.plan import plan


@dataclass(frozen=True)
class Row:
    """Calls of which each begins with the one before: the last one's tokens are all of theirs."""

    samples: list[Sample]

    @property
    def ids(self) -> list[int]:
        return self.samples[-1].call.ids

    @property
    def trained(self) -> np.ndarray:
        """Where the tokens stand that were sampled, call by call."""
        return np.concatenate([_completion(sample) for sample in self.samples])


def one_per_call(episodes: Sequence[Sequence[Sample]]) -> list[Row]:
    return [Row([sample]) for calls in episodes for sample in calls]


def one_per_chain(episodes: Sequence[Sequence[Sample]]) -> list[Row]:
    """A row for each maximal chain of growing calls."""
    rows: list[Row] = []
    for calls in episodes:
        of_episode: list[Row] = []
        for sample in calls:
            grown = [row for row in of_episode if _continues(sample, row)]
            if grown:
                grown[-1].samples.append(sample)
            else:
                of_episode.append(Row([sample]))
        rows += of_episode
    return rows


def batches(rows: Sequence[Row], budget: int, *, is_padded: bool) -> list[list[Row]]:
    """Rows of like length together, at most ``budget`` tokens with their padding."""
    made: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        # Ascending: the new row is the longest.
        lengths = [len(r.ids) for r in (*(made[-1] if made else ()), row)]
        if made and (len(lengths) * len(row.ids) if is_padded else sum(lengths)) <= budget:
            made[-1].append(row)
        else:
            made.append([row])
    return made


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    ids: Tensor
    """[B, L]."""
    trained: Tensor
    """[N] where the trained tokens stand in the flattened ids."""
    sampler_logprobs: Tensor
    advantages: Tensor

    def to(self, device: torch.device) -> "PaddedBatch":
        return PaddedBatch(**{name: value.to(device) for name, value in vars(self).items()})


def padded(rows: Sequence[Row]) -> PaddedBatch:
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = row.ids
    trained = np.concatenate([b * length + row.trained for b, row in enumerate(rows)])
    return PaddedBatch(ids=torch.from_numpy(ids), trained=torch.from_numpy(trained), **_terms(rows))


def score_padded(lm, batch: PaddedBatch) -> Tensor:
    """[N] log-probabilities. Padding comes last, where no causal mask lets a token see it."""
    hidden = lm.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)
    weight = lm.get_output_embeddings().weight
    targets = batch.ids.flatten()[batch.trained]
    return linear_logprob(hidden[batch.trained - 1], weight, targets)[0]


def packed(rows: Sequence[Row]) -> MicroBatch:
    """The rows as a forest of chains: nothing padded, nothing shared."""
    lengths = np.array([len(row.ids) for row in rows])
    starts = lengths.cumsum() - lengths
    depth = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    parent = np.where(depth == 0, -1, np.arange(lengths.sum()) - 1)
    tree = TokenTree(
        ids=np.concatenate([row.ids for row in rows]).astype(np.int32),
        depth=depth.astype(np.int32),
        parent=parent.astype(np.int32),
        end=np.repeat(starts + lengths, lengths).astype(np.int32),
        index=[],
    )
    trained = np.concatenate([s + row.trained for s, row in zip(starts, rows, strict=True)])
    return MicroBatch(
        ids=torch.from_numpy(tree.ids).long(),
        depth=torch.from_numpy(tree.depth).long(),
        parent=torch.from_numpy(tree.parent).long(),
        plan=plan(tree),
        trained=torch.from_numpy(trained),
        term=torch.arange(len(trained)),
        samples=tuple(range(sum(len(row.samples) for row in rows))),
        # No loss is summed by its calls here.
        call=torch.zeros(len(trained), dtype=torch.long),
        weights=torch.ones(len(trained)),
        **_terms(rows),
    )


def _continues(sample: Sample, row: Row) -> bool:
    return sample.call.prompt_ids[: len(row.ids)] == row.ids


def _completion(sample: Sample) -> np.ndarray:
    return np.arange(len(sample.call.prompt_ids), len(sample.call.ids))


def _terms(rows: Sequence[Row]) -> dict[str, Tensor]:
    samples: Iterator[Sample] = (sample for row in rows for sample in row.samples)
    logprobs, advantages = [], []
    for sample in samples:
        logprobs += sample.call.logprobs
        advantages += [sample.advantage] * len(sample.call.completion_ids)
    return {
        "sampler_logprobs": torch.tensor(logprobs, dtype=torch.float32),
        "advantages": torch.tensor(advantages, dtype=torch.float32),
    }
