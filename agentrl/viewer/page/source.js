// What the page knows of the runs: asked of the server, or read out of the page itself in an export.

const inside = document.getElementById("answers");
const embedded = inside && JSON.parse(inside.textContent);

export const isExport = embedded !== null;

// As the server's: rows that are answered at once.
const PER_PAGE = 400;

/** The runs: name, folder, experiment, seed, family. */
export const runs = () => (embedded ? embedded.runs : ask("runs"));

/** The columns of metrics.jsonl by name. */
export const metrics = (run) => (embedded ? embedded.metrics[run] : ask(`runs/${run}/metrics`));

/** What has been recorded: pairs of a step and whether it is the evaluation after it. */
export const batches = (run) => (embedded ? embedded.batches[run] : ask(`runs/${run}/batches`));

/**
 * {rows, after, unread}: filters by step, task_id, status, min_reward, max_reward, habit, text, held_out.
 * after: where the list goes on; null: it has ended. A text may need many answers to be found; where
 * episodes could not be looked through, unread has a sentence for each.
 */
export async function episodes(run, filters, after = null) {
  if (embedded) return filtered(embedded.rows[run], filters, after);
  const asked = new URLSearchParams(filters);
  if (after) asked.set("after", after.join());
  return ask(`runs/${run}/episodes?${asked}`);
}

/** The bytes of one episode, as answers.py packs them. */
export async function episode(run, { step, task, group, episode: index }) {
  if (embedded) {
    const block = embedded.episodes[run]?.[`${step}/${group}/${index}`];
    if (!block) throw new Error("This file was exported without the tokens of that episode.");
    return unzip(block);
  }
  const asked = new URLSearchParams({ step, task_id: task, group, index });
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
    throw new Error("The server does not answer: was python -m agentrl.viewer ended?");
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

/** What the server does, over an export's rows; texts are not looked through. */
function filtered(all, asked, after) {
  const start = after ? all.findIndex((row) => String(whereIs(row)) === String(after)) + 1 : 0;
  const rows = all.slice(start).filter((row) => isAskedFor(row, asked));
  const shown = rows.slice(0, PER_PAGE);
  return { rows: shown, after: rows.length > PER_PAGE ? whereIs(shown.at(-1)) : null, unread: [] };
}

/** Its key, by which all are in order. */
export const whereIs = ({ step, group, episode }) => [step, group, episode];

const isAskedFor = (row, asked) =>
  (asked.step === undefined || row.step === Number(asked.step)) &&
  (asked.task_id === undefined || row.task_id === asked.task_id) &&
  (asked.held_out === undefined || row.held_out === (asked.held_out === "true")) &&
  (asked.status === undefined || row.status === asked.status) &&
  (asked.min_reward === undefined || (row.reward ?? NaN) >= Number(asked.min_reward)) &&
  (asked.max_reward === undefined || (row.reward ?? NaN) <= Number(asked.max_reward)) &&
  (asked.habit === undefined || row.metrics[asked.habit] > 0);
