"""Tally: what the loss terms of a step came to, over micro-batches, optimizer steps and ranks."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.algorithms import GRPO, Losses, Terms
from agentrl.learning.packing import MicroBatch
from agentrl.learning.ranks import Ranks
from agentrl.records.scores import Scores
from agentrl.runs.blame import Blamable, columns, find_cause, sentence
from agentrl.runs.metrics import episode_metrics, token_metrics
from agentrl.types import Group, NotFinite, Sample


class Tally:
    """A step's groups and samples, and sums over the loss terms that this rank has seen."""

    def __init__(self, algorithm: GRPO) -> None:
        self.groups: list[Group] = []
        self.samples: list[Sample] = []
        self.scores: list[Scores] = []
        """Of the first pass; all ranks', when ``gather`` has been called."""
        self.divisor = 0.0
        """What the sums of the loss are divided by, over all optimizer steps."""
        self.learns = False
        """Whether anything since the last optimizer step had a gradient."""
        self.is_degenerate = True
        """Whether no optimizer step was made."""
        self._every_call = algorithm.every_call
        self._norms: list[float] = []
        self._computed, self._max_gap = 0, 0.0
        self._sums: Counter[str] = Counter()
        self._numbers: dict[int, int] = {}
        self._scored: set[int] = set()
        self._losses: list[Tensor] = []
        self._blamable: list[Blamable] = []
        """Of this rank's micro-batches since the last optimizer step."""

    def begin(self, groups: Sequence[Group], samples: Sequence[Sample]) -> None:
        """A chunk of the step is trained on from here."""
        start, before = len(self.samples), len(self.groups)
        self._numbers |= {id(sample): start + i for i, sample in enumerate(samples)}
        self.groups += groups
        self.samples += [_in_batch(sample, before) for sample in samples]

    def weigh(
        self, part: Sequence[Sample], divisor: float, micro_batches: Sequence[MicroBatch]
    ) -> None:
        """An optimizer step, or a chunk's share of one, has these samples and trees, all ranks'."""
        self.divisor += divisor
        self.learns |= self._every_call or any(sample.has_gradient for sample in part)
        self._computed += sum(len(micro.ids) for micro in micro_batches)

    def add(
        self, part: Sequence[Sample], micro: MicroBatch, terms: Terms, losses: Losses, loss: Tensor
    ) -> None:
        """The terms of a micro-batch of a part; loss: their weighted sum."""
        with torch.no_grad():
            gap = (terms.logprobs - terms.sampler_logprobs).abs()
            prob_gap = (terms.logprobs.exp() - terms.sampler_logprobs.exp()).abs()
            # Python's max would lose a NaN.
            self._max_gap = np.maximum(self._max_gap, gap.max().item() if len(gap) else 0.0)
            self._sums.update(
                {
                    "terms": len(gap),
                    "loss": loss.item(),
                    "entropy": terms.entropies.sum().item(),
                    "gap/mean_abs_prob": prob_gap.sum().item(),
                    **{name: values.sum().item() for name, values in losses.measures.items()},
                }
            )
        numbers = [self._numbers[id(part[i])] for i in micro.samples.tolist()]
        self._losses.append(loss.detach())
        self._blamable.append((numbers, columns(micro, terms, losses)))
        if self._scored.isdisjoint(numbers):
            self._scored.update(numbers)
            self.scores.append(
                Scores.of(torch.tensor(numbers), terms.logprobs, terms.entropies, **losses.measures)
            )

    def stepped(self, norm: Tensor, ranks: Ranks) -> bool:
        """The gradient of an optimizer step is there: whether there is anything to learn.

        norm: the gradient's. Raises NotFinite on all ranks, where it or the loss is not.
        """
        values = torch.stack([norm.to(ranks.device), ranks.sum(self._losses)]).tolist()
        if not all(map(math.isfinite, values)):
            cause = find_cause(self._blamable, self.samples, self.groups)
            raise NotFinite(sentence(*values, ranks.gather([cause], "causes")))
        learns, self.learns = self.learns, False
        self._norms.append(values[0])
        self._losses.clear(), self._blamable.clear()
        self.is_degenerate &= not learns
        return learns

    def gather(self, ranks: Ranks) -> dict[str, Any]:
        """The step's metrics; the scores of all ranks are here from now on."""
        tallies = ranks.gather([(self._sums, self._max_gap, self.scores)], "tallies")
        self.scores = [scores for *_, of_rank in tallies for scores in of_rank]
        return {
            **episode_metrics(self.groups),
            **token_metrics(self.groups, self.samples, self._computed),
            **self._means(tallies),
            "grad_norm": sum(self._norms) / len(self._norms),
            "degenerate": self.is_degenerate,
        }

    def _means(self, tallies: Sequence[tuple[Counter, float, Any]]) -> dict[str, float]:
        sums: Counter[str] = Counter()
        for of_rank, *_ in tallies:
            sums.update(of_rank)
        num_terms = sums.pop("terms", 0)
        if not num_terms:
            return {}
        means = {name: total / num_terms for name, total in sums.items()}
        return {
            **means,
            "loss": sums["loss"] / self.divisor,
            "gap/max_abs_logprob": float(np.max([max_gap for _, max_gap, _ in tallies])),
        }


def _in_batch(sample: Sample, groups_before: int) -> Sample:
    """A sample whose group is counted in the whole batch, not in its chunk."""
    if not groups_before or sample.group is None:
        return sample
    return replace(sample, group=sample.group + groups_before)
