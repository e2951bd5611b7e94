// The open episode: what is known of it, its calls, its tokens.

import { run } from "viewer/browse";
import { callTree } from "viewer/calls";
import { hideCard, number, showCard } from "viewer/card";
import { h, options, settled } from "viewer/dom";
import { finder } from "viewer/find";
import { read } from "viewer/model";
import { go } from "viewer/place";
import { OPACITIES, SHADES } from "viewer/shade";
import * as source from "viewer/source";
import { TokenPane } from "viewer/tokens";

const KEPT = 6;

export function episodeView() {
  const kept = new Map();
  // Of the episode that is open: its tokens, and find(words) in it.
  let tokens = null;
  let find = null;
  let shownKey = "";
  const element = h("section", { class: "reading", "aria-label": "Episode" });

  const shade = h(
    "select",
    { "aria-label": "Shade tokens by", onchange: () => go({ shade: shade.value }, { replace: true }) },
    options(Object.entries(SHADES).map(([name, { label }]) => [name, label])),
  );
  const legend = h("div", { class: "legend", "aria-label": "Legend" });
  const wanted = h("input", {
    type: "search",
    placeholder: "Find in this episode",
    "aria-label": "Find in this episode",
    oninput: settled(() => search(), 120),
    onkeydown: (event) => {
      if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
    },
  });
  const found = h("span", { class: "muted found", "aria-live": "polite" });
  const toolbar = h(
    "div",
    { class: "bar tools" },
    h("label", {}, "shade by ", shade),
    legend,
    h("span", { class: "space" }),
    wanted,
    found,
  );

  async function load(number, where) {
    const key = JSON.stringify([number, where]);
    if (!kept.has(key)) {
      kept.set(key, read(await source.episode(number, where)));
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  }

  async function show(now) {
    const { step, task, group, episode } = now;
    if (task === undefined || episode === undefined) {
      close();
      return element.replaceChildren(h("p", { class: "empty" }, "An episode's tokens will be here."));
    }
    const key = JSON.stringify([now.run, step, task, group, episode]);
    if (key === shownKey) return restyle(now);
    shownKey = key;
    let loaded;
    try {
      loaded = await load(run(now), { step, task, group, episode });
    } catch (error) {
      if (key !== shownKey) return;
      // So that the same episode is tried again.
      close();
      element.replaceChildren(h("p", { class: "empty sorry", role: "alert" }, error.message));
      return;
    }
    if (key === shownKey) draw(now, loaded);
  }

  function close() {
    shownKey = "";
    tokens?.close();
    tokens = null;
  }

  function draw(now, episode) {
    tokens?.close();
    hideCard();
    tokens = new TokenPane(`Tokens of episode ${episode.row.episode}`, (position, box) =>
      position === null ? hideCard() : showCard(episode, position, box),
    );
    find = finder(episode);
    const tree = callTree(episode, (call) => {
      if (call.positions.length) tokens.moveTo(call.positions[0], { quiet: true });
    });
    const split = h("div", { class: "split" }, tree, tokens.element);
    element.replaceChildren(toolbar, header(episode.row), split);
    tokens.show(episode, now.shade ?? "logprob");
    restyle(now);
    wanted.value = now.text ?? wanted.value;
    search({ jump: Boolean(now.text) });
    if (now.at !== undefined) tokens.moveTo(Number(now.at), { quiet: true });
  }

  function restyle({ shade: by = "logprob" }) {
    if (shade.value === by && legend.childNodes.length) return;
    shade.value = by;
    drawLegend(by);
    tokens.reshade(by);
  }

  function drawLegend(by) {
    const { words, signed } = SHADES[by];
    const swatches = (hue) =>
      OPACITIES.filter((_, i) => i % 2 === 0).map((opacity) =>
        h("i", { style: `--hue: var(--${hue}); --shade: ${opacity}%` }),
      );
    legend.replaceChildren(
      h("span", { class: "in" }, "in the loss"),
      h("span", { class: "out" }, "sampled, left out"),
      h("span", { class: "muted" }, "given"),
      h("span", { class: "scale" }, words[0], swatches("blue"), signed ? swatches("orange") : [], words[1]),
    );
  }

  // Where what is searched for was said, and at which of these places one is.
  let hits = [];
  let at = -1;
  function search({ jump = false } = {}) {
    const { starts, marked } = find(wanted.value);
    [hits, at] = [starts, -1];
    tokens.mark(marked);
    found.textContent = wanted.value ? `${hits.length} found` : "";
    if (jump) next(1);
  }

  /** The next of them. */
  function next(way) {
    if (!tokens || !hits.length) return;
    at = (at + way + hits.length) % hits.length;
    tokens.moveTo(hits[at], { quiet: true });
    found.textContent = `${at + 1} of ${hits.length}`;
  }

  return {
    element,
    show,
    next,
    focusFind: () => wanted.focus(),
    focusTokens: () => tokens?.element.focus(),
    focusCalls: () => element.querySelector("[role=treeitem][tabindex='0']")?.focus(),
  };
}

function header(row) {
  const { success } = row;
  return h(
    "header",
    {},
    h(
      "div",
      { class: "title" },
      h("h1", {}, row.task_id),
      h("span", { class: "muted where" }, `step ${row.step}, episode ${row.episode}`),
      row.held_out ? h("span", { class: "tag" }, "held out") : "",
    ),
    h(
      "div",
      { class: "facts" },
      fact("status", row.status),
      fact("reward", rewardText(row)),
      success === null ? null : fact("success", success ? "yes" : "no"),
      fact("calls", row.num_calls),
      fact("tokens", row.num_tokens.toLocaleString("en")),
      fact("trained", row.num_trained.toLocaleString("en")),
      fact("seconds", number(row.seconds)),
      ...Object.entries(row.metrics).map(([name, value]) => fact(name, number(value))),
    ),
    row.error ? h("p", { class: "sorry" }, row.error) : null,
  );
}

const fact = (name, value) =>
  h("span", { class: "fact" }, h("span", { class: "muted" }, name), ` ${value}`);

function rewardText({ reward, rewards }) {
  const each = Object.entries(rewards ?? {}).map(([agent, value]) => `${agent} ${number(value)}`);
  return each.join(", ") || number(reward);
}
