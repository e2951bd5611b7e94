// All runs at a glance: which there are, and every metric that they logged.

import { chart, colourOf, last } from "viewer/chart";
import { h } from "viewer/dom";
import { go, onMove, place } from "viewer/place";

const FIRST = ["eval/success", "eval/reward/mean", "reward/mean", "success", "loss", "entropy"];
const THEN = ["habit/", "eval/habit/", "gap/", "grad_norm", "episodes/", "tokens/", "eval/"];
const SMALL = 132;
const LARGE = 340;

/** store: {runs, columns: of each run}; see main.js. */
export function overview(store) {
  const hidden = new Set();
  let banded = store.runs.some((run, i) => store.runs.findIndex(is(run.family)) !== i);
  const charts = new Map();
  const grid = h("div", { class: "charts" });
  const search = h("input", {
    type: "search",
    placeholder: "Find a metric",
    "aria-label": "Find a metric",
    "data-search": true,
    oninput: () => arrange(),
  });
  const list = h("ul", { class: "runs", "aria-label": "Runs" });
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      target.chart.draw();
    }
  });
  const resized = new ResizeObserver(() => charts.forEach(({ drawn }) => drawn.resize()));
  resized.observe(grid);

  function is(family) {
    return (run) => run.family === family;
  }

  /** What is drawn of a metric: a line a family, or a line a run. */
  function lines(name) {
    const of = (index) => ({
      step: store.columns[index].step,
      values: store.columns[index][name] ?? [],
    });
    const told = [];
    store.runs.forEach((run, index) => {
      if (hidden.has(index) || !store.columns[index].step || !store.columns[index][name]) return;
      const family = banded && told.find((line) => line.family === run.family);
      if (family) family.runs.push(of(index));
      else {
        told.push({ label: run.name, family: run.family, colour: colourFor(index), runs: [of(index)] });
      }
    });
    return told;
  }

  const colourFor = (index) =>
    colourOf(banded ? new Set(store.runs.slice(0, index).map((r) => r.family)).size -
      (store.runs.findIndex(is(store.runs[index].family)) < index ? 1 : 0) : index);

  function names() {
    // Without steps there is nothing to draw it over.
    const all = new Set(store.columns.filter(({ step }) => step).flatMap((columns) => Object.keys(columns)));
    all.delete("step");
    const rank = (name) => {
      const exact = FIRST.indexOf(name);
      if (exact >= 0) return exact;
      const prefix = THEN.findIndex((start) => name.startsWith(start));
      return FIRST.length + (prefix < 0 ? THEN.length : prefix);
    };
    return [...all].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  }

  function arrange() {
    const asked = search.value.trim().toLowerCase();
    const large = place().metric;
    const shown = names().filter((name) => name.toLowerCase().includes(asked));
    shown.sort((a, b) => (b === large) - (a === large));
    for (const [name, card] of charts) {
      const isLarge = name === large;
      if (!shown.includes(name) || card.isLarge !== isLarge) {
        card.element.remove();
        charts.delete(name);
      }
    }
    shown.forEach((name, index) => {
      if (!charts.has(name)) charts.set(name, makeCard(name, name === large));
      const { element } = charts.get(name);
      if (grid.children[index] !== element) grid.insertBefore(element, grid.children[index] ?? null);
    });
    empty.hidden = shown.length > 0;
  }

  function makeCard(name, isLarge) {
    const drawn = chart(name, lines(name), {
      height: isLarge ? LARGE : SMALL,
      onStep: (step) => go({ view: "episodes", run: firstShown(), step, task: null, group: null, episode: null }),
    });
    const enlarge = () => go({ metric: isLarge ? null : name });
    const title = h(
      "button",
      { class: "chart-title", onclick: enlarge, "aria-expanded": String(isLarge) },
      name,
    );
    const element = h("article", { class: isLarge ? "panel large" : "panel", "data-metric": name },
      title, drawn.element);
    element.chart = drawn;
    seen.observe(element);
    return { element, drawn, isLarge };
  }

  const firstShown = () => store.runs.findIndex((_, index) => !hidden.has(index));

  function listRuns() {
    list.replaceChildren(
      ...store.runs.map((run, index) =>
        h(
          "li",
          { style: `--colour: ${colourFor(index)}` },
          h(
            "label",
            {},
            h("input", {
              type: "checkbox",
              checked: !hidden.has(index),
              onchange: () => {
                if (!hidden.delete(index)) hidden.add(index);
                update();
              },
            }),
            h("i", { class: "swatch" }),
            h("span", { class: "run-name", title: run.folder }, run.name.split("/").at(-1)),
          ),
          h("div", { class: "muted run-more" }, told(run, index)),
          h(
            "a",
            { href: `#view=episodes&run=${index}`, class: "run-open" },
            "episodes",
          ),
        ),
      ),
    );
  }

  function told(run, index) {
    const steps = store.columns[index].step;
    const parts = [run.experiment, `seed ${run.seed ?? "–"}`];
    parts.push(steps ? `step ${steps[last(steps)]}` : "no step yet");
    return parts.join(" · ");
  }

  function update() {
    listRuns();
    arrange();
    for (const [name, { drawn }] of charts) drawn.update(lines(name));
  }

  const bands = h(
    "label",
    { class: "check" },
    h("input", {
      type: "checkbox",
      checked: banded,
      onchange: (event) => {
        banded = event.target.checked;
        update();
      },
    }),
    "seeds as a band: mean and range",
  );
  const empty = h("p", { class: "empty", hidden: true }, "No metric has that in its name.");
  onMove(() => element.isConnected && arrange());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    charts.forEach(({ drawn }) => drawn.draw()),
  );
  const element = h(
    "main",
    { class: "overview" },
    h("aside", {}, h("h2", {}, "Runs"), list),
    h("section", {}, h("div", { class: "bar" }, search, bands), empty, grid),
  );
  update();
  return { element, update };
}
