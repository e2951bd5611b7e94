// One metric as a chart: a line a run, or a line and a band over the runs that differ in their seed.

import { number } from "./card.js";
import { h } from "./dom.js";

// Okabe and Ito's colours, which people with any colour vision can tell apart.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"];
export const colourOf = (index) => COLOURS[index % COLOURS.length];
const HEIGHT = 160;

/**
 * lines: each {label, colour, runs: [{step, values}]}; with several runs, their mean and range are drawn.
 * onStep(step) when a step is clicked. It is drawn when draw() is called, and anew when it changes then.
 */
export function chart(name, lines, onStep) {
  const values = h("div", { class: "chart-values" });
  const plot = h("div", { class: "plot", style: `height: ${HEIGHT}px` });
  const element = h("figure", { class: "panel", "data-metric": name },
    h("figcaption", {}, name), values, plot);
  let drawn = null;

  function draw() {
    const axis = {
      stroke: getComputedStyle(plot).color,
      grid: { stroke: getComputedStyle(element).borderTopColor, width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const series = [{}];
    const bands = [];
    for (const line of lines) {
      series.push(...seriesOf(line));
      if (line.runs.length > 1) {
        bands.push({ series: [series.length - 1, series.length - 2], fill: `${line.colour}2e` });
      }
    }
    drawn?.destroy();
    drawn = new uPlot(
      {
        width: Math.max(plot.clientWidth, 120),
        height: HEIGHT,
        series,
        bands,
        axes: [
          { ...axis, size: 26, space: 60 },
          { ...axis, size: 46, space: 32, values: (_, ticks) => ticks.map(number) },
        ],
        scales: { x: { time: false } },
        legend: { show: false },
        cursor: { sync: { key: "steps" }, points: { size: 6 }, drag: { x: false, y: false } },
        hooks: { setCursor: [say] },
        padding: [8, 8, 0, 0],
      },
      joined(lines),
      plot,
    );
    say(drawn);
  }

  /** The values under the cursor, or the last ones. */
  function say({ cursor, data: [steps, ...columns] }) {
    const at = (column) => cursor.idx ?? last(column);
    const told = lines.map(({ colour, runs }) => {
      const [column] = columns.splice(0, runs.length > 1 ? 3 : 1);
      return { step: steps[at(column)], colour, value: column[at(column)] };
    });
    values.replaceChildren(
      h("span", { class: "muted" }, `step ${told[0]?.step ?? "–"}`),
      ...told.slice(0, 4).map(({ colour, value }) =>
        h("span", { style: `--colour: ${colour}` }, h("i", { class: "swatch" }), number(value)),
      ),
    );
  }

  plot.addEventListener("click", () => {
    const at = drawn?.cursor.idx;
    if (at !== null && at !== undefined) onStep(drawn.data[0][at]);
  });

  return {
    element,
    draw,
    resize: () => drawn?.setSize({ width: plot.clientWidth, height: HEIGHT }),
    /** New rows of a live run, or other runs. */
    update(fresh) {
      lines = fresh;
      if (drawn) draw();
    },
  };
}

/** The line of a family, and the edges of its band. */
function seriesOf({ label, colour, runs }) {
  const main = { label, stroke: colour, width: 1.75, spanGaps: true, points: { show: false } };
  if (runs[0].values.filter((value) => value !== null).length < 12) {
    main.points = { show: true, size: 5, fill: colour };
  }
  const edge = { stroke: "transparent", spanGaps: true, points: { show: false } };
  return runs.length > 1 ? [main, edge, { ...edge }] : [main];
}

/** uPlot's table: the steps, then of each line its values, or its mean, lowest and highest. */
function joined(lines) {
  const all = new Set(lines.flatMap(({ runs }) => runs.flatMap(({ step }) => step)));
  const steps = [...all].sort((a, b) => a - b);
  const columns = lines.flatMap(({ runs }) => {
    const byStep = runs.map(({ step, values }) => new Map(step.map((s, i) => [s, values[i]])));
    const of = (reduce) =>
      steps.map((step) => {
        const there = byStep.map((run) => run.get(step)).filter((v) => v !== null && v !== undefined);
        return there.length ? reduce(there) : null;
      });
    const mean = of((there) => there.reduce((a, b) => a + b, 0) / there.length);
    return runs.length > 1
      ? [mean, of((there) => Math.min(...there)), of((there) => Math.max(...there))]
      : [mean];
  });
  return [steps, ...columns];
}

/** Where its last value is. */
export const last = (column) => column?.findLastIndex((value) => value !== null && value !== undefined);
