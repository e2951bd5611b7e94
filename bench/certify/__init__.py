"""Certify: which presets estimate the policy gradient, proved by enumeration on micro models.

make certify      or      python -m bench.certify [NAME | path.py | a+b ...]

    worlds         two tasks, a few tokens, one or two turns, one or two agents; named parts of a
                   reward, rewards of calls, states
    cases          every episode, and every batch of groups, each with its chance
    estimates      the expectation and the variance of an algorithm's step
    truth          what its gradient should be of
    reference      RLOO with sums over episodes, of what an episode is worth
    trials         how each preset is tried
    controls       what would be wrong in training
    certificate    all of it for one preset
"""
