// One episode as it came from the server, and what follows from it. Positions are those of the record's
// token tree. What is read, though, is a story: the calls one after the other, each token where the first
// call has it.

/**
 * The episode, and
 *   calls       each with its positions (of the tokens it sampled), fresh (the positions that no call
 *               before it has), its parent (the call that it goes on from, or leaves; null where it
 *               shares no token with one), and level: how many forks it is deep
 *   terms       of each position, what each call that sampled it says of it
 *   order       all positions as they are read;   rank: of each position, its place there
 */
export function read(episode) {
  episode.terms = episode.ids.map(() => []);
  for (const [index, call] of episode.calls.entries()) {
    Object.assign(call, { index, positions: pathEnd(episode.parent, call) });
    call.positions.forEach((position, i) => episode.terms[position].push(term(call, i)));
  }
  tellInOrder(episode);
  nestCalls(episode);
  return episode;
}

function term(call, i) {
  const [sampler, trainer] = [call.sampler_logprobs[i], call.trainer_logprobs[i]];
  return {
    call,
    sampler,
    trainer,
    ratio: trainer === null ? null : Math.exp(trainer - sampler),
    advantage: call.advantages[i],
    entropy: call.entropies[i],
    weight: call.weights[i],
  };
}

/** The first token where an episode says something, whichever tokens it is made of; null: nowhere. */
export function whereSaid({ order, texts }, words) {
  const parts = Array.from(order, (position) => texts[position].toLowerCase());
  let letters = parts.join("").indexOf(words.toLowerCase());
  return letters < 0 ? null : order[parts.findIndex((part) => (letters -= part.length) < 0)];
}

/** The last tokens of the path to a call's leaf: those that it sampled. */
function pathEnd(parent, { leaf, sampler_logprobs: sampled }) {
  const positions = new Int32Array(sampled.length);
  for (let i = sampled.length - 1, at = leaf; i >= 0; i--, at = parent[at]) positions[i] = at;
  return positions;
}

/** A call's fresh tokens are the end of its path: where one is new, so is all that follows. */
function tellInOrder(episode) {
  const { parent, calls } = episode;
  const order = new Int32Array(parent.length);
  const rank = new Int32Array(parent.length).fill(-1);
  let told = 0;
  for (const call of calls) {
    let length = 0;
    for (let at = call.leaf; at >= 0 && rank[at] < 0; at = parent[at]) length++;
    for (let i = told + length - 1, at = call.leaf; i >= told; i--, at = parent[at]) {
      order[i] = at;
      rank[at] = i;
    }
    call.fresh = order.subarray(told, told + length);
    told += length;
  }
  Object.assign(episode, { order, rank });
}

/** A call hangs on the earlier one with which it shares most of its path; of equals, on the first. */
function nestCalls({ parent, calls }) {
  // Which call was the first to have a token.
  const owner = new Int32Array(parent.length).fill(-1);
  for (const call of calls) {
    const shared = call.fresh.length ? parent[call.fresh[0]] : call.leaf;
    call.parent = shared < 0 ? null : calls[owner[shared]];
    // A conversation that only grows is one line, not a stair.
    const isDeeper = call.parent && call.why_forked !== null;
    call.level = call.parent ? call.parent.level + (isDeeper ? 1 : 0) : 0;
    for (let at = call.leaf; at >= 0 && owner[at] < 0; at = parent[at]) owner[at] = call.index;
  }
}
