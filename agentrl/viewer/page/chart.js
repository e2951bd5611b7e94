// One metric as a chart: a line a run, or a line and a band over the runs that differ in their seed.

import { h } from "viewer/dom";
import { number } from "viewer/card";

// Okabe and Ito's colours, which people with any colour vision can tell apart.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"];
export const colourOf = (index) => COLOURS[index % COLOURS.length];

/**
 * lines: each {label, colour, runs: [{step, values}]}; with several runs, their mean and range are drawn.
 * onStep(step) when a step is clicked.
 */
export function chart(name, lines, { height, onStep }) {
  const values = h("div", { class: "chart-values" });
  const plot = h("div", { class: "plot", style: `height: ${height}px` });
  const element = h("figure", { class: "chart" }, values, plot);
  let drawn = null;
  let current = lines;

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const axis = {
      stroke: style.getPropertyValue("--muted"),
      grid: { stroke: style.getPropertyValue("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const parts = current.map(seriesOf);
    const series = [{}, ...parts.flatMap((part) => part.series)];
    const bands = [];
    let next = 1;
    for (const { series: drawnSeries, colour } of parts) {
      if (drawnSeries.length === 3) bands.push({ series: [next + 2, next + 1], fill: `${colour}2e` });
      next += drawnSeries.length;
    }
    drawn?.destroy();
    plot.replaceChildren();
    drawn = new uPlot(
      {
        width: Math.max(plot.clientWidth, 120),
        height,
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
      joined(current),
      plot,
    );
    say(drawn);
  }

  /** The values under the cursor, or the last ones. */
  function say(plotted) {
    const at = plotted.cursor.idx;
    const steps = plotted.data[0];
    const parts = [];
    let next = 1;
    for (const line of current) {
      const column = plotted.data[next];
      const shown = at ?? last(column);
      next += line.runs.length > 1 ? 3 : 1;
      parts.push(
        h("span", { style: `--colour: ${line.colour}` }, h("i", { class: "swatch" }),
          number(column?.[shown])),
      );
      if (parts.length === 1) {
        values.replaceChildren(h("span", { class: "muted" }, `step ${steps[shown] ?? "–"}`));
      }
    }
    values.append(...parts.slice(0, 4));
  }

  plot.addEventListener("click", () => {
    const at = drawn?.cursor.idx;
    if (at !== null && at !== undefined) onStep(drawn.data[0][at]);
  });

  return {
    element,
    draw,
    resize: () => drawn?.setSize({ width: plot.clientWidth, height }),
    /** New rows of a live run. */
    update(fresh) {
      const isSameShape = shape(fresh) === shape(current);
      current = fresh;
      if (!drawn) return;
      if (isSameShape) {
        drawn.setData(joined(current));
        say(drawn);
      } else draw();
    },
  };
}

function seriesOf({ label, colour, runs }) {
  const main = { label, stroke: colour, width: 1.75, spanGaps: true, points: { show: false } };
  if (runs[0]?.values.filter((value) => value !== null).length < 12) {
    main.points = { show: true, size: 5, fill: colour };
  }
  const edge = { stroke: "transparent", spanGaps: true, points: { show: false } };
  return { colour, series: runs.length > 1 ? [main, edge, { ...edge }] : [main] };
}

/** uPlot's table: the steps, then of each line its values, or its mean, lowest and highest. */
function joined(lines) {
  const all = new Set(lines.flatMap(({ runs }) => runs.flatMap(({ step }) => step)));
  // A row may have none.
  const steps = [...all].filter((step) => step !== null).sort((a, b) => a - b);
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

const shape = (lines) => lines.map(({ label, runs }) => `${label}/${runs.length}`).join();

/** Where its last value is. */
export const last = (column) => column?.findLastIndex((value) => value !== null && value !== undefined);
