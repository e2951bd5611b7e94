// What the page knows of the runs: asked of the server, or read out of the page itself in an export.

const inside = document.getElementById("answers");
const embedded = inside && JSON.parse(inside.textContent);

export const isExport = embedded !== null;

/** The runs: name, folder, experiment, commit, seed, family. */
export const runs = () => (embedded ? embedded.runs : ask("runs"));

/** The columns of metrics.jsonl by name. */
export const metrics = (run) => (embedded ? embedded.metrics[run] : ask(`runs/${run}/metrics`));

export const steps = (run) => (embedded ? embedded.steps[run] : ask(`runs/${run}/steps`));

/** The steps whose tokens are here; null: all of them. */
export const held = (run) => (embedded ? embedded.held[run] : null);

/**
 * {rows, after}: filters by step, task_id, status, min_reward, max_reward, habit, text, held_out.
 * after: where the list goes on; null: it has ended. A text may need many answers to be found.
 */
export async function episodes(run, filters, after = null) {
  if (embedded) return { rows: await filtered(run, filters), after: null };
  const asked = new URLSearchParams(filters);
  if (after) asked.set("after", after.join());
  return ask(`runs/${run}/episodes?${asked}`);
}

/** The bytes of one episode, as answers.py packs them. */
export async function episode(run, { step, task, place, episode: index }) {
  if (embedded) {
    const block = embedded.episodes[`${run}/${step}/${place}/${index}`];
    if (!block) throw new Error("This file was exported without the tokens of that step.");
    return unzip(block);
  }
  const asked = new URLSearchParams({ step, task_id: task, place, index });
  return (await answer(`runs/${run}/episode?${asked}`)).arrayBuffer();
}

async function ask(path) {
  return (await answer(path)).json();
}

async function answer(path) {
  let reply;
  try {
    reply = await fetch(`/api/${path}`);
  } catch {
    throw new Error("The server does not answer: was python -m agentrl.watch ended?");
  }
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${reply.status}.`);
}

async function unzip(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** What the server's index does, over an export's rows. */
async function filtered(run, asked) {
  const rows = embedded.rows[run].filter(
    (row) =>
      (asked.step === undefined || row.step === Number(asked.step)) &&
      (asked.task_id === undefined || row.task_id === asked.task_id) &&
      (asked.held_out === undefined || row.held_out === (asked.held_out === "true")) &&
      (asked.status === undefined || row.status === asked.status) &&
      (asked.min_reward === undefined || (row.mean_reward ?? NaN) >= Number(asked.min_reward)) &&
      (asked.max_reward === undefined || (row.mean_reward ?? NaN) <= Number(asked.max_reward)) &&
      (asked.habit === undefined || row.metrics[asked.habit] > 0),
  );
  if (asked.text === undefined) return rows;
  const { textOf } = await import("viewer/model");
  const says = async (row) => {
    const block = embedded.episodes[`${run}/${row.step}/${row.place}/${row.episode}`];
    return block && textOf(await unzip(block)).toLowerCase().includes(asked.text.toLowerCase());
  };
  const said = await Promise.all(rows.map(says));
  return rows.filter((_, i) => said[i]);
}
