// The tree of an episode's calls: one line where the conversation only grew, one deeper at each fork. Where it
// acted in a world, each call is a turn: what it saw, as it was drawn, what it said, and what that earned.

import { number } from "./card.js";
import { h } from "./dom.js";

/** onChoose(call) when one is chosen. */
export function callTree(episode, onChoose) {
  const items = episode.calls.map((call) =>
    h(
      "button",
      { style: `--level: ${Math.min(call.level, 6)}`, onclick: () => onChoose(call) },
      h("b", {}, `${call.index + 1}`),
      ` ${call.agent}`,
      call.reward === null ? null : h("b", { class: call.reward < 0 ? "lost" : "won" }, number(call.reward)),
      h("small", {}, `${call.positions.length} tokens · ${call.finish_reason}`, call.under_grammar ? " · grammar" : ""),
      call.observation === null ? null : h("pre", {}, call.observation),
      call.observation === null ? null : h("pre", { class: "said" }, said(episode, call)),
      call.why_forked ? h("small", { class: "fork" }, `↳ ${call.why_forked}`) : null,
    ),
  );
  const isWorld = episode.calls.some((call) => call.observation !== null);
  return h("nav", { class: isWorld ? "calls world" : "calls", "aria-label": isWorld ? "Turns" : "Calls" }, items);
}

const said = ({ texts }, { positions }) => Array.from(positions, (position) => texts[position]).join("");
