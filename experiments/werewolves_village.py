"""``werewolves`` the other way round: the village learns, the wolves stay as they were."""

import dataclasses

from agentrl.config import AuxiliaryModel
from experiments import werewolves
from experiments.werewolves.game import WOLVES

config = dataclasses.replace(
    werewolves.config,
    auxiliary_models={WOLVES: AuxiliaryModel(model=None, max_model_len=2048)},
)
