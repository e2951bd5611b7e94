// The tokens of an episode, as they are read: the calls one after the other, a span a token.
//
// A hundred thousand of them stand in blocks, of which the browser lays out and draws those in sight and
// near it (content-visibility), and finds what is in the others, too.

import { h } from "./dom.js";
import { classOf } from "./shade.js";

// Tokens of a block: it ends with a line, where there is one between the two.
const FEWEST = 60;
const MOST = 250;
// What a line holds, until the block has been laid out.
const LETTERS = 100;

/** element, moveTo(position), reshade(by). onToken(position, box) when one is pointed at or walked to. */
export function tokenPane(episode, onToken) {
  const spans = [];
  // Where one is, and what is pointed at.
  let cursor = null;
  let pointed = null;

  const section = (call) => {
    const start = Math.max(call.fresh.indexOf(call.positions[0]), 0);
    const prompt = call.fresh.subarray(0, start);
    const from = fromWhere(episode, call);
    return h(
      "section",
      { style: `--level: ${Math.min(call.level, 8)}` },
      start ? [h("h2", {}, `prompt of call ${call.index + 1}`, from), blocks(prompt)] : null,
      h("h2", {}, about(call), start ? null : from),
      blocks(call.fresh.subarray(start)),
    );
  };

  function blocks(positions) {
    const made = [];
    let block = [];
    let lines = 0;
    for (const [i, position] of positions.entries()) {
      const text = shown(episode.texts[position]);
      const isEnd = text.endsWith("\n");
      spans[position] = document.createElement("span");
      Object.assign(spans[position], { textContent: text, position });
      block.push(spans[position]);
      lines += isEnd ? 1 : text.length / LETTERS;
      if (block.length < (isEnd ? FEWEST : MOST) && i < positions.length - 1) continue;
      made.push(h("pre", { style: `--lines: ${Math.ceil(lines)}` }, block));
      [block, lines] = [[], 0];
    }
    return made;
  }

  function reshade(by) {
    for (const position of episode.order) spans[position].className = classOf(episode.terms[position], by);
    spans[cursor]?.classList.add("cursor");
  }

  function moveTo(position, { quiet = false } = {}) {
    // An address may name anything.
    const wanted = Number(position ?? NaN);
    if (!spans[wanted]) return;
    spans[cursor]?.classList.remove("cursor");
    cursor = wanted;
    spans[cursor].classList.add("cursor");
    spans[cursor].scrollIntoView({ block: "nearest" });
    tell(quiet ? null : cursor);
  }

  const tell = (position) =>
    onToken(position, position === null ? null : spans[position].getClientRects()[0]);

  function point({ target }) {
    const position = target.position ?? null;
    if (position !== pointed) tell((pointed = position));
  }

  function walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { order, rank } = episode;
    const at = cursor === null ? -1 : rank[cursor];
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: order.length - 1 }[event.key];
    if (next === undefined) return;
    moveTo(order[next]);
    event.preventDefault();
    event.stopPropagation();
  }

  const element = h(
    "div",
    {
      class: "tokens",
      tabindex: "0",
      role: "region",
      "aria-label": `Tokens of episode ${episode.row.episode}`,
      onpointermove: point,
      onpointerleave: point,
      onclick: ({ target }) => getSelection().isCollapsed && moveTo(target.position),
      onkeydown: walk,
    },
    episode.calls.map(section),
  );
  return { element, moveTo, reshade };
}

const about = (call) => [
  h("b", {}, `call ${call.index + 1}`),
  ` ${call.agent}, ${call.positions.length} sampled, ${call.finish_reason}`,
  call.under_grammar ? ", under a grammar" : "",
];

/** Why a call's fresh tokens do not stand behind the one just above them. */
function fromWhere({ parent, rank }, { fresh, why_forked: why }) {
  if (!fresh.length) return null;
  const from = parent[fresh[0]];
  if ((from < 0 ? -1 : rank[from]) === rank[fresh[0]] - 1) return null;
  const place = from < 0 ? "from the start" : `after token ${from}`;
  return h("span", { class: why ? "fork" : "" }, ` ↳ ${why ?? "goes on"}, ${place}`);
}

/** A token's text, with what cannot be seen. */
const shown = (text) =>
  text
    .replace(/\t/g, "⇥   ")
    .replace(/\r/g, "␍")
    .replace(/[\0-\x08\x0b-\x1f]/g, "␀")
    .replace(/\n/g, "↵\n");
