"""The kernels' page shows code that runs."""

import re

import torch

from agentrl.callables import ROOT
from kernels.tree_attention import tree_attention


def test_the_example_of_the_page_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "kernels/README.md").read_text(), re.S)
    names = {}
    exec(block, names)
    assert names["tree"].ids.tolist() == [5, 6, 8, 9, 7]
    assert names["out"].shape == names["q"].shape == (5, 2, 16)
    expected = tree_attention(*(names[n] for n in ("q", "k", "v", "planned")), impl="reference")
    torch.testing.assert_close(names["out"], expected, atol=1e-5, rtol=1e-5)
