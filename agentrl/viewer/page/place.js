// Where a person is: the page's address and nothing else, so that Back works and a link is a place.
//
//   view      runs, or episodes
//   run, step, task, group, episode     what is open; group: the number of the task's group in the step
//   at        the token of it that is in sight
//   status, min, max, habit, text, held, scope     the list's filters; scope = all: not this step alone
//   only      the one task that the list has, at all steps
//   shade     what the tokens' colour says

export function place() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change a few of its parts: null takes one out. To where one is already: what failed is tried again. */
export function go(changes, { replace = false } = {}) {
  const next = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  const hash = `#${next}`;
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
  moved();
}

/** Called with where one is, whenever that is asked for. */
export function onMove(listener) {
  moved = () => listener(place());
  window.addEventListener("popstate", moved);
}

let moved = () => {};
