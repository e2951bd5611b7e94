// What the page knows of the runs, asked of the server.

/** The runs: name, folder, experiment, seed, family. */
export const runs = () => ask("runs");

/** The columns of metrics.jsonl by name. */
export const metrics = (run) => ask(`runs/${run}/metrics`);

/** What has been recorded: pairs of a step and whether it is the evaluation after it. */
export const batches = (run) => ask(`runs/${run}/batches`);

/**
 * {rows, after, unread}: filters by step, task_id, status, min_reward, max_reward, habit, text, held_out.
 * after: where the list goes on; null: it has ended. A text may need many answers to be found; where
 * episodes could not be looked through, unread has a sentence for each.
 */
export function episodes(run, filters, after) {
  const asked = new URLSearchParams(filters);
  if (after) asked.set("after", after.join());
  return ask(`runs/${run}/episodes?${asked}`);
}

/** One episode: row, ids, parent, texts, calls. */
export function episode(run, { step, task, group, episode: index }) {
  return ask(`runs/${run}/episode?${new URLSearchParams({ step, task_id: task, group, index })}`);
}

async function ask(path) {
  let reply;
  try {
    reply = await fetch(`/api/${path}`);
  } catch {
    throw new Error("The server does not answer: was python -m agentrl.viewer ended?");
  }
  if (reply.ok) return reply.json();
  const told = await reply.json().catch(() => ({}));
  throw new Error(told.error ?? `The server answered ${reply.status}.`);
}
