"""Columns of numbers as few bytes, without losing a bit.

A float32 becomes the whole number at its place among all floats, so that values close to each other
differ by little. What can be predicted is stored as the difference from its prediction: any
prediction is right, a good one is small. Then all lowest bytes come first, all highest last: the
high bytes of small numbers are zeros, which compress to nothing.
"""

import numpy as np

WIDTH = 4
"""Bytes of a number."""


def places(values: np.ndarray) -> np.ndarray:
    """float32 -> int32 in the same order; every bit pattern has a place of its own.

    >>> places(np.array([-1e-45, -0.0, 0.0, 1e-45], np.float32)).tolist()
    [-2, -1, 0, 1]
    """
    bits = values.astype(np.float32).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def values_at(places: np.ndarray) -> np.ndarray:
    """The float32 at these places; see ``places``."""
    return (places ^ ((places >> 31) & 0x7FFFFFFF)).view(np.float32)


def to_bytes(numbers: np.ndarray) -> bytes:
    """int32 -> their bytes, the lowest of all first.

    >>> to_bytes(np.array([1, -1, 2], np.int32)).hex(" ", 3)
    '020104 000000 000000 000000'
    """
    # -1 becomes 1 and 1 becomes 2: else the high bytes of negative numbers were 255.
    unsigned = ((numbers << 1) ^ (numbers >> 31)).astype("<i4")
    return unsigned.view(np.uint8).reshape(-1, WIDTH).T.tobytes()


def from_bytes(data: bytes) -> np.ndarray:
    """The int32 that ``to_bytes`` took."""
    unsigned = np.frombuffer(data, np.uint8).reshape(WIDTH, -1).T.copy().view("<u4")[:, 0]
    return ((unsigned >> 1) ^ -(unsigned & 1)).view(np.int32)


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """For each entry, the index of the first one with the same key.

    >>> first_of_each(np.array([7, 3, 7, 7])).tolist()
    [0, 1, 0, 0]
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def encode(values: np.ndarray, prediction: np.ndarray, first: np.ndarray) -> bytes:
    """float32 -> bytes: differences from the predicted places; where a value is not the first of
    its key, its difference from the first's. int32 wraps around, and so loses nothing."""
    at = places(values)
    is_first = first == np.arange(len(first))
    alone = (at - prediction)[is_first]
    return to_bytes(np.concatenate([alone, (at - at[first])[~is_first]]))


def decode(data: bytes, prediction: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The values that ``encode`` took."""
    stored = from_bytes(data)
    is_first = first == np.arange(len(first))
    at = np.empty(len(first), np.int32)
    at[is_first] = stored[: is_first.sum()] + prediction[is_first]
    at[~is_first] = stored[is_first.sum() :] + at[first[~is_first]]
    return values_at(at)


def predicted_weights(trainer: np.ndarray, sampler: np.ndarray, cap: float) -> np.ndarray:
    """The places of ``min(exp(trainer - sampler), cap)``, nearly.

    By sums and products alone, which every machine rounds alike: what one wrote another reads.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.nan_to_num(trainer.astype(np.float64) - sampler.astype(np.float64))
        x = np.clip(x, -3.0, 3.0)
        power = np.ones_like(x)
        for k in range(18, 0, -1):
            power = 1.0 + power * x / k
        return places(np.minimum(power, cap).astype(np.float32))
