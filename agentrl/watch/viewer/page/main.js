// The page: a bar, and beneath it either all runs at a glance or one run's episodes.

import { browse, run } from "viewer/browse";
import { mountCard, hideCard } from "viewer/card";
import { h, options } from "viewer/dom";
import { episodeView } from "viewer/episode";
import { listen } from "viewer/keys";
import { overview } from "viewer/overview";
import { go, onMove, place } from "viewer/place";
import * as source from "viewer/source";

const PATIENCE = 2000;
const page = document.getElementById("page");

const store = { runs: [], columns: [], steps: [] };
let views;

async function start() {
  store.runs = await source.runs();
  store.columns = store.runs.map(() => ({}));
  const notice = h("p", { class: "notice", role: "alert", hidden: true });
  const sayError = (error) => {
    notice.textContent = error?.message ?? "";
    notice.hidden = !error;
  };
  await refreshColumns(sayError);

  const glance = overview(store);
  const list = browse(store, sayError);
  const reading = episodeView(sayError);
  const reader = h("main", { class: "reader" }, list.element, reading.element);
  const tab = (view, text) => h("a", { href: `#view=${view}`, "data-view": view }, text);
  const runChoice = h(
    "select",
    {
      "aria-label": "Run",
      onchange: () => go({ run: runChoice.value, step: null, task: null, place: null, episode: null, vs: null }),
    },
    options(store.runs.map(({ name }, index) => [index, name])),
  );
  const inFile = h("span", { class: "muted" });
  const openTab = tab("episodes", "Episodes");
  const bar = h(
    "header",
    { class: "top" },
    h("span", { class: "brand" }, "agentrl"),
    h("nav", {}, tab("runs", "Runs"), openTab),
    runChoice,
    h("span", { class: "space" }),
    inFile,
    h("button", { class: "quiet", "aria-label": "Help: keys", onclick: () => showHelp() }, "?"),
  );
  page.append(bar, notice, glance.element, reader);
  mountCard(page);
  views = { glance, list, reading };

  const leave = () => (place().vs ? go({ vs: null }) : hideCard());
  const showHelp = listen([
    { keys: ["1"], says: "runs", act: () => go({ view: "runs" }) },
    { keys: ["2"], says: "episodes", act: () => go({ view: "episodes" }) },
    { keys: ["j", "ArrowDown"], says: "next episode", act: () => list.walk(1) },
    { keys: ["k", "ArrowUp"], says: "episode before", act: () => list.walk(-1) },
    { keys: ["]", "ArrowRight"], says: "next step", act: () => list.walkSteps(1) },
    { keys: ["[", "ArrowLeft"], says: "step before", act: () => list.walkSteps(-1) },
    { keys: ["Enter", "t"], says: "into the tokens", act: () => reading.focusTokens() },
    { keys: ["g"], says: "into the calls", act: () => reading.focusCalls() },
    { keys: ["/"], says: "search", act: () => focusSearch() },
    { keys: ["f"], says: "find in this episode", act: () => reading.focusFind() },
    { keys: ["n"], says: "next place found", act: () => reading.next(1) },
    { keys: ["N"], says: "place found before", act: () => reading.next(-1) },
    { keys: ["c"], says: "compare with another", act: () => reading.focusBeside() },
    { keys: ["Escape"], says: "leave", act: leave },
  ]);

  async function show(now) {
    hideCard();
    const isEpisodes = now.view === "episodes";
    glance.element.hidden = isEpisodes;
    reader.hidden = !isEpisodes;
    runChoice.hidden = !isEpisodes || store.runs.length < 2;
    runChoice.value = now.run ?? "0";
    if (source.isExport) inFile.textContent = whatIsHeld(run(now));
    for (const link of bar.querySelectorAll("[data-view]")) {
      const isHere = (link.dataset.view === "episodes") === isEpisodes;
      link.toggleAttribute("aria-current", isHere);
    }
    if (!isEpisodes) {
      glance.update();
      return;
    }
    if (run(now) >= store.runs.length) return go({ run: null }, { replace: true });
    const steps = await source.steps(run(now));
    // A person may have gone on meanwhile.
    if (now !== latest) return;
    store.steps = steps;
    if (now.step === undefined && store.steps.length) {
      return go({ step: store.steps.at(-1) }, { replace: true });
    }
    await Promise.all([list.show(now), reading.show(now)]);
  }

  let latest;
  const safely = (now) => {
    latest = now;
    sayError(null);
    show(now).catch(sayError);
  };
  onMove(safely);
  safely(place());
  if (!source.isExport) watch(sayError);
}

/** What an export can show of a run. */
function whatIsHeld(number) {
  const [held, all] = [source.held(number) ?? [], source.steps(number) ?? []];
  if (held.length === all.length) return "one file, every token in it";
  return `one file, with the tokens of ${held.length} of ${all.length} steps`;
}

const focusSearch = () => document.querySelector("main:not([hidden]) [data-search]")?.focus();

/** A live run grows: its rows and steps are asked for again every few seconds, while it is looked at. */
function watch(sayError) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      if (place().view === "episodes") {
        const steps = await source.steps(run(place()));
        if (steps.length !== store.steps.length) {
          store.steps = steps;
          views.list.refresh();
        }
      } else if (await refreshColumns(sayError)) views.glance.update();
    } catch (error) {
      sayError(error);
    }
  }, PATIENCE);
}

/** Whether any run has logged more. */
async function refreshColumns(sayError) {
  const fresh = await Promise.all(
    store.runs.map((_, index) =>
      Promise.resolve(source.metrics(index)).catch((error) => {
        sayError(error);
        return store.columns[index];
      }),
    ),
  );
  const size = (columns) => `${columns.step?.length}/${columns.step?.at(-1)}/${Object.keys(columns).length}`;
  const isMore = fresh.some((columns, index) => size(columns) !== size(store.columns[index]));
  store.columns = fresh;
  return isMore;
}

start().catch((error) => page.append(h("p", { class: "notice", role: "alert" }, error.message)));
