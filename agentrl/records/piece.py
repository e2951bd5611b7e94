"""The episodes of a task, or of several where they are small, <-> a piece of bytes.

``docs/records.md`` describes the format.

All their calls are one token tree, stored once: token ids in depth-first order, and the parent
where a token does not follow the one before it. A call is the path that ends at its leaf; its
completion is the end of that path. What was measured is stored for each call's completion, so a
token that several calls share keeps what each of them measured, to the bit.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.records import columns
from agentrl.types import Episode

LARGEST = 1 << 30
"""Bytes of a piece, decompressed: more than a real one has, and less than what hurts."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What the loss took of one call. The arrays are float32, a value a token."""

    advantage: float
    trainer_logprobs: np.ndarray
    entropies: np.ndarray
    weights: np.ndarray
    """The loss's correction weights."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredCall:
    """A call as a path of its piece's tree."""

    episode: int
    """Its number in the piece."""
    agent: str
    finish_reason: str
    under_grammar: bool
    why_forked: str | None
    leaf: int
    """The tree position at which it ends."""
    start: int
    """Where on its path the completion begins."""
    sampler_logprobs: np.ndarray
    trained: Trained | None


@dataclass(frozen=True, eq=False)
class Piece:
    """A token tree, int32 of shape [T] (see ``kernels.tree``), and its calls in order."""

    ids: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    starts: np.ndarray
    """Where the runs begin: tokens that each follow the one before them."""
    above: np.ndarray
    """The parent of the first token of each run; -1: none."""
    calls: list[StoredCall]

    def path(self, call: StoredCall) -> np.ndarray:
        """Tree positions from the root to the call's leaf; int32.

        Made when asked for: those of all calls are a hundred times their tree.
        """
        return _end_of_path(call.leaf, int(self.depth[call.leaf]) + 1, self.starts, self.above)


def pack(
    episodes: Sequence[Episode],
    trained: Mapping[int, Trained],
    ids: np.ndarray,
    parent: np.ndarray,
    paths: Sequence[np.ndarray],
    why_forked: Sequence[str | None],
) -> bytes:
    """The bytes of a piece, not yet compressed.

    trained: of the calls that were in the loss, by ``id(call)``. ids, parent: the tree of all
    calls; paths: the tree positions of each; why_forked: its cause, where it does.
    """
    calls = [call for episode in episodes for call in episode.calls]
    kind_of = [
        (call.agent, call.finish_reason, call.under_grammar, why)
        for call, why in zip(calls, why_forked, strict=True)
    ]
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(kind_of))}
    lengths = [len(call.completion_ids) for call in calls]
    forks = (parent != np.arange(-1, len(parent) - 1)).nonzero()[0]
    losses = [trained.get(id(call)) for call in calls]
    in_loss = np.array([loss is not None for loss in losses], bool)
    taken = [loss for loss in losses if loss is not None]
    positions = _joined([p[len(p) - n :] for p, n in zip(paths, lengths, strict=True)])
    sampler = _joined([call.logprobs for call in calls])
    weights = _joined([loss.weights for loss in taken])
    cap = float(weights.max()) if len(weights) else 0.0
    header = {
        "kinds": list(kinds),
        "cap": cap,
        "episodes": len(episodes),
        "tokens": len(ids),
        "forks": len(forks),
    }
    numbers = [
        [len(episode.calls) for episode in episodes],
        ids,
        forks,
        parent[forks],
        [path[-1] for path in paths],
        lengths,
        [kinds[kind] for kind in kind_of],
        in_loss,
    ]
    in_loss_terms = np.repeat(in_loss, lengths)
    return b"".join(
        [
            json.dumps(header).encode() + b"\n",
            *(columns.to_bytes(np.asarray(column, np.int32)) for column in numbers),
            np.array([loss.advantage for loss in taken], "<f8").tobytes(),
            *_measured(positions, sampler, in_loss_terms, taken, weights, cap),
        ]
    )


def unpack(data: bytes) -> Piece:
    """What ``pack`` took; raises ValueError where these are not such bytes."""
    try:
        return _unpack(data)
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"it is not what was written ({error})") from error


def compress(data: bytes) -> bytes:
    return zlib.compress(data)


def decompress(data: bytes) -> bytes:
    """Raises ValueError where the bytes are broken, or come to more than LARGEST."""
    decompressor = zlib.decompressobj()
    try:
        whole = decompressor.decompress(data, LARGEST)
    except zlib.error as error:
        raise ValueError(f"it is broken ({error})") from error
    if not decompressor.eof:
        full = len(whole) >= LARGEST
        raise ValueError(f"it is larger than {LARGEST} bytes" if full else "its end is missing")
    return whole


def _joined(parts: Sequence) -> np.ndarray:
    if not parts:
        return np.empty(0, np.float32)
    return np.concatenate([np.asarray(part) for part in parts])


def _measured(
    positions: np.ndarray,
    sampler: np.ndarray,
    in_loss: np.ndarray,
    taken: Sequence[Trained],
    weights: np.ndarray,
    cap: float,
) -> Iterator[bytes]:
    """Log-probabilities, entropies and weights of all terms.

    The sampler says nearly what the trainer says, of a token as of its copies in other calls.
    """
    sampler = sampler.astype(np.float32)
    trainer = _joined([loss.trainer_logprobs for loss in taken])
    entropies = _joined([loss.entropies for loss in taken])
    zeros = np.zeros(len(positions), np.int32)
    yield columns.encode(sampler, zeros, columns.first_of_each(positions))
    first = columns.first_of_each(positions[in_loss])
    sampler = sampler[in_loss]
    yield columns.encode(trainer, columns.places(sampler), first)
    yield columns.encode(entropies, zeros[: len(first)], first)
    prediction = columns.predicted_weights(trainer, sampler, cap)
    yield columns.encode(weights, prediction, np.arange(len(first)))


class _Cursor:
    """The sections of a piece's bytes, one after the other."""

    def __init__(self, data: bytes, at: int):
        self._data, self._at = data, at

    def take(self, count: int, width: int = columns.WIDTH) -> bytes:
        end = self._at + count * width
        if count < 0 or end > len(self._data):
            raise ValueError("it ends too early")
        section = self._data[self._at : end]
        self._at = end
        return section

    def numbers(self, count: int) -> np.ndarray:
        return columns.from_bytes(self.take(count))


def _unpack(data: bytes) -> Piece:
    line = data.index(b"\n") + 1
    header = json.loads(data[:line])
    cursor = _Cursor(data, line)
    counts = cursor.numbers(header["episodes"])
    ids = cursor.numbers(header["tokens"])
    forks, fork_parents = (cursor.numbers(header["forks"]) for _ in range(2))
    # The first token begins a run, too, and has no parent.
    runs = np.append(np.int32(0), forks), np.append(np.int32(-1), fork_parents)
    parent, depth = _tree(len(ids), *runs)
    num_calls = int(counts.sum())
    leaves, lengths, kinds, in_loss = (cursor.numbers(num_calls) for _ in range(4))
    in_loss = in_loss.astype(bool)
    advantages = np.frombuffer(cursor.take(int(in_loss.sum()), 8), "<f8")
    if (ids < 0).any():
        raise ValueError("a token is none")
    if ((leaves < 0) | (leaves >= len(ids))).any():
        raise ValueError("a call ends outside the tree")
    starts_of_calls = depth[leaves] + 1 - lengths
    if (lengths < 0).any() or (starts_of_calls < 0).any():
        raise ValueError("a completion is longer than its call")
    # Taken before their positions are made: lengths that are too large end here.
    sampler = cursor.take(int(lengths.sum()))
    ends = zip(leaves.tolist(), lengths.tolist(), strict=True)
    positions = _joined([_end_of_path(leaf, length, *runs) for leaf, length in ends])
    in_loss_terms = np.repeat(in_loss, lengths)
    zeros = np.zeros(len(positions), np.int32)
    first = columns.first_of_each(positions)
    sampler = columns.decode(sampler, zeros, first)
    first = columns.first_of_each(positions[in_loss_terms])
    drawn, taken = sampler[in_loss_terms], len(first)
    trainer = columns.decode(cursor.take(taken), columns.places(drawn), first)
    entropies = columns.decode(cursor.take(taken), zeros[:taken], first)
    prediction = columns.predicted_weights(trainer, drawn, header["cap"])
    weights = columns.decode(cursor.take(taken), prediction, np.arange(taken))

    parts = (_split(column, lengths[in_loss]) for column in (trainer, entropies, weights))
    losses = iter([Trained(*loss) for loss in zip(advantages.tolist(), *parts, strict=True)])
    calls = [
        StoredCall(
            episode=episode,
            **dict(zip(_KIND, header["kinds"][kind], strict=True)),
            leaf=leaf,
            start=start,
            sampler_logprobs=drawn,
            trained=next(losses) if is_in_loss else None,
        )
        for episode, kind, leaf, start, drawn, is_in_loss in zip(
            np.repeat(np.arange(len(counts)), counts).tolist(),
            kinds.tolist(),
            leaves.tolist(),
            starts_of_calls.tolist(),
            _split(sampler, lengths),
            in_loss,
        )
    ]
    return Piece(ids, parent, depth, *runs, calls)


_KIND = ("agent", "finish_reason", "under_grammar", "why_forked")


def _split(column: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(column, np.cumsum(lengths))[:-1]


def _tree(size: int, starts: np.ndarray, above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """parent and depth of all tokens, from where each run of them starts and what is above it."""
    parent = np.arange(-1, size - 1, dtype=np.int32)
    depth = np.arange(size, dtype=np.int32)
    if not size:
        return parent, depth
    if (np.diff(starts) < 1).any() or (above >= starts).any() or (above < -1).any():
        raise ValueError("its tree is none")
    parent[starts] = above
    ends = [*starts[1:].tolist(), size]
    for start, end, parent_of_run in zip(starts.tolist(), ends, above.tolist(), strict=True):
        first = depth[parent_of_run] + 1 if parent_of_run >= 0 else 0
        depth[start:end] = np.arange(first, first + end - start)
    return parent, depth


def _end_of_path(leaf: int, count: int, starts: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The last tree positions, so many, on the way from the root to a leaf; int32."""
    pieces = [np.empty(0, np.int32)]
    while count > 0:
        run = np.searchsorted(starts, leaf, side="right") - 1
        start = max(int(starts[run]), leaf + 1 - count)
        pieces.append(np.arange(start, leaf + 1, dtype=np.int32))
        leaf, count = int(above[run]), count - len(pieces[-1])
    return np.concatenate(pieces[::-1])
