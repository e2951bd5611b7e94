// Elements, written as they nest.

/** h("button", {class: "quiet", onclick: close}, "Close"): null and false attributes are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== false));
  return element;
}

/** Options of a select: pairs of a value and what is read. */
export const options = (pairs) => pairs.map(([value, text]) => h("option", { value }, text));

/** Call it a little after the last of a burst of calls. */
export function settled(act, milliseconds = 250) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), milliseconds);
  };
}
