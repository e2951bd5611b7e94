// Where an episode says something, whichever tokens it is made of.

const MOST = 2000;

/** A function: words -> {starts: positions, marked: 1 for each token that is part of one}. */
export function finder({ ids, order, text, texts }) {
  const small = texts.map((part) => part.toLowerCase());
  let whole = null;

  return (words) => {
    const starts = [];
    if (!words) return { starts, marked: null };
    whole ??= Array.from(order, (position) => small[text[position]]).join("");
    const marked = new Uint8Array(ids.length);
    const wanted = words.toLowerCase();
    // The token at which the search is, and where its text ends.
    let rank = 0;
    let end = small[text[order[0]]]?.length;
    const reach = (letter) => {
      while (end <= letter) end += small[text[order[++rank]]].length;
    };
    for (let at = whole.indexOf(wanted); at >= 0 && starts.length < MOST; ) {
      reach(at);
      starts.push(order[rank]);
      const first = rank;
      reach(at + wanted.length - 1);
      for (let i = first; i <= rank; i++) marked[order[i]] = 1;
      at = whole.indexOf(wanted, at + wanted.length);
    }
    return { starts, marked };
  };
}
