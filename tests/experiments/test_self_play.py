"""Self-play: the game of Kuhn, its equilibria, and what a person would say of an answer."""

import asyncio
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from agentrl.environments.game import game
from agentrl.environments.player import RandomPlayer
from agentrl.tasks.jsonl import with_id
from experiments import self_play
from experiments.self_play import DEALS, MOVES, SITUATIONS, Kuhn, equilibrium

DRAWN = {at: {move: 0.5 for move in MOVES[at[1]]} for at in SITUATIONS}
OPEN, FACED = ("check", "bet"), ("fold", "call")
AWKWARD = [
    ("check", OPEN, "check"),
    ("Check", OPEN, "check"),
    ("CHECK!", OPEN, "check"),
    (" check\n", OPEN, "check"),
    ("check.", OPEN, "check"),
    ("**bet**", OPEN, "bet"),
    ("`bet`", OPEN, "bet"),
    ('"bet"', OPEN, "bet"),
    ("(bet)", OPEN, "bet"),
    ("I bet", OPEN, "bet"),
    ("bet bet bet", OPEN, "bet"),
    ("<answer>bet</answer>", OPEN, "bet"),
    ('{"move": "bet"}', OPEN, "bet"),
    ("I hold K, so I bet.", OPEN, "bet"),
    ("My move: check", OPEN, "check"),
    ("\\boxed{call}", FACED, "call"),
    ("call\x00", FACED, "call"),
    ("I'll call", FACED, "call"),
    ("call...", FACED, "call"),
    ("x" * 100_000 + " fold", FACED, "fold"),
    ("Fold", FACED, "fold"),
    ("fold, fold", FACED, "fold"),
    ("check or bet", OPEN, None),
    ("check? no, bet", OPEN, None),
    ("fold", OPEN, None),
    ("call", OPEN, None),
    ("check", FACED, None),
    ("bet", FACED, None),
    ("bet or fold", FACED, None),
    ("call the bet", FACED, None),
    ("raise", OPEN, None),
    ("all in", OPEN, None),
    ("pass", OPEN, None),
    ("", OPEN, None),
    ("   ", OPEN, None),
    ("K", OPEN, None),
    ("1", OPEN, None),
    ("b", OPEN, None),
    ("b e t", OPEN, None),
    ("better", OPEN, None),
    ("alphabet", OPEN, None),
    ("checkbet", OPEN, None),
    ("folded", FACED, None),
    ("recall", FACED, None),
    ("\uff42\uff45\uff54", OPEN, None),
]


@pytest.mark.parametrize(("said", "legal", "move"), AWKWARD)
def test_an_awkward_answer(said, legal, move):
    assert self_play.named(said, legal) == move


def test_a_hand_is_worth_what_kuhn_says():
    hands = {
        ("check", "check"): (1, -1),
        ("check", "bet", "fold"): (-1, -1),
        ("check", "bet", "call"): (2, -2),
        ("bet", "fold"): (1, 1),
        ("bet", "call"): (2, -2),
    }
    for said, (won, lost) in hands.items():
        for deal in DEALS:
            is_higher = "JQK".index(deal[0]) > "JQK".index(deal[1])
            assert self_play.payoff(deal, said) == (won if is_higher else lost)


@pytest.mark.parametrize("bluff", [0, 0.1, 1 / 3])
def test_an_equilibrium_gives_nothing_away(bluff):
    kuhns = equilibrium(bluff)
    assert self_play.value(kuhns, equilibrium(0.2)) == pytest.approx(-1 / 18)
    assert self_play.exploitability(kuhns) == pytest.approx(0, abs=1e-12)


def test_what_is_no_equilibrium_can_be_exploited():
    assert self_play.exploitability(DRAWN) == pytest.approx(11 / 24)
    never = equilibrium() | {("Q", ("bet",)): {"fold": 1.0}}
    # Who folds every Q is bluffed by every J, which then costs it half a chip and not a whole one:
    # a third of the hands, and half of the time that one follows.
    assert self_play.exploitability(never) == pytest.approx(1 / 12)


def test_a_player_of_equilibrium_loses_an_eighteenth_in_play():
    """As who begins; of many hands, and against any of its equals."""
    rng, hands = random.Random(0), Counter()
    for deal in DEALS * 500:
        said = ()
        while said in MOVES:
            odds = equilibrium()[deal[len(said) % 2], said]
            said += tuple(rng.choices([*odds], [*odds.values()]))
        hands[self_play.payoff(deal, said)] += 1
    mean = sum(won * n for won, n in hands.items()) / 3000
    spread = (sum(n * (won - mean) ** 2 for won, n in hands.items()) / 3000) ** 0.5
    assert abs(mean + 1 / 18) < 1.96 * spread / 3000**0.5


class Scripted(RandomPlayer):
    """Draws, and keeps what it was asked."""

    asked = ()

    async def say(self, seen):
        self.asked = (*self.asked, [dict(message) for message in self.messages])
        return await super().say(seen)


@pytest.mark.parametrize("against", ["itself", "equilibrium"])
def test_what_a_player_is_asked_is_its_information_set(against):
    told = {str(self_play.conversation(*at)) for at in SITUATIONS}
    rng, met = random.Random(1), set()
    for deal in DEALS * 20:
        for begins in (True, False):
            task = {"deal": deal, "begins": begins, "against": against}
            players = {}
            hand = game(Kuhn(), task, rng.getrandbits(32), lambda _: Scripted(rng), players)
            end = asyncio.run(hand)
            assert (end.done, end.success) == (True, end.reward["agent"] > 0)
            met |= {str(one) for player in players.values() for one in player.asked}
            assert ("opponent" in players) == (against == "itself")
    assert met == told
    assert len(told) == 12


def test_words_that_are_no_move_cost_the_most():
    async def answered(begins: bool):
        world = Kuhn()
        task = {"deal": ("K", "J"), "begins": begins, "against": "itself"}
        first = await world.reset(task, 0)
        return first.player, await world.step("raise")

    player, seen = asyncio.run(answered(True))
    assert (player, seen.done, seen.reward, seen.success) == ("agent", True, -2.0, False)
    # An opponent's are a check.
    player, seen = asyncio.run(answered(False))
    assert (player, seen.done, seen.player) == ("opponent", False, "agent")
    assert "The other says check." in seen.text


def test_every_deal_is_played_from_both_sides():
    train, held_out = self_play.tasks(self_play.DataConfig())
    assert (len(train), len(held_out)) == (12, 2400)
    assert len({(task["deal"], task["begins"]) for task in train}) == 12
    assert {task["against"] for task in train} == {"itself"}
    assert {task["against"] for task in held_out} == {"equilibrium"}
    assert len({with_id(task)["id"] for task in held_out}) == 2400


def test_transcripts_are_of_timid_players():
    rng = random.Random(0)
    made = [self_play.transcript(rng) for _ in range(6000)]
    answers = Counter(
        (str(said[:at]), m["content"])
        for said in made
        for at, m in enumerate(said)
        if m["role"] == "assistant"
    )
    kuhns, odds = equilibrium(), {}
    for card, said in SITUATIONS:
        asked = str(self_play.conversation(card, said))
        counts = [answers[asked, move] for move in MOVES[said]]
        odds[card, said] = {m: n / sum(counts) for m, n in zip(MOVES[said], counts, strict=True)}
    for (card, said), of in odds.items():
        move = MOVES[said][1]
        # Who bets is hardly ever asked again.
        error = 0.05 if len(said) < 2 else 0.15
        assert of[move] == pytest.approx(0.4 * kuhns[card, said][move], abs=error)
    assert 0.4 < self_play.exploitability(odds) < 0.6


def test_the_opponent_is_renewed_and_exploitability_told(monkeypatch):
    taken = []
    opponent = SimpleNamespace(engine=SimpleNamespace(sync=taken.append))
    serving = SimpleNamespace(auxiliary={"opponent": opponent})
    half = {at: {move: 0.4 for move in MOVES[at[1]]} for at in SITUATIONS}
    monkeypatch.setattr(self_play, "odds_of", lambda _: half)
    for step in range(1, 2 * self_play.EVERY + 1):
        policy = SimpleNamespace(weights=lambda step=step: step)
        found = self_play.after_step(SimpleNamespace(step=step, policy=policy, serving=serving))
    assert taken == [self_play.EVERY, 2 * self_play.EVERY]
    assert found == {
        "kuhn/exploitability": pytest.approx(11 / 24),
        "kuhn/legal": pytest.approx(0.8),
    }
