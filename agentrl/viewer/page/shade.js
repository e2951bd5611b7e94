// What a token's colour says. Blue: in the loss. Orange: sampled, and left out of it (or below zero).
// Each has a line of its own beneath it too, whole or dotted, for eyes that see no colour.

/** Each: what it is called, the value of a term, and at which sizes of it its seven shades begin. */
export const SHADES = {
  logprob: {
    label: "log-prob",
    of: ({ trainer, sampler }) => trainer ?? sampler,
    from: [0.01, 0.1, 0.5, 1, 2, 4],
    words: ["sure", "surprising"],
  },
  entropy: {
    label: "entropy",
    of: ({ entropy }) => entropy,
    from: [0.01, 0.1, 0.3, 0.6, 1, 2],
    words: ["certain", "open"],
  },
  ratio: {
    label: "ratio",
    of: ({ trainer, sampler }) => (trainer === null ? 0 : trainer - sampler),
    from: [1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.2],
    words: ["1", "far from 1"],
  },
  advantage: {
    label: "advantage",
    of: ({ advantage }) => advantage,
    from: [0.1, 0.3, 0.6, 1, 1.5, 2],
    words: ["0", "±2"],
    signed: true,
  },
};

/** Of a token: in the loss, or out of it; which of the seven shades; below zero. Of a given one, none. */
export function classOf(terms, by) {
  // Of several calls that sampled it, a trained one is shown.
  const term = terms.find(({ call }) => call.in_loss) ?? terms[0];
  if (!term) return "";
  const { of, from, signed } = SHADES[by];
  const value = of(term);
  const shade = from.filter((start) => Math.abs(value) >= start).length;
  return `${term.call.in_loss ? "in" : "out"} shade-${shade} ${signed && value < 0 ? "below" : ""}`;
}
