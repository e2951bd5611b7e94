"""What a step is measured by."""

from dataclasses import replace

from agentrl.runs.metrics import episode_metrics, token_metrics
from agentrl.types import Call, Episode, Group, Sample


def call(ids: list[int], agent: str) -> Call:
    return Call(prompt_ids=ids[:-1], completion_ids=ids[-1:], logprobs=[-0.1], agent=agent)


def group(*rewards) -> Group:
    calls = (call([1, 2, 3], "solver"), call([1, 4, 5], "checker"))
    return Group(
        {"id": "t"},
        tuple(
            Episode(task={"id": "t"}, index=i, calls=calls, reward=reward, success=True)
            for i, reward in enumerate(rewards)
        ),
    )


def rewards(*groups: Group) -> dict[str, float]:
    return {k: v for k, v in episode_metrics(groups).items() if k.startswith("reward/")}


def test_the_reward_of_each_agent():
    given = (
        {"solver": 1.0, "checker": 0.5},
        {"solver": 0.0, "checker": 0.0},
        {"solver": 0.5},
        None,
    )
    # Of the episodes: 0.75, 0, 0.5.
    assert rewards(group(*given)) == {
        "reward/solver": 0.5,
        "reward/checker": 0.25,
        "reward/mean": 1.25 / 3,
    }
    assert rewards(group(1.0, 0.0)) == {"reward/mean": 0.5}


def test_a_number_counts_for_every_agent():
    assert rewards(group({"solver": 1.0, "checker": 0.0}, 0.0)) == {
        "reward/solver": 0.5,
        "reward/checker": 0.0,
        "reward/mean": 0.25,
    }


def test_a_part_is_the_mean_of_the_episodes_that_have_it():
    """As it was given: its weight is in the reward alone."""
    given = ({"right": 1.0, "short": 0.5}, {"right": 0.0}, {})
    plain = group(1.25, 0.0, 0.5)
    pairs = zip(plain.episodes, given, strict=True)
    episodes = (*(replace(e, parts=parts) for e, parts in pairs), *group(None).episodes)
    assert rewards(replace(plain, episodes=episodes)) == {
        "reward/mean": 1.75 / 3,
        "reward/parts/right": 0.5,
        "reward/parts/short": 0.5,
    }


def test_tokens_are_those_of_the_trained_calls():
    groups = [group(1.0, 0.0)]
    calls = [call for episode in groups[0].episodes for call in episode.calls]
    every = token_metrics(groups, [Sample(call, 0.0) for call in calls], 5)
    # 1 2 3 and 1 4 5 in each of two episodes.
    assert every == {
        "tokens/logical": 12,
        "tokens/unique": 5,
        "tokens/computed": 5,
        "tokens/trained": 4,
        "tokens/under_grammar": 0,
    }
    solver = token_metrics(groups, [Sample(c, 0.0) for c in calls if c.agent == "solver"], 3)
    assert solver == {
        "tokens/logical": 6,
        "tokens/unique": 3,
        "tokens/computed": 3,
        "tokens/trained": 2,
        "tokens/under_grammar": 0,
    }


def test_tokens_under_a_grammar_are_counted():
    (one,) = [group(1.0, 0.0)]
    masked = tuple(
        replace(e, calls=tuple(replace(c, under_grammar=True) for c in e.calls))
        for e in one.episodes[:1]
    )
    groups = [Group(one.task, (*masked, *one.episodes[1:]))]
    sampled = sum(len(call.completion_ids) for call in one.episodes[0].calls)
    assert token_metrics(groups, [], 0)["tokens/under_grammar"] == sampled == 2
