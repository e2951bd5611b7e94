"""Self-play against a past self, which takes the policy's weights every EVERY steps (as in arXiv
1710.03748); after a resume it is the checkpoint. Both get the same problem.

    r = [the policy is right] - [its opponent is right]
"""

from dataclasses import replace

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.judges.numbers import boxed_equals
from agentrl.config import AuxiliaryModel
from experiments import gsm8k_offline
from experiments.gsm8k.openai_sdk import solve

EVERY = 2


async def play(task, model, auxiliary_models):
    players = model, auxiliary_models["opponent"]
    mine, theirs = [
        boxed_equals((await solve(task, player)).response, task["answer"]) for player in players
    ]
    return WorkflowOutput(reward=float(mine) - float(theirs), success=mine)


def renew_opponent(moment):
    if moment.step % EVERY == 0:
        moment.serving.auxiliary["opponent"].engine.sync(moment.policy.weights())


config = replace(
    gsm8k_offline.config,
    workflow=play,
    judge=None,
    auxiliary_models={"opponent": AuxiliaryModel(model=None, max_model_len=512)},
    after_step=renew_opponent,
)
