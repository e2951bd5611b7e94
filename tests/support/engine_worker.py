"""One of the ranks of an engine in ``test_tensor_parallel``: draws, cancels a call, draws again.

python -m accelerate.commands.launch ... -m tests.support.engine_worker MODEL OUT
"""

import faulthandler
import json
import sys
import time
import weakref
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from agentrl.config import EngineConfig, LoraConfig, OptimConfig
from agentrl.learning.learner import adamw
from agentrl.learning.lora import add_adapters
from agentrl.learning.policy import Policy
from agentrl.learning.ranks import Ranks
from agentrl.serving.engine import Engine
from agentrl.serving.process import prepare_process
from agentrl.serving.sampling import Sampling
from agentrl.serving.vllm_args import start_vllm
from agentrl.signals import Signals

LONGEST_SECONDS = 120
"""From the first draw to the end."""


def draw(engine: Engine) -> list[list[int]]:
    calls = [
        engine.submit([20, 7, i], Sampling(temperature=1.0, max_tokens=12, seed=i))
        for i in range(4)
    ]
    return [call.result(timeout=60).ids for call in calls]


def cancel_one(engine: Engine) -> None:
    endless = Sampling(temperature=1.0, max_tokens=400, others={"ignore_eos": True})
    call = engine.submit([20, 7, 9], endless)
    while not engine._llm.has_unfinished_requests():
        time.sleep(0.01)
    call.cancel()
    while engine._llm.has_unfinished_requests():
        time.sleep(0.01)


def push(engine: Engine, ranks: Ranks, folder: str, rank: int | None) -> dict:
    """A push of a sharded policy, or one with adapters of a rank: what of it is whole at once, and
    what is gathered."""
    policy = Policy.load(folder)
    if rank:
        add_adapters(policy.lm, LoraConfig(rank=rank))
        for weight in policy.trainable():
            torch.nn.init.normal_(weight, std=0.02)
    policy, _ = ranks.prepare(policy, adamw(policy.trainable(), OptimConfig()))
    alive: dict[str, weakref.ref] = {}
    most: list[int] = []

    def watched(weights):
        for name, whole in weights:
            alive[name] = weakref.ref(whole)
            # vLLM keeps an embedding to the end where a rank's share is padded, as here.
            wholes = (ref() for n, ref in alive.items() if ".layers." in n)
            most.append(sum(w.numel() for w in wholes if w is not None))
            yield name, whole
            # The name is the last to hold it here.
            del whole

    gap = policy.probe_gap(engine.probe, engine.sync(watched(policy.weights(engine.dtype))))
    of_layer = [w.numel() for n, w in policy.weights() if ".layers.0." in n]
    found = {"gap": gap, "whole at once": max(most), "a layer": sum(of_layer)}
    gathered, full_tensor = set(), DTensor.full_tensor
    DTensor.full_tensor = lambda self: (gathered.add(str(self.dtype)), full_tensor(self))[1]
    list(policy.weights(torch.bfloat16))
    DTensor.full_tensor = full_tensor
    return found | {"gathered": sorted(gathered)}


def main() -> None:
    folder, out = sys.argv[1], Path(sys.argv[2])
    prepare_process()
    torch.set_num_threads(1)
    ranks = Ranks("float32", Signals(), 120.0, ranks_per_engine=2)
    config = EngineConfig(tensor_parallel_size=2)
    engine = Engine(start_vllm(folder, max_model_len=512, dtype="float32", config=config))
    found = {"drawn": [draw(engine)] if ranks.is_first else []}
    # Ranks that step with different batches wait for each other for ever.
    faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
    if ranks.is_first:
        cancel_one(engine)
    # Both ranks are asked; the follower answers when the leader has come here.
    found["unfinished"] = engine._call(engine._llm.get_num_unfinished_requests)
    if ranks.is_first:
        found["drawn"].append(draw(engine))
    found["scores"] = engine.score(engine.probe)
    found["pushes"] = [push(engine, ranks, folder, rank) for rank in (None, 8)]
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
    ranks.wait("the end")
    engine.close()
    ranks.close()
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
