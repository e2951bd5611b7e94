"""A launched rank, whose policy FSDP2 holds alone: what ``sharding`` asks of it, into a file.

python -m torch.distributed.run --standalone --nproc-per-node 1 -m bench.gpu.sharded OUT
"""

import json
import sys
from pathlib import Path

import torch

from bench.gpu.training import (
    OPTIONS,
    TREES,
    errors,
    gradients_of,
    num_different_after_load,
    prepared,
    ranks,
    whole,
)
from bench.step.layouts import make_model


def main(out: Path) -> None:
    tree, rows, _ = errors()
    model = make_model(OPTIONS)
    before = [weight.detach().clone() for weight in model[0].parameters()]
    model, learner = prepared(model)
    pairs = zip(before, model[1].weights(), strict=True)
    weights = sum(int((a != b).sum()) for a, (_, b) in pairs)
    residual: list[int] = []
    model[0].base_model.layers[-1].register_forward_pre_hook(
        lambda module, args: residual.append(args[0].element_size())
    )
    found = gradients_of(model, TREES)
    norm = torch.cat([whole(x).flatten() for x in found]).norm().item()
    results = {
        "tree": tree,
        "rows": rows,
        "weights": weights,
        "norm": ranks().clip(learner.policy, 1e9).item() / norm,
        "residual": residual[-1],
        "resumed": num_different_after_load(),
    }
    out.write_text(json.dumps(results))
    ranks().close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
