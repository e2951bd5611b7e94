// What the keyboard does, anywhere but in a field.

import { h } from "./dom.js";

/** bindings: each {keys, says, act}, and when() they hold, if not always; ? shows them. */
export function listen(bindings) {
  const help = helpOf([...bindings, { keys: ["?"], says: "this help" }]);
  document.body.append(help);
  const bound = new Map(bindings.flatMap((binding) => binding.keys.map((key) => [key, binding])));
  bound.set("?", { act: () => help.showModal() });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const isField = event.target.matches("input:not([type=checkbox]), select, textarea");
    if (isField) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    // A link is followed by it, and a button pressed.
    if (event.key === "Enter" && event.target.closest("a, button")) return;
    const { act, when = () => true } = bound.get(event.key) ?? {};
    if (!act || !when()) return;
    event.preventDefault();
    act();
  });
  return () => help.showModal();
}

function helpOf(bindings) {
  const rows = [
    ...bindings,
    { keys: ["←", "→"], says: "from token to token, once the tokens have the focus" },
    { keys: ["Esc"], says: "leave a field, a token" },
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
