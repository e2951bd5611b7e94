// All runs at a glance: which there are, and every metric that they logged.

import { chart, colourOf, last } from "./chart.js";
import { h } from "./dom.js";
import { go } from "./place.js";

// What metrics begin with, in the order in which they are shown; the others come last.
const ORDER = [
  ...["eval/success", "eval/reward/mean", "reward/mean", "reward/", "success", "loss", "entropy"],
  ...["habit/", "eval/habit/", "gap/", "grad_norm", "episodes/", "tokens/", "eval/", ""],
];

/** store: {runs, columns: of each run}; see main.js. */
export function overview(store) {
  const hidden = new Set();
  const families = [...new Set(store.runs.map(({ family }) => family))];
  const charts = new Map();
  const grid = h("div", { class: "charts" });
  const list = h("ul", { class: "runs", "aria-label": "Runs" });
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      charts.get(target.dataset.metric)?.draw();
    }
  });
  const resized = new ResizeObserver(() => charts.forEach((drawn) => drawn.resize()));
  resized.observe(grid);

  /** What is drawn of a metric: a line a family, with a band where it has several runs. */
  function lines(name) {
    const told = new Map();
    store.runs.forEach(({ name: label, family }, index) => {
      const { step, [name]: values } = store.columns[index];
      if (hidden.has(index) || !step || !values) return;
      if (!told.has(family)) told.set(family, { label, colour: colourFor(family), runs: [] });
      told.get(family).runs.push({ step, values });
    });
    return [...told.values()];
  }

  const colourFor = (family) => colourOf(families.indexOf(family));

  function names() {
    // Without steps there is nothing to draw it over.
    const all = new Set(store.columns.filter(({ step }) => step).flatMap((columns) => Object.keys(columns)));
    all.delete("step");
    const rank = (name) => ORDER.findIndex((start) => name.startsWith(start));
    return [...all].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  }

  function arrange() {
    const shown = names();
    if (shown.every((name) => charts.has(name))) return;
    for (const name of shown) if (!charts.has(name)) charts.set(name, makeChart(name));
    grid.replaceChildren(...shown.map((name) => charts.get(name).element));
  }

  function makeChart(name) {
    const drawn = chart(name, lines(name), (step) =>
      go({ view: "episodes", run: firstShown(), step, task: null, group: null, episode: null }),
    );
    seen.observe(drawn.element);
    return drawn;
  }

  const firstShown = () => store.runs.findIndex((_, index) => !hidden.has(index));

  function listed(run, index) {
    const choose = h("input", {
      type: "checkbox",
      checked: !hidden.has(index),
      onchange: () => {
        if (!hidden.delete(index)) hidden.add(index);
        update();
      },
    });
    const name = h("span", { title: run.folder }, run.name.split("/").at(-1));
    return h(
      "li",
      { style: `--colour: ${colourFor(run.family)}` },
      h("label", {}, choose, h("i", { class: "swatch" }), name),
      h("div", { class: "muted run-more" }, told(run, index)),
      h("a", { href: `#view=episodes&run=${index}`, class: "run-open" }, "episodes"),
    );
  }

  function told(run, index) {
    const steps = store.columns[index].step;
    const parts = [run.experiment, `seed ${run.seed ?? "–"}`];
    parts.push(steps ? `step ${steps[last(steps)]}` : "no step yet");
    return parts.join(" · ");
  }

  function update() {
    list.replaceChildren(...store.runs.map(listed));
    arrange();
    for (const [name, drawn] of charts) drawn.update(lines(name));
  }

  const element = h(
    "main",
    { class: "overview" },
    h("aside", {}, h("h2", {}, "Runs"), list),
    h("section", {}, grid),
  );
  update();
  return { element, update };
}
