"""GSM8K's rows: the real ones where the variable GSM8K names their folder, else rows like them."""

import json
import os
from itertools import islice
from pathlib import Path

from experiments.gsm8k_offline import problems

NUM_REAL = 7473 + 1319
AWKWARD = [
    {
        "question": "A ship carries 1,200 crates of “tea” at $12.50 each.\nWhat is it all worth?",
        "answer": "1,200 x $12.50 = $<<1200*12.5=15000>>15,000.\n#### 15,000",
    },
    {
        "question": "Zoë's café was at -4°C, and warms by ½ of 18 degrees. How warm is it now?",
        "answer": "½ x 18 = <<18*0.5=9>>9\n-4 + 9 = <<-4+9=5>>5 degrees\n#### 5",
    },
    {"question": "Ivy owes 3 pens and has none. Her balance?", "answer": "0 - 3\n#### -3"},
]
"""Thousands with a comma, money, letters beyond ASCII, two lines, a number below zero."""


def gsm8k_rows(spare: Path) -> Path:
    """The folder of train.jsonl and test.jsonl; where there are no real ones, made in ``spare``."""
    if real := os.environ.get("GSM8K"):
        return Path(real)
    folder = spare / "rows"
    folder.mkdir()
    for name, held_out in (("train", False), ("test", True)):
        rows = [*AWKWARD, *islice(problems(0, held_out=held_out), 40)]
        keys = ("question", "answer")
        lines = [json.dumps({key: row[key] for key in keys}) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder
