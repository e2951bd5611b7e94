// The list at the left: a step's tasks and their episodes, filtered.

import { number } from "./card.js";
import { h, options, settled } from "./dom.js";
import { go, place } from "./place.js";
import * as source from "./source.js";

// Rows that a search shows before it waits to be asked for more.
const PAGE = 400;
// A shape each, not a colour alone.
const MARKS = { ok: "●", truncated: "◐", error: "✕", timeout: "◷" };

/** store: {runs, columns, batches, steps}; say(part, sentence) of what cannot be had. */
export function browse(store, say) {
  // What the list was asked for: {run, filters}.
  let asked = null;
  let rows = [];
  // Where the list goes on; null: it has ended.
  let after = null;
  // What was recorded when it was asked for.
  let recorded = "";
  let unread = [];
  // The number of the newest load: what an older one is answered comes too late.
  let newest = 0;
  let isLoading = false;
  let inSight = "";
  const steps = h("select", { "aria-label": "Step", onchange: () => toStep(steps.value) });
  const choice = (name, label) => h("select", { name, "aria-label": label });
  const status = choice("status", "Status");
  const habit = choice("habit", "Habit");
  const held = choice("held", "Training or held out");
  const bound = (name) =>
    h("input", { name, inputmode: "decimal", placeholder: name, "aria-label": `${name} reward` });
  const [min, max] = [bound("min"), bound("max")];
  const everywhere = h("input", { type: "checkbox", name: "scope", value: "all" });
  const label = "Search the text of all episodes";
  const text = h("input", { type: "search", name: "text", "aria-label": label, placeholder: label });
  // Its fields are parts of the address, by their names.
  const filters = h(
    "form",
    { onchange: filter, oninput: settled(filter), onsubmit: (event) => event.preventDefault() },
    h("label", {}, everywhere, " all steps"),
    text,
    h("div", { class: "filters" }, status, habit, held, min, max),
  );
  const found = h("div");
  const goOn = () => isLoading || load();
  const more = h("button", { hidden: true, onclick: goOn }, "Show more");
  const empty = h("p", { class: "empty", hidden: true }, "No episode is like that.");
  const list = h(
    "div",
    { class: "episodes", role: "listbox", "aria-label": "Episodes", tabindex: "0" },
    found,
    more,
    empty,
  );
  const count = h("div", { class: "muted count", "aria-live": "polite" });
  const only = h("button", { class: "only", title: "Back to all tasks", onclick: () => go({ only: null }) });

  function filter() {
    // Of a box that is not ticked a form says nothing.
    go({ scope: null, ...Object.fromEntries(new FormData(filters)) }, { replace: true });
  }

  function toStep(step) {
    go({ step, task: null, group: null, episode: null, at: null });
  }

  function choices(now) {
    const habits = Object.keys(store.columns[run(now)] ?? {}).filter((name) => name.startsWith("habit/"));
    // An evaluation has habits of its own: those of the list are the episodes'.
    fill(steps, store.steps.map((step) => [step, `step ${step}`]), now.step);
    fill(status, [["", "any status"], ...Object.keys(MARKS).map((name) => [name, name])], now.status);
    fill(held, [["", "all tasks"], ["false", "training"], ["true", "held out"]], now.held);
    fill(habit, [["", "any habit"], ...habits.map((name) => [name, name.slice(6)])], now.habit);
    // What is typed comes into the address a little later: it stays, unless the address has changed.
    for (const field of [text, min, max]) {
      const value = now[field.name] ?? "";
      if (field.dataset.shown !== value && document.activeElement !== field) field.value = value;
      field.dataset.shown = value;
    }
    everywhere.checked = isEverywhere(now);
    everywhere.disabled = now.only !== undefined;
    only.hidden = now.only === undefined;
    only.textContent = `task ${now.only} ✕`;
  }

  async function show(now) {
    choices(now);
    const question = { run: run(now), filters: filtersOf(now) };
    if (JSON.stringify(question) !== JSON.stringify(asked)) {
      asked = question;
      await load({ isAnew: true });
    } else {
      openFirst();
      select(now);
      await grow();
    }
  }

  /** What a live run has recorded since stands behind what is here; resumed, it may be cut back. */
  async function grow() {
    const now = String(store.batches);
    if (!asked || isLoading || now === recorded) return;
    if (!now.startsWith(recorded)) await load({ isAnew: true });
    // Where more can be asked for, it is found then; and a search that has ended is not begun anew.
    else if (after === null && asked.filters.text === undefined) await load();
  }

  /** A page of rows behind those before; looking for a text, as many answers as that takes. */
  async function load({ isAnew = false } = {}) {
    const number = ++newest;
    const batches = String(store.batches);
    const isSearch = asked.filters.text !== undefined;
    if (isAnew) [rows, after, more.hidden] = [[], null, true];
    const wanted = rows.length + PAGE;
    // A list that had ended goes on behind its last row.
    let from = after ?? (rows.length ? keyOf(rows.at(-1)) : null);
    isLoading = true;
    list.setAttribute("aria-busy", "true");
    try {
      do {
        const answer = await source.episodes(asked.run, asked.filters, from);
        // Something else was asked for meanwhile.
        if (number !== newest) return;
        if (isAnew) clear();
        isAnew = false;
        from = after = answer.after;
        unread.push(...answer.unread);
        append(answer.rows);
        isLoading = isSearch && after !== null && rows.length < wanted;
        tell();
      } while (isLoading);
      recorded = batches;
    } catch (error) {
      if (number !== newest) return;
      isLoading = false;
      if (isAnew) {
        clear();
        asked = null;
      } else tell();
      say("list", error.message);
    }
    list.removeAttribute("aria-busy");
  }

  function clear() {
    found.replaceChildren();
    empty.hidden = true;
    count.textContent = "";
    inSight = "";
    unread = [];
    say("unread", "");
  }

  function append(fresh) {
    for (const row of fresh) {
      const before = rows.at(-1);
      if (row.step !== before?.step || row.group !== before?.group) found.append(groupOf(row));
      found.lastChild.append(option(row));
      rows.push(row);
    }
    openFirst();
    select(place());
  }

  /** How far the list is. */
  function tell() {
    more.hidden = after === null || isLoading;
    empty.hidden = rows.length > 0 || isLoading;
    const told = `${rows.length}${after ? "+" : ""} ${episodes(rows.length)}`;
    count.textContent = isLoading ? `${told}, looking in step ${after[0]} …` : told;
    say("list", "");
    const of = unread.length;
    say("unread", of ? `${of} ${episodes(of)} could not be looked through: ${unread[0]}` : "");
  }

  function groupOf(row) {
    const name = h(
      "button",
      { class: "task-name", title: "This task at all steps", onclick: () => go({ only: row.task_id }) },
      row.task_id,
    );
    return h(
      "div",
      { role: "group", "aria-label": `task ${row.task_id}` },
      h("div", { class: "task" }, isEverywhere(place()) ? `step ${row.step} · ` : "", name,
        row.held_out ? h("span", { class: "tag" }, "held out") : ""),
    );
  }

  function option(row) {
    const habits = Object.entries(row.metrics).filter(([n, v]) => n.startsWith("habit/") && v > 0);
    const item = h(
      "div",
      { role: "option", class: "episode", "aria-selected": "false", onclick: () => open(row) },
      h("span", { class: `mark ${row.status}`, title: row.status, "aria-label": row.status },
        MARKS[row.status] ?? "?"),
      h("span", { class: "muted" }, `#${row.episode}`),
      h("span", {}, number(row.reward)),
      h("span", { class: "muted size" }, `${compact(row.num_tokens)} tok`),
      h("span", { class: "habits" }, habits.map(([name]) => name.slice(6)).join(", ")),
    );
    item.row = row;
    return item;
  }

  function open(row, how) {
    const { step, task_id: task, group, episode } = row;
    go({ step, task, group, episode, at: null }, how);
  }

  /** Where a step was chosen and no episode, its first one. */
  function openFirst() {
    const { step, episode } = place();
    if (episode !== undefined || !rows.length) return;
    open(rows.find((row) => row.step >= Number(step)) ?? rows.at(-1), { replace: true });
  }

  function select(now) {
    const wanted = [now.run, now.step, now.group, now.episode].join();
    for (const item of list.querySelectorAll("[role=option]")) {
      const isOpen = isThe(item.row, now);
      item.setAttribute("aria-selected", String(isOpen));
      if (isOpen && wanted !== inSight) item.scrollIntoView({ block: "nearest" });
    }
    inSight = wanted;
  }

  /** The episode above or below the one that is open. */
  function walk(way) {
    const now = place();
    const at = rows.findIndex((row) => isThe(row, now));
    const next = rows[at < 0 ? 0 : at + way];
    if (next) open(next);
  }

  function walkSteps(way) {
    const at = store.steps.indexOf(Number(place().step));
    const next = store.steps[at + way];
    if (next !== undefined) toStep(next);
  }

  const element = h(
    "aside",
    { class: "browse", "aria-label": "Choose an episode" },
    steps,
    filters,
    only,
    count,
    list,
  );
  return { element, show, walk, walkSteps, focusSearch: () => text.focus() };
}

/** What the server is asked for. */
function filtersOf(now) {
  const { step, only, status, min, max, habit, text, held } = now;
  const asked = { task_id: only, status, min_reward: min, max_reward: max, habit, text, held_out: held };
  if (!isEverywhere(now)) asked.step = step;
  return Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined));
}

const isEverywhere = ({ scope, only }) => scope === "all" || only !== undefined;

export const run = (now) => Number(now.run ?? 0);

const episodes = (count) => (count === 1 ? "episode" : "episodes");

const compact = (count) => (count < 10_000 ? count : `${(count / 1000).toFixed(0)}k`);

/** By which all are in order; of a row, or of where one is. */
const keyOf = ({ step, group, episode }) => [step, group, episode];

const isThe = (row, now) => keyOf(row).join() === keyOf(now).join();

/** Options anew, unless they are what they were: a select that is open would close. */
function fill(select, pairs, chosen) {
  const key = JSON.stringify(pairs);
  if (select.dataset.key !== key) select.replaceChildren(...options(pairs));
  select.dataset.key = key;
  select.value = chosen ?? "";
}
