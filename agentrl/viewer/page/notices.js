// What went wrong, in lines above everything.

import { h } from "./dom.js";

/** element, and say(part, sentence): each part of the page has one; "" takes it back. */
export function notices() {
  const told = new Map();
  const element = h("div", { class: "notice", role: "alert", hidden: true });

  function say(part, sentence) {
    // Said anew, it would be read aloud anew.
    if ((told.get(part) ?? "") === sentence) return;
    told.set(part, sentence);
    const sentences = new Set([...told.values()].filter(Boolean));
    element.replaceChildren(...[...sentences].map((one) => h("p", {}, one)));
    element.hidden = !sentences.size;
  }
  return { element, say };
}
