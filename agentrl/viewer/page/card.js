// What is known of one token, beside it.

import { h } from "./dom.js";

const card = h("div", { class: "card", role: "tooltip", id: "card", hidden: true });
const spoken = h("div", { class: "spoken", "aria-live": "polite" });

export function mountCard(page) {
  page.append(card, spoken);
}

export function hideCard() {
  card.hidden = true;
}

export function showCard(episode, position, box) {
  const terms = episode.terms[position];
  const text = JSON.stringify(episode.texts[position]);
  const sampled = terms.length ? "sampled, left out of the loss" : "given, not sampled";
  const kind = terms.some(({ call }) => call.in_loss) ? "in the loss" : sampled;
  card.replaceChildren(
    h("div", { class: "card-text" }, text),
    h("div", { class: "card-kind" }, `token ${position} · ${kind}`),
    h("dl", {}, ...line("id", episode.ids[position]), ...terms.flatMap((term) => numbers(term, terms.length > 1))),
  );
  card.hidden = false;
  put(box);
  spoken.textContent = `${text}, ${kind}`;
}

const LABELS = { sampler: "log-prob, sampler", trainer: "log-prob, trainer" };
const NUMBERS = ["sampler", "trainer", "ratio", "advantage", "entropy", "weight"];

function numbers(term, isOneOfSeveral) {
  const of = isOneOfSeveral ? [h("dt", { class: "of" }, `call ${term.call.index + 1}`), h("dd")] : [];
  return [...of, ...NUMBERS.flatMap((name) => line(LABELS[name] ?? name, number(term[name]), name))];
}

function line(name, value, key = name) {
  return [h("dt", {}, name), h("dd", { "data-value": key }, String(value))];
}

/** Five digits; a dash where there is none, as for what was not trained. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const isOrdinary = Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6;
  return isOrdinary ? String(Number(value.toPrecision(5))) : value.toExponential(2);
}

/** Below the token, or above it where there is no room. */
function put({ left, top, bottom }) {
  const { offsetWidth: width, offsetHeight: height } = card;
  const isRoom = bottom + height + 12 < innerHeight;
  card.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  card.style.top = `${isRoom ? bottom + 6 : Math.max(8, top - height - 6)}px`;
}
