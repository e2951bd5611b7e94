// One episode as it came from the server, and what follows from it. Positions are those of the record's
// token tree. What is read, though, is a story: the calls one after the other, each token where the first
// call has it.

const TYPES = { int32: Int32Array, uint8: Uint8Array, float32: Float32Array };

/** Lay typed arrays over the block of answers.py. */
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, [type, offset, size]] of Object.entries(head.arrays)) {
    arrays[name] = new TYPES[type](buffer, 4 + length + offset, size);
  }
  return { ...head, ...arrays };
}

/**
 * The episode: row, ids, parent, in_loss, texts and which of them each token has, the terms' arrays, and
 *   calls       each with its positions (of the tokens it sampled), first (its first term), fresh (the
 *               positions that no call before it has), its parent (the call that it goes on from, or
 *               leaves; null where it shares no token with one), and level: how many forks it is deep
 *   termAt      of each position, the term that it shows, or -1
 *   order       all positions as they are read;   rank: of each position, its place there
 */
export function read(buffer) {
  const episode = unpack(buffer);
  let first = 0;
  for (const [index, call] of episode.calls.entries()) {
    Object.assign(call, { index, first, positions: pathEnd(episode.parent, call) });
    first += call.sampled;
  }
  episode.termAt = shownTerms(episode);
  tellInOrder(episode);
  nestCalls(episode);
  return episode;
}

/** Every call that sampled this token, with what it says of it. */
export function termsAt(episode, position) {
  return episode.calls.flatMap((call) => {
    const at = call.positions.indexOf(position);
    return at < 0 ? [] : [term(episode, call, call.first + at)];
  });
}

function term(episode, call, at) {
  const sampler = episode.sampler_logprobs[at];
  const trainer = episode.trainer_logprobs[at];
  return {
    call,
    sampler,
    trainer,
    ratio: Math.exp(trainer - sampler),
    advantage: episode.advantages[at],
    entropy: episode.entropies[at],
    weight: episode.weights[at],
  };
}

/** The first token where an episode says something, whichever tokens it is made of; null: nowhere. */
export function whereSaid({ order, text, texts }, words) {
  const parts = Array.from(order, (position) => texts[text[position]].toLowerCase());
  let letters = parts.join("").indexOf(words.toLowerCase());
  return letters < 0 ? null : order[parts.findIndex((part) => (letters -= part.length) < 0)];
}

/** The last tokens of the path to a call's leaf: those that it sampled. */
function pathEnd(parent, { leaf, sampled }) {
  const positions = new Int32Array(sampled);
  for (let i = sampled - 1, at = leaf; i >= 0; i--, at = parent[at]) positions[i] = at;
  return positions;
}

/** Of several calls that sampled one token, a trained one is shown. */
function shownTerms({ ids, calls, trainer_logprobs: trained }) {
  const shown = new Int32Array(ids.length).fill(-1);
  for (const call of calls) {
    call.positions.forEach((position, i) => {
      const before = shown[position];
      if (before < 0 || (isNaN(trained[before]) && !isNaN(trained[call.first + i]))) {
        shown[position] = call.first + i;
      }
    });
  }
  return shown;
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
