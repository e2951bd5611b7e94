"""Samples whose gradient is taken of a small model, and a loss that clips some of their terms."""

import numpy as np
import torch

from agentrl.algorithms import GRPO, Terms
from agentrl.types import Call, Episode, Group, Sample

SIZES = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)
TEMPERATURE = 0.7


def conversations() -> list[Sample]:
    """Two tasks of four episodes of three turns; some fork, one repeats another token by token."""
    rng = np.random.default_rng(0)
    samples = []
    for _task in range(2):
        prompt = rng.integers(0, 97, 9).tolist()
        for episode in range(4):
            context, advantage = prompt, float(rng.normal())
            for _turn in range(3):
                completion = rng.integers(0, 97, 4).tolist()
                samples.append(_sample(context, completion, advantage, rng))
                context = context + completion + rng.integers(0, 97, 3).tolist()
            # An edited history forks off in the middle of an earlier call.
            samples.append(_sample(context[:14], rng.integers(0, 97, 5).tolist(), advantage, rng))
            if episode == 3:
                twin = samples[-4].call
                samples.append(_sample(twin.prompt_ids, twin.completion_ids, -advantage, rng))
    return samples


def groups() -> list[Group]:
    """The same calls as two tasks' groups; an episode's reward is what its advantage was."""
    samples, found = conversations(), []
    for task in range(2):
        mine = [samples[17 * task + 4 * i :][: 4 + (i == 3)] for i in range(4)]
        episodes = [
            Episode(
                task={"id": f"{task}"},
                index=i,
                calls=tuple(sample.call for sample in of_episode),
                reward=of_episode[0].advantage,
                success=of_episode[0].advantage > 0,
            )
            for i, of_episode in enumerate(mine)
        ]
        found.append(Group({"id": f"{task}"}, tuple(episodes)))
    return found


def _sample(prompt, completion, advantage, rng) -> Sample:
    logprobs = rng.normal(-4.5, 0.2, len(completion)).astype(np.float32).tolist()
    return Sample(Call(prompt_ids=prompt, completion_ids=completion, logprobs=logprobs), advantage)


def loss_sum(logprobs, sampler_logprobs, advantages):
    # A proximal policy unlike the current one, so that some terms are clipped and some are not:
    # then no single weight per tree token could stand for its terms.
    proximal = logprobs.detach() + 0.3 * torch.sin(1e3 * sampler_logprobs)
    terms = Terms(
        logprobs=logprobs,
        entropies=torch.zeros_like(logprobs),
        sampler_logprobs=sampler_logprobs,
        proximal_logprobs=proximal,
        advantages=advantages,
        call=torch.zeros(len(logprobs), dtype=torch.long),
    )
    return GRPO().loss(terms).values.sum()
