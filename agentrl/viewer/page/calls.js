// The tree of an episode's calls: one line where the conversation only grew, one deeper at each fork.

import { h } from "./dom.js";

/** onChoose(call) when one is chosen. */
export function callTree(episode, onChoose) {
  const items = episode.calls.map((call) =>
    h(
      "button",
      { style: `--level: ${Math.min(call.level, 6)}`, onclick: () => onChoose(call) },
      h("b", {}, `${call.index + 1}`),
      ` ${call.agent}`,
      h("small", {}, `${call.positions.length} tokens · ${call.finish_reason}`, call.under_grammar ? " · grammar" : ""),
      call.why_forked ? h("small", { class: "fork" }, `↳ ${call.why_forked}`) : null,
    ),
  );
  return h("nav", { class: "calls", "aria-label": "Calls" }, items);
}
