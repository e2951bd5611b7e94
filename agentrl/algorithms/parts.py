"""Part weights, as ``--algorithm.part-weights NAME=NUMBER`` has them."""

from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

PartWeights = Annotated[
    dict[str, float],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=NUMBER",
        instance_from_str=lambda words: {n: float(x) for n, x in (w.split("=") for w in words)},
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda weights: [f"{name}={weights[name]}" for name in weights],
    ),
]
