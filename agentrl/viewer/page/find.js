// Where an episode says something, whichever tokens it is made of.

const MOST = 2000;

/** A function: words -> {starts: positions, marked: 1 for each token that is part of one}. */
export function finder(episode) {
  let text = null;
  let begins = null;

  function prepare() {
    begins = new Uint32Array(episode.order.length + 1);
    const small = episode.texts.map((part) => part.toLowerCase());
    const parts = Array.from(episode.order, (position) => small[episode.text[position]]);
    parts.forEach((part, i) => (begins[i + 1] = begins[i] + part.length));
    text = parts.join("");
  }

  /** The rank of the token that a letter belongs to. */
  function tokenAt(letter) {
    let low = 0;
    let high = episode.ids.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (begins[middle] <= letter) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  return (words) => {
    const starts = [];
    if (!words) return { starts, marked: null };
    if (text === null) prepare();
    const marked = new Uint8Array(episode.ids.length);
    const wanted = words.toLowerCase();
    for (let at = text.indexOf(wanted); at >= 0 && starts.length < MOST; ) {
      const first = tokenAt(at);
      const last = tokenAt(at + wanted.length - 1);
      for (let rank = first; rank <= last; rank++) marked[episode.order[rank]] = 1;
      starts.push(episode.order[first]);
      at = text.indexOf(wanted, at + wanted.length);
    }
    return { starts, marked };
  };
}
