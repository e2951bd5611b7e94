// The open episode: what is known of it, its calls, its tokens; and another one beside it.

import { run } from "viewer/browse";
import { callTree } from "viewer/calls";
import { hideCard, number, showCard } from "viewer/card";
import { h, options, settled } from "viewer/dom";
import { finder } from "viewer/find";
import { read } from "viewer/model";
import { go, place } from "viewer/place";
import { OPACITIES, SHADES } from "viewer/shade";
import * as source from "viewer/source";
import { TokenPane } from "viewer/tokens";

const KEPT = 6;

/** say(part, sentence) of what cannot be had. */
export function episodeView(say) {
  const kept = new Map();
  let panes = [];
  let shownKey = "";
  const element = h("section", { class: "reading", "aria-label": "Episode" });

  const shade = h(
    "select",
    { "aria-label": "Shade tokens by", onchange: () => go({ shade: shade.value }, { replace: true }) },
    options(Object.entries(SHADES).map(([name, { label }]) => [name, label])),
  );
  const legend = h("div", { class: "legend", "aria-label": "Legend" });
  const beside = h("select", {
    "aria-label": "Compare with",
    onchange: () => go({ vs: beside.value || null }),
  });
  const find = h("input", {
    type: "search",
    placeholder: "Find in this episode",
    "aria-label": "Find in this episode",
    oninput: settled(() => search(find.value), 120),
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
    find,
    found,
  );
  const body = h("div", { class: "panes" });

  async function load(number, where) {
    const key = JSON.stringify([number, where]);
    if (!kept.has(key)) {
      kept.set(key, read(await source.episode(number, where)));
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  }

  async function show(now) {
    if (now.task === undefined || now.episode === undefined) {
      shownKey = "";
      closePanes();
      element.replaceChildren(
        h("p", { class: "empty" }, "An episode's tokens will be here."),
      );
      return;
    }
    const key = JSON.stringify([now.run, now.step, now.task, now.group, now.episode, now.vs]);
    if (key === shownKey) return restyle(now);
    shownKey = key;
    const { step, task, group, episode } = now;
    const wanted = [{ step, task, group, episode }];
    if (now.vs) {
      const [step, group, episode] = now.vs.split("/");
      wanted.push({ step, task, group, episode });
    }
    let loaded;
    try {
      loaded = await Promise.all(wanted.map((where) => load(run(now), where)));
    } catch (error) {
      if (key !== shownKey) return;
      // So that the same episode is tried again.
      shownKey = "";
      closePanes();
      element.replaceChildren(h("p", { class: "empty sorry", role: "alert" }, error.message));
      return;
    }
    if (key === shownKey) {
      draw(now, loaded);
      await offerOthers(now, key);
    }
  }

  function draw(now, loaded) {
    closePanes();
    hideCard();
    panes = loaded.map((episode, index) => makePane(episode, index, loaded.length > 1));
    body.className = loaded.length > 1 ? "panes two" : "panes";
    body.replaceChildren(...panes.map((pane) => pane.element));
    element.replaceChildren(
      toolbar,
      loaded.length > 1 ? h("p", { class: "shared muted" }, sharedStart(...loaded)) : "",
      body,
    );
    const by = now.shade ?? "logprob";
    for (const pane of panes) pane.tokens.show(pane.episode, by);
    restyle(now);
    find.value = now.text ?? find.value;
    search(find.value, { jump: Boolean(now.text) });
    if (now.at !== undefined) panes[0].tokens.moveTo(Number(now.at), { quiet: true });
  }

  function closePanes() {
    for (const pane of panes) pane.tokens.close();
    panes = [];
  }

  let shadeShown = "";
  function restyle(now) {
    const by = now.shade ?? "logprob";
    shade.value = by;
    if (by === shadeShown && legend.childNodes.length) return;
    shadeShown = by;
    drawLegend(by);
    for (const pane of panes) pane.tokens.reshade(by);
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

  function makePane(episode, index, isOneOfTwo) {
    const tokens = new TokenPane(`Tokens of episode ${episode.row.episode}`, (position, box) =>
      position === null ? hideCard() : showCard(episode, position, box),
    );
    const tree = callTree(episode, (call) => {
      if (call.positions.length) tokens.moveTo(call.positions[0], { quiet: true });
    });
    const pane = h(
      "article",
      { class: "pane", "data-pane": index },
      header(episode.row, index),
      h("div", { class: "split" }, isOneOfTwo ? "" : tree, tokens.element),
    );
    return { element: pane, tokens, episode, find: finder(episode) };
  }

  function header(row, index) {
    const close = h("button", { class: "quiet", onclick: () => go({ vs: null }) }, "close");
    const habits = Object.entries(row.metrics ?? {});
    return h(
      "header",
      {},
      h(
        "div",
        { class: "title" },
        h("h1", {}, row.task_id),
        h("span", { class: "muted where" }, `step ${row.step}, episode ${row.episode}`),
        row.held_out ? h("span", { class: "tag" }, "held out") : "",
        h("span", { class: "space" }),
        index === 0 ? h("label", { class: "muted" }, "beside ", beside) : close,
      ),
      h(
        "div",
        { class: "facts" },
        fact("status", row.status),
        fact("reward", rewardText(row.reward)),
        row.success === null ? null : fact("success", row.success ? "yes" : "no"),
        fact("calls", row.num_calls),
        fact("tokens", row.num_tokens.toLocaleString("en")),
        fact("trained", row.num_trained.toLocaleString("en")),
        fact("seconds", number(row.seconds)),
        ...habits.map(([name, value]) => fact(name, number(value))),
      ),
      row.error ? h("p", { class: "sorry" }, row.error) : null,
    );
  }

  /** The group's other episodes, and this task at other steps. */
  async function offerOthers(now, key) {
    beside.replaceChildren(h("option", { value: "" }, "nothing"));
    const task = { task_id: now.task };
    let lists;
    try {
      // A page of a task's episodes may end before this step.
      lists = await Promise.all(
        [task, { ...task, step: now.step }].map((filters) => source.episodes(run(now), filters)),
      );
    } catch (error) {
      if (key === shownKey) say("here", error.message);
      return;
    }
    if (key !== shownKey) return;
    const [everywhere, inStep] = lists;
    const label = (row) =>
      `step ${row.step}, episode ${row.episode} (${number(row.mean_reward)})`;
    const isHere = (row) => row.step === Number(now.step) && row.group === Number(now.group);
    const group = (name, rows) => {
      const pairs = rows.map((row) => [source.whereIs(row).join("/"), label(row)]);
      if (pairs.length) beside.append(h("optgroup", { label: name }, options(pairs)));
    };
    const isOpen = (row) => row.episode === Number(now.episode);
    group("of this group", inStep.rows.filter((row) => isHere(row) && !isOpen(row)));
    group("this task at other steps", everywhere.rows.filter((row) => !isHere(row)));
    beside.value = now.vs ?? "";
  }

  let at = -1;
  function search(words, { jump = false } = {}) {
    at = -1;
    let total = 0;
    for (const pane of panes) {
      pane.hits = pane.find(words);
      total += pane.hits.starts.length;
      pane.tokens.mark(pane.hits.marked);
    }
    found.textContent = words ? `${total} found` : "";
    if (jump && total) next(1);
  }

  /** The next place where what is searched for was said. */
  function next(way) {
    const all = panes.flatMap((pane) => pane.hits?.starts.map((start) => [pane, start]) ?? []);
    if (!all.length) return;
    at = (at + way + all.length) % all.length;
    const [pane, start] = all[at];
    pane.tokens.moveTo(start, { quiet: true });
    found.textContent = `${at + 1} of ${all.length}`;
  }

  return {
    element,
    show,
    next,
    focusFind: () => find.focus(),
    focusTokens: () => panes[0]?.tokens.element.focus(),
    focusCalls: () => body.querySelector("[role=treeitem][tabindex='0']")?.focus(),
    focusBeside: () => beside.focus(),
  };
}

const fact = (name, value) =>
  h("span", { class: "fact" }, h("span", { class: "muted" }, name), ` ${value}`);

function rewardText(reward) {
  if (reward === null || typeof reward !== "object") return number(reward);
  return Object.entries(reward).map(([agent, value]) => `${agent} ${number(value)}`).join(", ");
}

/** Up to where two episodes are the same, token by token. */
function sharedStart(mine, theirs) {
  const end = Math.min(mine.order.length, theirs.order.length);
  const idAt = ({ ids, order }, rank) => ids[order[rank]];
  let same = 0;
  while (same < end && idAt(mine, same) === idAt(theirs, same)) same++;
  return `The same for the first ${same.toLocaleString("en")} tokens.`;
}
