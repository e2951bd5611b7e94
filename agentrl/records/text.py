"""Text of tokens, by the tokenizer that was saved in a run's folder: no hub, and no transformers
unless the tokenizer has no fast form.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

Ids = Sequence[int] | np.ndarray
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
MOST = 8
"""Tokens that are joined to make characters whole: one has four bytes at the most, but its last
token may begin another."""


class Texts:
    def __init__(self, folder: Path):
        """Raises ValueError where the folder holds no tokenizer."""
        self._decode = _decoder(folder)
        self._of = lru_cache(maxsize=None)(self._of_one)

    def whole(self, ids: Ids) -> str:
        """What these ids say together, special tokens included."""
        return self._decode(list(map(int, ids)))

    def of(self, ids: Ids) -> list[str]:
        """The text of each; of tokens that share a character, the first has it."""
        ids = list(map(int, ids))
        texts = [self._of(token) for token in ids]
        for start in range(len(texts)):
            if UNKNOWN in texts[start]:
                together = self._together(ids[start : start + MOST])
                texts[start : start + len(together)] = together
        return texts

    def _together(self, ids: list[int]) -> list[str]:
        """The texts of the first few, as soon as they are whole characters; of none otherwise."""
        for stop in range(2, len(ids) + 1):
            text = self._decode(ids[:stop])
            if UNKNOWN not in text:
                return [text, *[""] * (stop - 1)]
        return []

    def _of_one(self, token: int) -> str:
        # Some decoders drop a space at the beginning of a text: the second of two shows it.
        alone, twice = self._decode([token]), self._decode([token, token])
        return twice[len(alone) :] if twice.startswith(alone) else alone


def _decoder(folder: Path) -> Callable[[list[int]], str]:
    try:
        if (folder / "tokenizer.json").exists():
            from tokenizers import Tokenizer

            fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
            return lambda ids: fast.decode(ids, skip_special_tokens=False)
        # Slow to import.
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return lambda ids: slow.decode(ids, clean_up_tokenization_spaces=False)
    except Exception as error:
        raise ValueError(f"{folder} holds no tokenizer that can be read: {error}") from error
