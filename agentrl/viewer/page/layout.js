// Tokens -> rows of equal height. Plain letters are all as wide and only counted; what is not ASCII is
// measured once a text. So a hundred thousand tokens take a few milliseconds.

const MAX_INDENT = 8;
const PLAIN = /^[ -~]*$/;
/** Letters that a fork stands further in. */
export const INDENT = 2;

/**
 * rows: each {blank}, {head} or {level, tokens: positions, texts, lefts}; rowAt: of each position, the row
 * where it begins. Widths are in pixels: that of a row, and of a letter; measure(text) of any other text.
 */
export function layOut(episode, { width, letter, measure }) {
  const { text, texts, calls } = episode;
  const widest = width - MAX_INDENT * INDENT * letter;
  const parts = new Map();
  const rows = [];
  const rowAt = new Int32Array(text.length);
  for (const call of calls) {
    const level = Math.min(call.level, MAX_INDENT);
    const start = call.fresh.indexOf(call.positions[0]);
    let row = null;
    let right = 0;
    const head = (about) => {
      if (rows.length) rows.push({ blank: true });
      rows.push({ head: { call, level, ...about } });
      row = null;
    };
    // Where a call sampled what an earlier one did, its own tokens begin in the midst of its completion.
    head({ of: start > 0 ? "prompt" : "call", from: fromWhere(episode, call) });
    call.fresh.forEach((position, i) => {
      if (i === start && start > 0) head({ of: "call", from: null });
      const key = text[position];
      if (!parts.has(key)) parts.set(key, split(texts[key], widest, letter, measure));
      for (const [index, part] of parts.get(key).entries()) {
        if (row === null || right + part.width > width) {
          right = level * INDENT * letter;
          row = { level, tokens: [], texts: [], lefts: [right] };
          rows.push(row);
        }
        if (index === 0) rowAt[position] = rows.length - 1;
        right += part.width;
        row.tokens.push(position);
        row.texts.push(part.text);
        row.lefts.push(right);
        if (part.breaks) row = null;
      }
    });
  }
  return { rows, rowAt };
}

/** The token after which a call's fresh ones stand; null where that is the one just above them. */
function fromWhere({ parent, rank }, { fresh }) {
  if (!fresh.length) return null;
  const from = parent[fresh[0]];
  const before = from < 0 ? -1 : rank[from];
  return before === rank[fresh[0]] - 1 ? null : from;
}

/** A token's text as it is drawn, cut after line breaks and where it is too long for a row. */
function split(text, widest, letter, measure) {
  const shown = text.replace(/\t/g, "⇥   ").replace(/\r/g, "␍").replace(/[\0-\x08\x0b-\x1f]/g, "␀");
  const parts = [];
  const most = Math.floor(widest / letter / 2);
  for (const line of shown.match(/[^\n]*\n|[^\n]+/g) ?? [""]) {
    const breaks = line.endsWith("\n");
    const letters = Array.from(breaks ? `${line.slice(0, -1)}↵` : line);
    for (let i = 0; i === 0 || i < letters.length; i += most) {
      const piece = letters.slice(i, i + most).join("");
      const width = PLAIN.test(piece) ? piece.length * letter : measure(piece);
      parts.push({ text: piece, width, breaks: breaks && i + most >= letters.length });
    }
  }
  return parts;
}
