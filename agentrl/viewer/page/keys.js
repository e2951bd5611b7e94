// What the keyboard does, anywhere but in a field.

import { h } from "./dom.js";

/** bindings: each {keys, says, act}, and when() they hold, if not always. Returns what shows them. */
export function listen(bindings) {
  const showHelp = () => help.showModal();
  const all = [...bindings, { keys: ["?"], says: "this help", act: showHelp }];
  const help = helpOf(all);
  document.body.append(help);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.matches("input:not([type=checkbox]), select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const bound = all.find(({ keys }) => keys.includes(event.key));
    if (!bound || bound.when?.() === false) return;
    event.preventDefault();
    bound.act();
  });
  return showHelp;
}

function helpOf(bindings) {
  const rows = [
    ...bindings,
    { keys: ["←", "→"], says: "from token to token, once the tokens have the focus" },
  ].map(({ keys, says }) =>
    h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, says)),
  );
  return h(
    "dialog",
    { "aria-label": "Keys" },
    h("h2", {}, "Keys"),
    h("dl", { class: "keys" }, rows),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
}
