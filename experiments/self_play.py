r"""Self-play: Kuhn's poker against a past self, which is renewed; two cores, no download.

    python train.py --exp self_play

The engine tells the policy's odds at all twelve information sets, so what the best responses to it
win is exact: ``kuhn/exploitability``, 0 in an equilibrium. The held-out hands are against a player
of equilibrium. Credit has no standard deviation: divided by each deal's own, it would be that of
another game. A pull to where it started keeps self-play from going in circles (arXiv 2206.05825).
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from statistics import fmean

from agentrl.algorithms.named import load_algorithm
from agentrl.config import (
    AuxiliaryModel,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
)
from agentrl.environments.agent import play
from agentrl.environments.protocol import Observation
from agentrl.types import Message, Report, Task
from experiments.tiny_model import Recipe, make_tiny_model

CARDS = "JQK"
DEALS = [*permutations(CARDS, 2)]
OPEN, FACED = ("check", "bet"), ("fold", "call")
MOVES = {(): OPEN, ("check",): OPEN, ("bet",): FACED, ("check", "bet"): FACED}
"""What may be said after what was said; after anything else the hand is over."""
SITUATIONS = [*product(CARDS, MOVES)]
RULES = "Kuhn poker: J < Q < K, a chip each in the pot, a bet is another. Answer with a word."
EVERY = 2
TIMID = 0.6
"""How often a player of the transcripts checks or folds, whatever it holds; else it is Kuhn's."""
Said = tuple[str, ...]
Odds = dict[tuple[str, Said], dict[str, float]]
"""A strategy: of each card, and what was said, how likely each move is."""


def payoff(deal: Sequence[str], said: Said) -> int:
    """What who begins wins."""
    if said[-1] == "fold":
        return 1 if len(said) == 2 else -1
    is_higher = CARDS.index(deal[0]) > CARDS.index(deal[1])
    return (1 if is_higher else -1) * (2 if said[-1] == "call" else 1)


def equilibrium(bluff: float = 0.2) -> Odds:
    """Kuhn's (1950), of which there is one for each share from 0 to 1/3 of a J's bets."""
    bold = {"J": (bluff, 1 / 3, 0, 0), "Q": (0, 0, 1 / 3, 1 / 3 + bluff), "K": (3 * bluff, 1, 1, 1)}
    each = zip(SITUATIONS, (p for card in CARDS for p in bold[card]), strict=True)
    return {at: dict(zip(MOVES[at[1]], (1 - p, p), strict=True)) for at, p in each}


def value(first: Odds, second: Odds, deal: Sequence[str] = "", said: Said = ()) -> float:
    """What who begins wins on average, of a deal or of all."""
    if not deal:
        return fmean(value(first, second, deal) for deal in DEALS)
    if said not in MOVES:
        return payoff(deal, said)
    turn = len(said) % 2
    odds = (first, second)[turn][deal[turn], said]
    return sum(p * value(first, second, deal, (*said, m)) for m, p in odds.items() if p)


def exploitability(odds: Odds) -> float:
    """What a best response wins of a hand, the mean of those to who begins and who follows."""
    best = []
    for turn in (0, 1):
        own = [at for at in SITUATIONS if len(at[1]) % 2 == turn]
        chosen = product(*(MOVES[at[1]] for at in own))
        pure = [{at: {move: 1.0} for at, move in zip(own, of, strict=True)} for of in chosen]
        won = [-value(odds, one) if turn else value(one, odds) for one in pure]
        best.append(max(won))
    return fmean(best)


def conversation(card: str, said: Said) -> list[Message]:
    """What a player has heard and said, when it is asked what comes after this."""
    messages = []
    for n in range(len(said) % 2, len(said) + 1, 2):
        opening = f"{RULES} You hold {card}. " if n < 2 else ""
        heard = f"The other says {said[n - 1]}." if n else "You begin."
        asked = f"{opening}{heard} {' or '.join(MOVES[said[:n]])}?"
        messages.append({"role": "user", "content": asked})
        messages += [{"role": "assistant", "content": move} for move in said[n : n + 1]]
    return messages


class Kuhn:
    """A hand; what is no move costs the agent 2, the most. It is ours: it needs no process."""

    async def reset(self, task: Task, seed: int) -> Observation:
        self._task, self._rng, self._said = task, random.Random(seed), ()
        return self._next()

    async def step(self, action: str) -> Observation:
        move = named(action, MOVES[self._said])
        if move is None and self._player == "agent":
            return Observation(text="", reward=-2.0, done=True, success=False)
        # An opponent's is a check or a fold.
        self._said += (move or MOVES[self._said][0],)
        return self._next()

    def _next(self) -> Observation:
        turn, task = len(self._said) % 2, self._task
        if self._said not in MOVES:
            won = payoff(task["deal"], self._said) * (1 if task["begins"] else -1)
            return Observation(text="", reward={"agent": float(won)}, done=True, success=won > 0)
        self._player = "agent" if (turn == 0) == task["begins"] else "opponent"
        card, legal = task["deal"][turn], MOVES[self._said]
        if self._player == "opponent" and task["against"] == "equilibrium":
            odds = equilibrium()[card, self._said].values()
            self._said += tuple(self._rng.choices(legal, [*odds]))
            return self._next()
        text = conversation(card, self._said)[-1]["content"]
        return Observation(text=text, player=self._player, actions=legal)


def named(text: str, legal: tuple[str, ...]) -> str | None:
    """The move that a text names, where that is legal and the only one."""
    found = set(re.findall(rf"\b(?:{'|'.join(OPEN + FACED)})\b", text.lower()))
    return found.pop() if len(found) == 1 and found <= {*legal} else None


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Each deal from either side of the table; a game has no hands that training never sees."""
    rows = [{"deal": deal, "begins": begins} for deal in DEALS for begins in (True, False)]
    held_out = [{**row, "against": "equilibrium", "number": n} for n in range(200) for row in rows]
    return [{**row, "against": "itself"} for row in rows], held_out


def transcript(rng: random.Random) -> list[Message]:
    """One side of a hand between timid players."""
    deal, said, turn = rng.choice(DEALS), (), rng.randrange(2)
    while said in MOVES:
        odds = [*equilibrium()[deal[len(said) % 2], said].values()]
        said += tuple(rng.choices(MOVES[said], (1, 0) if rng.random() < TIMID else odds))
    last = range(turn, len(said), 2)[-1]
    return [*conversation(deal[turn], said[:last]), {"role": "assistant", "content": said[last]}]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    return make_tiny_model(RECIPE, [transcript(rng) for _ in range(RECIPE.transcripts)], [], report)


def after_step(moment) -> dict[str, float]:
    """Give the opponent the policy's weights, every EVERY steps, and measure."""
    if moment.step % EVERY == 0:
        moment.serving.auxiliary["opponent"].engine.sync(moment.policy.weights())
    odds = odds_of(moment.serving)
    legal = fmean(sum(of.values()) for of in odds.values())
    odds = {at: {m: p / sum(of.values()) for m, p in of.items()} for at, of in odds.items()}
    return {"kuhn/exploitability": exploitability(odds), "kuhn/legal": legal}


def odds_of(serving) -> Odds:
    """How likely the policy is to answer with each move and no other word."""
    tokenizer, odds = serving.tokenizer, {}
    form = {"add_generation_prompt": True, "return_dict": False}
    for card, said in SITUATIONS:
        asked = tokenizer.apply_chat_template(conversation(card, said), **form)
        for move in MOVES[said]:
            answer = [*tokenizer.encode(move, add_special_tokens=False), tokenizer.eos_token_id]
            scores = serving.engine.score(asked + answer)[-len(answer) :]
            odds.setdefault((card, said), {})[move] = math.exp(sum(scores))
    return odds


RECIPE = Recipe(transcripts=3000, steps=100, batch=64)

config = Config(
    workflow=play,
    tasks=tasks,
    make_model=make_model,
    algorithm=replace(load_algorithm("rloo+kl"), kl_weight=0.1),
    after_step=after_step,
    steps=80,
    tasks_per_step=12,
    group_size=16,
    micro_batch_tokens=1024,
    model=ModelConfig(max_model_len=256),
    data=DataConfig(env="experiments.self_play:Kuhn"),
    sampling=SamplingConfig(max_tokens=8),
    optim=OptimConfig(lr=3e-4, warmup_steps=5, final_lr_share=0.05, betas=(0.9, 0.99)),
    eval=EvalConfig(every=80, num_tasks=2400, best="eval/reward/mean"),
    auxiliary_models={"opponent": AuxiliaryModel(model=None, max_model_len=256)},
)
