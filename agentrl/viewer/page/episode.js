// The open episode: what is known of it, its calls, its tokens.

import { run } from "./browse.js";
import { callTree } from "./calls.js";
import { hideCard, number, showCard } from "./card.js";
import { h, options } from "./dom.js";
import { read, whereSaid } from "./model.js";
import { go } from "./place.js";
import { SHADES } from "./shade.js";
import * as source from "./source.js";
import { tokenPane } from "./tokens.js";

export function episodeView() {
  // Of the episode that is open.
  let tokens = null;
  let shownKey = "";
  let shadedBy = "";
  const element = h("section", { class: "reading", "aria-label": "Episode" });

  const shade = h(
    "select",
    { "aria-label": "Shade tokens by", onchange: () => go({ shade: shade.value }, { replace: true }) },
    options(Object.entries(SHADES).map(([name, { label }]) => [name, label])),
  );
  const legend = h("div", { class: "legend", "aria-label": "Legend" });
  const toolbar = h("div", { class: "bar tools" }, h("label", {}, "shade by ", shade), legend);

  async function show(now) {
    const { step, task, group, episode } = now;
    if (episode === undefined) return say("An episode's tokens will be here.");
    const key = JSON.stringify([now.run, step, task, group, episode]);
    if (key === shownKey) return restyle(now);
    shownKey = key;
    try {
      const loaded = read(await source.episode(run(now), { step, task, group, episode }));
      if (key === shownKey) draw(now, loaded);
    } catch (error) {
      if (key === shownKey) say(error.message, { role: "alert" });
    }
  }

  /** In the place of an episode; the same one is tried again then. */
  function say(sentence, how) {
    shownKey = "";
    element.replaceChildren(h("p", { class: "empty", ...how }, sentence));
  }

  function draw(now, episode) {
    tokens = tokenPane(episode, (position, box) =>
      position === null ? hideCard() : showCard(episode, position, box),
    );
    const calls = callTree(episode, ({ positions }) => tokens.moveTo(positions[0], { quiet: true }));
    const split = h("div", { class: "split" }, calls, tokens.element);
    element.replaceChildren(toolbar, header(episode.row), split);
    shadedBy = "";
    restyle(now);
    const at = now.at ?? (now.text && whereSaid(episode, now.text));
    tokens.moveTo(at, { quiet: true });
  }

  function restyle({ shade: by = "logprob" }) {
    if (by === shadedBy) return;
    shade.value = shadedBy = by;
    const { words, signed } = SHADES[by];
    const swatches = (kind) => [0, 2, 4, 6].map((i) => h("i", { class: `${kind} shade-${i}` }));
    legend.replaceChildren(
      h("span", { class: "in shade-3" }, "in the loss"),
      h("span", { class: "out shade-3" }, "sampled, left out"),
      h("span", { class: "muted" }, "given"),
      h("span", { class: "muted" }, words[0], swatches("in"), signed ? swatches("below") : [], words[1]),
    );
    tokens?.reshade(by);
  }

  return {
    element,
    show,
    focusTokens: () => tokens?.element.focus(),
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

const fact = (name, value) => h("span", {}, h("span", { class: "muted" }, name), ` ${value}`);

function rewardText({ reward, rewards }) {
  const each = Object.entries(rewards ?? {}).map(([agent, value]) => `${agent} ${number(value)}`);
  return each.join(", ") || number(reward);
}
