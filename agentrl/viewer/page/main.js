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
  const reader = h("main", { class: "reader" }, list.element, reading.element);
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

  const isReading = () => place().view === "episodes";
  const inEpisodes = (bindings) => bindings.map((binding) => ({ ...binding, when: isReading }));
  const showHelp = listen([
    { keys: ["1"], says: "runs", act: () => go({ view: "runs" }) },
    { keys: ["2"], says: "episodes", act: () => go({ view: "episodes" }) },
    { keys: ["/"], says: "search", act: () => focusSearch() },
    ...inEpisodes([
      { keys: ["j", "ArrowDown"], says: "next episode", act: () => list.walk(1) },
      { keys: ["k", "ArrowUp"], says: "episode before", act: () => list.walk(-1) },
      { keys: ["]", "ArrowRight"], says: "next step", act: () => list.walkSteps(1) },
      { keys: ["[", "ArrowLeft"], says: "step before", act: () => list.walkSteps(-1) },
      { keys: ["Enter", "t"], says: "into the tokens", act: () => reading.focusTokens() },
    ]),
    { keys: ["Escape"], says: "leave", act: hideCard },
  ]);

  async function show(now) {
    hideCard();
    const isEpisodes = now.view === "episodes";
    glance.element.hidden = isEpisodes;
    reader.hidden = !isEpisodes;
    runChoice.hidden = !isEpisodes || store.runs.length < 2;
    runChoice.value = now.run ?? "0";
    for (const link of bar.querySelectorAll("[data-view]")) {
      const isHere = (link.dataset.view === "episodes") === isEpisodes;
      link.toggleAttribute("aria-current", isHere);
    }
    if (!isEpisodes) {
      glance.update();
      return;
    }
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
  const safely = (now) => {
    latest = now;
    say("here", "");
    show(now).catch((error) => say("here", error.message));
  };
  onMove(safely);
  safely(place());
  watch({ glance, list });
}

const focusSearch = () => document.querySelector("main:not([hidden]) [data-search]")?.focus();

/** A live run grows: what there is of it is asked for every few seconds, while it is looked at. */
async function watch({ glance, list }) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    if (document.hidden) continue;
    const isMore = await refreshColumns();
    try {
      if (place().view === "episodes") await refreshBatches(list);
      else if (isMore) glance.update();
      say("live", "");
    } catch (error) {
      say("live", error.message);
    }
  }
}

async function refreshBatches(list) {
  const number = run(place());
  const batches = await source.batches(number);
  // Another run may have been opened meanwhile.
  if (number !== run(place())) return;
  store.batches = batches;
  await list.refresh();
}

/** Whether any run has logged more. */
async function refreshColumns() {
  const answers = await Promise.allSettled(store.runs.map((_, index) => source.metrics(index)));
  const fresh = answers.map(({ value }, index) => value ?? store.columns[index]);
  const broken = answers.flatMap(({ reason }) => reason?.message ?? []);
  say("metrics", [...new Set(broken)].join(" "));
  const size = (columns) => `${columns.step?.length}/${columns.step?.at(-1)}/${Object.keys(columns).length}`;
  const isMore = fresh.some((columns, index) => size(columns) !== size(store.columns[index]));
  store.columns = fresh;
  return isMore;
}

start().catch((error) => page.append(h("p", { class: "notice", role: "alert" }, error.message)));
