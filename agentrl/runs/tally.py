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

MAX_GAP, COMPUTED = "gap/max_abs_logprob", "tokens/computed"


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
        self._counts: Counter[str] = Counter()
        self._sums: list[dict[str, Tensor]] = []
        self._unread: list[tuple[list[int], dict[str, Tensor]]] = []
        """Of each micro-batch, on its device: what is read earlier stops the device."""
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

    def weigh(self, part: Sequence[Sample], divisor: float) -> None:
        """An optimizer step, or a chunk's share of one, has these samples, all ranks'."""
        self.divisor += divisor
        self.learns |= self._every_call or any(sample.has_gradient for sample in part)

    def add(
        self, part: Sequence[Sample], micro: MicroBatch, terms: Terms, losses: Losses, loss: Tensor
    ) -> None:
        """The terms of a micro-batch of a part; loss: their weighted sum."""
        if not micro.samples:
            return
        self._counts.update({"terms": len(micro.term), COMPUTED: len(micro.ids)})
        self._sums.append(_sums(terms, losses, loss))
        numbers = [self._numbers[id(part[i])] for i in micro.samples]
        self._losses.append(loss.detach())
        self._blamable.append((numbers, columns(micro, terms, losses)))
        if self._scored.isdisjoint(numbers):
            self._scored.update(numbers)
            of_terms = {"logprobs": terms.logprobs, "entropies": terms.entropies, **losses.measures}
            self._unread.append((numbers, {n: v.detach() for n, v in of_terms.items()}))

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
        sums, max_gap = self._read()
        own = [Scores.of(numbers, **of_terms) for numbers, of_terms in self._unread]
        tallies = ranks.gather([(sums, max_gap, own)], "tallies")
        sums = Counter()
        for of_rank, _, scores in tallies:
            sums.update(of_rank)
            self.scores += scores
        return {
            **episode_metrics(self.groups),
            **token_metrics(self.groups, self.samples, sums.pop(COMPUTED, 0)),
            **self._means(sums, float(np.max([max_gap for _, max_gap, _ in tallies]))),
            "grad_norm": sum(self._norms) / len(self._norms),
            "degenerate": self.is_degenerate,
        }

    def _read(self) -> tuple[Counter, float]:
        """The sums over this rank's micro-batches, by one copy, and the largest gap."""
        values = [value for sums in self._sums for value in sums.values()]
        numbers = iter(torch.stack(values).tolist() if values else ())
        total, max_gap = Counter(self._counts), 0.0
        for sums in self._sums:
            read = {name: next(numbers) for name in sums}
            # Python's max would lose a NaN.
            max_gap = np.maximum(max_gap, read.pop(MAX_GAP))
            total.update(read)
        return total, max_gap

    def _means(self, sums: Counter, max_gap: float) -> dict[str, float]:
        num_terms = sums.pop("terms", 0)
        if not num_terms:
            return {}
        means = {name: total / num_terms for name, total in sums.items()}
        return {**means, "loss": sums["loss"] / self.divisor, MAX_GAP: max_gap}


@torch.no_grad()
def _sums(terms: Terms, losses: Losses, loss: Tensor) -> dict[str, Tensor]:
    """Over a micro-batch, and its largest gap; in fp64, as numbers of Python are."""
    gap = (terms.logprobs - terms.sampler_logprobs).abs()
    prob_gap = (terms.logprobs.exp() - terms.sampler_logprobs.exp()).abs()
    sums = {
        "loss": loss.detach(),
        "entropy": terms.entropies.sum(),
        "gap/mean_abs_prob": prob_gap.sum(),
        **{name: values.sum() for name, values in losses.measures.items()},
        MAX_GAP: gap.max() if len(gap) else gap.sum(),
    }
    return {name: value.double() for name, value in sums.items()}


def _in_batch(sample: Sample, groups_before: int) -> Sample:
    """A sample whose group is counted in the whole batch, not in its chunk."""
    if not groups_before or sample.group is None:
        return sample
    return replace(sample, group=sample.group + groups_before)
