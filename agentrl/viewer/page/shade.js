// What a token's colour says. Blue: in the loss. Orange: sampled, and left out of it (or below zero).
// Each has a line of its own beneath it too, whole or dotted, for eyes that see no colour.

/** Each: what it is called, the value of a term, and where its seven shades begin. */
export const SHADES = {
  logprob: {
    label: "log-prob",
    of: (e, at) => -(isNaN(e.trainer_logprobs[at]) ? e.sampler_logprobs[at] : e.trainer_logprobs[at]),
    from: [0.01, 0.1, 0.5, 1, 2, 4],
    words: ["sure", "surprising"],
  },
  entropy: {
    label: "entropy",
    of: (e, at) => e.entropies[at],
    from: [0.01, 0.1, 0.3, 0.6, 1, 2],
    words: ["certain", "open"],
  },
  ratio: {
    label: "ratio",
    of: (e, at) => Math.abs(e.trainer_logprobs[at] - e.sampler_logprobs[at]),
    from: [1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2],
    words: ["1", "far from 1"],
  },
  advantage: {
    label: "advantage",
    of: (e, at) => e.advantages[at],
    from: [0.1, 0.3, 0.6, 1, 1.5, 2],
    words: ["0", "±2"],
    signed: true,
  },
};

/** Of a token: in the loss, or out of it; which of the seven shades; below zero. Of a given one, none. */
export function classOf(episode, position, by) {
  const term = episode.termAt[position];
  if (term < 0) return "";
  const { of, from, signed } = SHADES[by];
  const value = of(episode, term);
  const shade = from.filter((start) => Math.abs(value) >= start).length;
  const isBelow = signed && value < 0;
  return `${episode.in_loss[position] ? "in" : "out"} shade-${shade} ${isBelow ? "below" : ""}`;
}
