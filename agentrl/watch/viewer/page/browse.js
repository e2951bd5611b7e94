// The list at the left: a step's tasks and their episodes, filtered.

import { number } from "viewer/card";
import { h, options, settled } from "viewer/dom";
import { go, place } from "viewer/place";
import * as source from "viewer/source";

// Rows that a search shows before it waits to be asked for more.
const PAGE = 400;
const STATUSES = ["ok", "truncated", "error", "timeout"];
// A shape each, not a colour alone.
const MARKS = { ok: "●", truncated: "◐", error: "✕", timeout: "◷" };

/** store: {runs, columns, steps}; onError(error) where the list cannot be had. */
export function browse(store, onError) {
  let rows = [];
  // Where the list goes on; null: it has ended.
  let after = null;
  let asked = "";
  const steps = h("select", { "aria-label": "Step", onchange: () => toStep(steps.value) });
  const text = h("input", {
    type: "search",
    placeholder: "Search what was said",
    "aria-label": "Search the text of all episodes",
    "data-search": true,
    oninput: settled(() => filter({ text: text.value })),
  });
  const status = h("select", { "aria-label": "Status", onchange: () => filter({ status: status.value }) });
  const held = h(
    "select",
    { "aria-label": "Training or held out", onchange: () => filter({ held: held.value }) },
    options([["", "all tasks"], ["false", "training"], ["true", "held out"]]),
  );
  const habit = h("select", { "aria-label": "Habit", onchange: () => filter({ habit: habit.value }) });
  const reward = (name, label) =>
    h("input", {
      inputmode: "decimal",
      placeholder: label,
      "aria-label": `${label} reward`,
      title: `${label} reward`,
      oninput: settled((event) => filter({ [name]: event.target.value })),
    });
  const min = reward("min", "min");
  const max = reward("max", "max");
  const everywhere = h("input", {
    type: "checkbox",
    onchange: () => filter({ scope: everywhere.checked ? "all" : null }),
  });
  const list = h("div", { class: "episodes", role: "listbox", "aria-label": "Episodes", tabindex: "0" });
  const count = h("div", { class: "muted count", "aria-live": "polite" });

  const filter = (changes) => go(changes, { replace: true });

  function toStep(step) {
    go({ step, task: null, place: null, episode: null, vs: null, at: null });
  }

  function choices(now) {
    const habits = Object.keys(store.columns[run(now)] ?? {}).filter((name) => name.startsWith("habit/"));
    // An evaluation has habits of its own: those of the list are the episodes'.
    fill(steps, store.steps.map((step) => [step, `step ${step}`]), now.step);
    fill(status, [["", "any status"], ...STATUSES.map((name) => [name, name])], now.status);
    fill(habit, [["", "any habit"], ...habits.map((name) => [name, name.slice(6)])], now.habit);
    for (const [input, value] of [[text, now.text], [min, now.min], [max, now.max]]) {
      if (document.activeElement !== input) input.value = value ?? "";
    }
    held.value = now.held ?? "";
    everywhere.checked = now.scope === "all";
  }

  async function show(now) {
    choices(now);
    const filters = filtersOf(now);
    // A live run grows: that changes a list, and does not begin a search anew.
    const size = filters.text === undefined ? store.steps.length : null;
    const next = JSON.stringify([run(now), filters, size]);
    if (next === asked) return select(now);
    asked = next;
    after = null;
    await load([]);
  }

  /** A page of rows behind those before; looking for a text, as many answers as that takes. */
  async function load(before) {
    const [isFor, now] = [asked, place()];
    const filters = filtersOf(now);
    const wanted = before.length + PAGE;
    list.setAttribute("aria-busy", "true");
    try {
      let found = before;
      let isSearching;
      do {
        const answer = await source.episodes(run(now), filters, after);
        // Something else was asked for meanwhile.
        if (asked !== isFor) return;
        found = [...found, ...answer.rows];
        ({ after } = answer);
        isSearching = filters.text !== undefined && after !== null && found.length < wanted;
        rows = found;
        draw(isSearching);
      } while (isSearching);
    } catch (error) {
      if (asked === isFor) asked = "";
      onError(error);
    } finally {
      if (asked === isFor || asked === "") list.removeAttribute("aria-busy");
    }
  }

  function draw(isSearching) {
    const groups = new Map();
    for (const row of rows) {
      const key = `${row.step}/${row.place}`;
      groups.set(key, [...(groups.get(key) ?? []), row]);
    }
    const isAll = place().scope === "all";
    const best = Math.max(1e-9, ...rows.map((row) => Math.abs(row.mean_reward ?? 0)));
    list.replaceChildren(
      ...[...groups.values()].map((group) =>
        h(
          "div",
          { role: "group", "aria-label": `task ${group[0].task_id}` },
          h("div", { class: "task" }, isAll ? `step ${group[0].step} · ` : "", group[0].task_id,
            group[0].held_out ? h("span", { class: "tag" }, "held out") : ""),
          group.map((row) => option(row, best)),
        ),
      ),
    );
    if (after && !isSearching) {
      list.append(h("button", { class: "quiet", onclick: () => load(rows) }, "Show more"));
    }
    if (!rows.length && !isSearching) list.append(h("p", { class: "empty" }, "No episode is like that."));
    const told = `${rows.length}${after ? "+" : ""} episode${rows.length === 1 ? "" : "s"}`;
    count.textContent = isSearching ? `${told}, looking in step ${after[0]} …` : told;
    if (place().episode === undefined && rows.length) open(rows[0], { replace: true });
    select(place());
  }

  function option(row, best) {
    const value = row.mean_reward;
    const habits = Object.entries(row.metrics ?? {}).filter(([n, v]) => n.startsWith("habit/") && v > 0);
    const share = `${Math.round((100 * Math.abs(value ?? 0)) / best)}%`;
    const item = h(
      "div",
      { role: "option", class: "episode", "aria-selected": "false", onclick: () => open(row) },
      h("span", { class: `mark ${row.status}`, title: row.status, "aria-label": row.status },
        MARKS[row.status] ?? "?"),
      h("span", { class: "index muted" }, `#${row.episode}`),
      h("span", { class: "reward" }, number(value)),
      h("span", { class: "meter", "aria-hidden": "true" }, h("i", { style: `width: ${share}` })),
      h("span", { class: "muted size" }, `${compact(row.num_tokens)} tok`),
      habits.length ? h("span", { class: "habits" }, habits.map(([name]) => name.slice(6)).join(", ")) : null,
    );
    item.row = row;
    return item;
  }

  function open(row, how) {
    const { step, task_id: task, place: group, episode } = row;
    go({ step, task, place: group, episode, vs: null, at: null }, how);
  }

  function select(now) {
    for (const item of list.querySelectorAll("[role=option]")) {
      const isOpen = isThe(item.row, now);
      item.setAttribute("aria-selected", String(isOpen));
      if (isOpen) item.scrollIntoView({ block: "nearest" });
    }
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

  list.addEventListener("keydown", (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    walk(way);
  });

  const element = h(
    "aside",
    { class: "browse", "aria-label": "Choose an episode" },
    h(
      "div",
      { class: "stepper" },
      h("button", { onclick: () => walkSteps(-1), "aria-label": "Step before" }, "‹"),
      steps,
      h("button", { onclick: () => walkSteps(1), "aria-label": "Next step" }, "›"),
      h("label", { class: "check" }, everywhere, "all steps"),
    ),
    text,
    h("div", { class: "filters" }, status, habit, held, min, max),
    count,
    list,
  );
  return { element, show, walk, walkSteps, focus: () => list.focus(), refresh: () => show(place()) };
}

/** What the server is asked for. */
function filtersOf(now) {
  const { scope, step, status, min, max, habit, text, held } = now;
  const asked = { status, min_reward: min, max_reward: max, habit, text, held_out: held };
  if (scope !== "all") asked.step = step;
  return Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== undefined));
}

export const run = (now) => Number(now.run ?? 0);

export function compact(count) {
  return count < 10_000 ? String(count) : `${(count / 1000).toFixed(0)}k`;
}

const isThe = (row, now) =>
  row.step === Number(now.step) &&
  row.place === Number(now.place ?? -1) &&
  row.episode === Number(now.episode ?? -1);

/** Options anew, unless they are what they were. */
function fill(select, pairs, chosen) {
  const key = JSON.stringify(pairs);
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...options(pairs, chosen));
  }
  select.value = chosen ?? "";
}
