"""Arrow schemas of a step's two Parquet files: a row an episode, and a row a token tree.

``step-00012.episodes.parquet``, what update 12 trained on; ``eval-00012.episodes.parquet``, the
evaluation of the weights that it made:

    step, held_out          whose file it is
    group                   the number of the episode's group in the step; an evaluation's go on
                            from the training's: (step, group, episode) is a key over all files
    episode                 its number in the group
    task_id, status         as text; status: ok, truncated, error or timeout
    error                   *
    reward                  the mean over the agents *
    rewards                 by agent, where each has its own *
    parts                   by name, where the reward is their weighted sum *
    success                 *
    metrics                 by name *
    seconds                 rounded
    num_calls, num_tokens, num_trained      of its tree, each token once; of the loss, a token as
                            often as it was sampled
    block                   the row of the tokens file that its tokens are in

``step-00012.tokens.parquet``, a row a block: the token tree of the episodes of a group, or of
several groups where they are small:

    ids                     depth-first
    parents                 positions; -1: a root
    calls                   of those episodes, in order; each has
      group, episode, call    whose it is; call: its number in the episode
      agent, finish_reason
      model                   the name of an auxiliary model; null: the trained one **
      under_grammar           drawn from a masked distribution, and never trained
      why_forked              where it leaves the tokens of the calls before it *
      leaf                    the position of its last token; -1: its tokens are not known
      num_sampled             so many at the end of the path to the leaf
      advantage               the mean over its tokens; null: it was no sample *
      reward                  its own, beside the episode's *
      state                   what the workflow called the state it was made in *
      observation             what the environment showed before it *
     and, a value for each sampled token,
      sampler_logprobs        under the distribution that it was drawn from *
      trainer_logprobs        under the policy; null: it was not in the loss *
      entropies               of the policy's distribution, in nats, rounded *
      advantages              where they differ within the call *
      versions                of the weights that drew it, where they differ from the step's **
      measures                an algorithm's own, by name *

* may be null, or not be there; ** is read where it is there, and not written yet. A reader passes
over columns and files that it does not know: what is new needs no other version.

Importance weights are ``min(exp(trainer - sampler), cap)``: they are not stored, the metadata has
the cap. Where an algorithm's are others they are the measure ``importance``.
"""

import pyarrow as pa

VERSION = 1
"""Of files that a reader of another version would misread."""
METADATA = b"agentrl"
"""The key of a file's metadata: JSON with version, step, held_out, num_groups, importance_cap."""
IMPORTANCE = "importance"
ROUNDED_BITS = 12
"""Significant ones of what is looked at, and nothing is computed from: entropies, seconds."""

INTEGER, NUMBER, TEXT, FLAG = pa.int32(), pa.float64(), pa.string(), pa.bool_()
INTEGERS, FLOATS, NUMBERS = pa.list_(INTEGER), pa.list_(pa.float32()), pa.map_(TEXT, NUMBER)


def _fields(always: dict[str, pa.DataType], sometimes: dict[str, pa.DataType]) -> list[pa.Field]:
    required = [pa.field(name, kind, nullable=False) for name, kind in always.items()]
    return required + [pa.field(name, kind) for name, kind in sometimes.items()]


EPISODES = pa.schema(
    _fields(
        {"step": INTEGER, "held_out": FLAG, "group": INTEGER, "episode": INTEGER}
        | {"task_id": TEXT, "status": TEXT, "seconds": NUMBER}
        | dict.fromkeys(("num_calls", "num_tokens", "num_trained", "block"), INTEGER),
        {"error": TEXT, "reward": NUMBER, "success": FLAG}
        | dict.fromkeys(("rewards", "parts", "metrics"), NUMBERS),
    )
)
FLOATS_OF_CALL = ("sampler_logprobs", "trainer_logprobs", "entropies", "advantages")
CALL = pa.schema(
    _fields(
        dict.fromkeys(("group", "episode", "call", "leaf", "num_sampled"), INTEGER)
        | {"agent": TEXT, "finish_reason": TEXT, "under_grammar": FLAG},
        {"why_forked": TEXT, "state": TEXT, "observation": TEXT}
        | {"advantage": NUMBER, "reward": NUMBER}
        | dict.fromkeys(FLOATS_OF_CALL, FLOATS)
        | {"measures": pa.map_(TEXT, FLOATS)},
    )
)
TOKENS = pa.schema(
    _fields({"ids": INTEGERS, "parents": INTEGERS, "calls": pa.list_(pa.struct(list(CALL)))}, {})
)
