// The page: a bar, and beneath it either all runs at a glance or one run's episodes.

import { browse, run } from "./browse.js";
import { mountCard, hideCard } from "./card.js";
import { h, options } from "./dom.js";
import { episodeView } from "./episode.js";
import { listen } from "./keys.js";
import { notices } from "./notices.js";
import { overview } from "./overview.js";
import { go, onMove, place } from "./place.js";
import * as source from "./source.js";

const PATIENCE = 2000;
const page = document.getElementById("page");

const store = {
  runs: [],
  columns: [],
  // Of the run that is open.
  batches: [],
  get steps() {
    return [...new Set(this.batches.map(([step]) => step))];
  },
};
const { element: notice, say } = notices();

async function start() {
  store.runs = await source.runs();
  store.columns = store.runs.map(() => ({}));
  await refreshColumns();

  const glance = overview(store);
  const list = browse(store, say);
  const reading = episodeView();
  const reader = h("main", {}, list.element, reading.element);
  const tab = (view, text) => h("a", { href: `#view=${view}`, "data-view": view }, text);
  const runChoice = h(
    "select",
    {
      "aria-label": "Run",
      onchange: () => go({ run: runChoice.value, step: null, task: null, group: null, episode: null }),
    },
    options(store.runs.map(({ name }, index) => [index, name])),
  );
  const bar = h(
    "header",
    { class: "top" },
    h("b", {}, "agentrl"),
    h("nav", {}, tab("runs", "Runs"), tab("episodes", "Episodes")),
    runChoice,
    h("span", { class: "space" }),
    h("button", { "aria-label": "Help: keys", onclick: () => showHelp() }, "?"),
  );
  page.append(bar, notice, glance.element, reader);
  mountCard(page);

  const showHelp = listen([
    { keys: ["1"], says: "runs", act: () => go({ view: "runs" }) },
    { keys: ["2"], says: "episodes", act: () => go({ view: "episodes" }) },
    ...[
      { keys: ["/"], says: "search", act: list.focusSearch },
      { keys: ["j", "ArrowDown"], says: "next episode", act: () => list.walk(1) },
      { keys: ["k", "ArrowUp"], says: "episode before", act: () => list.walk(-1) },
      { keys: ["]", "ArrowRight"], says: "next step", act: () => list.walkSteps(1) },
      { keys: ["[", "ArrowLeft"], says: "step before", act: () => list.walkSteps(-1) },
      { keys: ["t"], says: "into the tokens", act: reading.focusTokens },
    ].map((binding) => ({ ...binding, when: () => place().view === "episodes" })),
    { keys: ["Escape"], says: "leave a field, a token", act: hideCard },
  ]);

  async function show(now) {
    const isEpisodes = now.view === "episodes";
    glance.element.hidden = isEpisodes;
    reader.hidden = !isEpisodes;
    runChoice.hidden = !isEpisodes || store.runs.length < 2;
    runChoice.value = now.run ?? "0";
    for (const link of bar.querySelectorAll("[data-view]")) {
      const isHere = (link.dataset.view === "episodes") === isEpisodes;
      link.toggleAttribute("aria-current", isHere);
    }
    if (!isEpisodes) return glance.update();
    if (run(now) >= store.runs.length) return go({ run: null }, { replace: true });
    const batches = await source.batches(run(now));
    // A person may have gone on meanwhile.
    if (now !== latest) return;
    store.batches = batches;
    if (now.step === undefined && store.steps.length) {
      return go({ step: store.steps.at(-1) }, { replace: true });
    }
    await Promise.all([list.show(now), reading.show(now)]);
  }

  let latest;
  const move = (now) => {
    latest = now;
    hideCard();
    say("here", "");
    show(now).catch((error) => say("here", error.message));
  };
  onMove(move);
  move(place());
  // A live run grows: what there is of it is asked for every few seconds, while it is looked at.
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    if (document.hidden) continue;
    const isMore = await refreshColumns();
    try {
      if (isMore || place().view === "episodes") await show(latest);
      say("live", "");
    } catch (error) {
      say("live", error.message);
    }
  }
}

/** Whether any run has logged more. */
async function refreshColumns() {
  const answers = await Promise.allSettled(store.runs.map((_, index) => source.metrics(index)));
  const before = store.columns;
  store.columns = answers.map(({ value }, index) => value ?? before[index]);
  const broken = answers.flatMap(({ reason }) => reason?.message ?? []);
  say("metrics", [...new Set(broken)].join(" "));
  return JSON.stringify(before) !== JSON.stringify(store.columns);
}

start().catch((error) => page.append(h("p", { class: "notice", role: "alert" }, error.message)));
