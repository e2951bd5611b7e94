// The tree of an episode's calls: one line where the conversation only grew, one deeper at each fork.

import { h } from "viewer/dom";

/** onChoose(call) when one is chosen, with the pointer or Enter. */
export function callTree(episode, onChoose) {
  const items = episode.calls.map((call) =>
    h(
      "li",
      {
        role: "treeitem",
        "aria-level": call.level + 1,
        "aria-selected": "false",
        tabindex: call.index ? -1 : 0,
        style: `--level: ${Math.min(call.level, 6)}`,
        onclick: () => choose(call.index),
      },
      h("div", { class: "call-name" }, h("b", {}, String(call.index + 1)), ` ${call.agent}`),
      h(
        "div",
        { class: "call-more" },
        `${call.sampled} tokens · ${call.finish_reason}`,
        call.under_grammar ? " · grammar" : "",
      ),
      call.why_forked ? h("div", { class: "fork" }, `↳ ${call.why_forked}`) : null,
    ),
  );
  const tree = h("ul", { class: "calls", role: "tree", "aria-label": "Calls" }, items);

  function choose(index) {
    items.forEach((item, i) => {
      item.setAttribute("aria-selected", String(i === index));
      item.tabIndex = i === index ? 0 : -1;
    });
    items[index].focus({ preventScroll: true });
    items[index].scrollIntoView({ block: "nearest" });
    onChoose(episode.calls[index]);
  }

  tree.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = items.indexOf(document.activeElement);
    const next = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      ArrowLeft: episode.calls[at]?.parent?.index,
      ArrowRight: episode.calls.find((call) => call.parent === episode.calls[at])?.index,
      Home: 0,
      End: items.length - 1,
      Enter: at,
    };
    if (!(event.key in next)) return;
    // At an end, too, an arrow stays in the tree.
    event.preventDefault();
    event.stopPropagation();
    if (items[next[event.key]]) choose(next[event.key]);
  });
  return tree;
}
