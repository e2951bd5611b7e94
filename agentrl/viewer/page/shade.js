// What a token's colour says. Blue: in the loss. Orange: sampled, and left out of it (or below zero).
// Each has a line of its own beneath it too, whole or dotted, for eyes that see no colour.

/** Of the seven shades, in percent. */
export const OPACITIES = [4, 10, 17, 25, 34, 44, 56];

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

/** in: in the loss; out: sampled, and left out of it; given: not sampled. */
export function kindOf(episode, position) {
  if (episode.in_loss[position]) return "in";
  return episode.termAt[position] < 0 ? "given" : "out";
}

/** Which of the seven shades a sampled token has, and whether its value is below zero. */
export function strengthOf(episode, position, { of, from, signed }) {
  const value = of(episode, episode.termAt[position]);
  const size = Math.abs(value);
  let strength = 0;
  while (strength < from.length && size >= from[strength]) strength++;
  return { strength, isBelow: Boolean(signed) && value < 0 };
}
