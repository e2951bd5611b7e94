// A hundred thousand tokens in a scrolling pane.
//
// An element a token would be thousands of elements a screen, and a frame has no time for their styles.
// So rows come in tiles: in each, the text is a few text nodes (selectable, and read by screen readers),
// and the shades lie beneath it on a canvas. A tile is drawn when it comes near, and then scrolls as an
// image does. Which token is pointed at follows from the coordinates.

import { h } from "viewer/dom";
import { INDENT, layOut } from "viewer/layout";
import { kindOf, OPACITIES, SHADES, strengthOf } from "viewer/shade";

const ROW = 24;
const TILE = 20;
const TOP = 12;
// A longer line is hard to follow to its end and back.
const MOST_COLUMNS = 120;
const FEWEST_COLUMNS = 32;

export class TokenPane {
  /** onToken(position, box) when one is pointed at or walked to; (null) when none is. */
  constructor(label, onToken) {
    this.onToken = onToken;
    this.tiles = new Map();
    // Of tiles that went: a new one for each would have the browser collect megabytes in mid-scroll.
    this.spare = [];
    this.cursor = null;
    this.hits = null;
    this.outline = h("div", { class: "outline", hidden: true });
    this.tall = h("div", { class: "tall" }, this.outline);
    this.ruler = h("span", { class: "ruler", "aria-hidden": "true" }, "0".repeat(100));
    this.element = h(
      "div",
      { class: "tokens", tabindex: "0", role: "region", "aria-label": label },
      this.tall,
      this.ruler,
    );
    this.element.addEventListener("scroll", () => this.soon(), { passive: true });
    this.element.addEventListener("pointermove", (event) => this.point(event));
    this.element.addEventListener("pointerleave", () => this.point(null));
    this.element.addEventListener("click", (event) => {
      const position = this.positionAt(event);
      if (position !== null && getSelection().isCollapsed) this.moveTo(position);
    });
    this.element.addEventListener("keydown", (event) => this.walk(event));
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.element);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.onScheme = () => this.redraw();
    this.dark.addEventListener("change", this.onScheme);
  }

  show(episode, shade) {
    this.episode = episode;
    this.shade = SHADES[shade];
    this.width = 0;
    this.element.scrollTop = 0;
    this.fit();
  }

  reshade(shade) {
    this.shade = SHADES[shade];
    this.redraw();
  }

  /** Mark the tokens for which the array is not 0. */
  mark(hits) {
    this.hits = hits;
    this.redraw();
  }

  /** Put the cursor on a token and bring it into sight. */
  moveTo(position, { quiet = false } = {}) {
    // An address may name any number.
    if (!(position in this.episode.ids)) return;
    this.cursor = position;
    // Not laid out yet: fit() comes back to the cursor.
    if (!this.rows) return;
    const top = this.rowAt[position] * ROW;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop + ROW || top > scrollTop + clientHeight - 2 * ROW) {
      this.element.scrollTop = top - clientHeight / 3;
    }
    this.draw();
    this.frameIt(position);
    if (!quiet) this.onToken(position, this.boxOf(position));
  }

  close() {
    this.resized.disconnect();
    this.dark.removeEventListener("change", this.onScheme);
  }

  /** Rows anew for the width that there is. */
  fit() {
    if (!this.episode || !this.element.isConnected) return;
    const letter = this.ruler.getBoundingClientRect().width / 100;
    if (!letter) return;
    const fitting = Math.floor(this.tall.clientWidth / letter);
    const width = Math.min(MOST_COLUMNS, Math.max(FEWEST_COLUMNS, fitting)) * letter;
    if (width === this.width) return;
    const first = this.width ? this.firstPosition() : null;
    this.width = width;
    const context = document.createElement("canvas").getContext("2d");
    context.font = getComputedStyle(this.element).font;
    const measure = (text) => context.measureText(text).width;
    Object.assign(this, layOut(this.episode, { width, letter, measure }));
    this.tall.style.height = `${TOP + (this.rows.length + 2) * ROW}px`;
    if (first) this.element.scrollTop = this.rowAt[first] * ROW;
    this.redraw();
    if (this.cursor === null) return;
    if (first === null) this.moveTo(this.cursor, { quiet: true });
    else this.frameIt(this.cursor);
  }

  /** The first token in sight. */
  firstPosition() {
    let row = Math.floor(this.element.scrollTop / ROW);
    while (row < this.rows.length && !this.rows[row].tokens) row++;
    return this.rows[row]?.tokens[0] ?? 0;
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  redraw() {
    if (!this.rows) return;
    for (const [index, tile] of this.tiles) this.removeTile(index, tile);
    const style = getComputedStyle(this.element);
    const rgb = (name) => style.getPropertyValue(name).trim();
    const shades = (name) => OPACITIES.map((opacity) => `rgb(${rgb(name)} / ${opacity}%)`);
    this.colours = { blue: shades("--blue"), orange: shades("--orange"), hit: rgb("--hit") };
    this.colours.line = { in: `rgb(${rgb("--blue")} / 55%)`, out: `rgb(${rgb("--orange")})` };
    this.draw();
  }

  /** The tiles in sight now; of those beside them one a frame. */
  draw() {
    if (!this.rows) return;
    const { scrollTop, clientHeight } = this.element;
    const tileAt = (top) => Math.floor((top - TOP) / (ROW * TILE));
    const last = Math.ceil(this.rows.length / TILE) - 1;
    const inSight = [Math.max(0, tileAt(scrollTop)), Math.min(last, tileAt(scrollTop + clientHeight))];
    const near = [Math.max(0, inSight[0] - 1), Math.min(last, inSight[1] + 1)];
    for (const [index, tile] of this.tiles) {
      if (index < near[0] || index > near[1]) this.removeTile(index, tile);
    }
    for (let index = inSight[0]; index <= inSight[1]; index++) this.addTile(index);
    const missing = near.find((index) => !this.tiles.has(index));
    if (missing !== undefined) {
      this.addTile(missing);
      this.soon();
    }
  }

  addTile(index) {
    if (this.tiles.has(index)) return;
    const rows = this.rows.slice(index * TILE, (index + 1) * TILE);
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.style.transform = `translateY(${TOP + index * TILE * ROW}px)`;
    tile.append(this.shadesOf(rows), this.textOf(rows));
    rows.forEach((row, i) => {
      if (row.head) tile.append(this.headOf(row.head, i));
    });
    // In the order in which they are read, for whoever selects text or listens to it.
    const next = Array.from(this.tiles.keys()).filter((other) => other > index);
    this.tall.insertBefore(tile, next.length ? this.tiles.get(Math.min(...next)) : null);
    this.tiles.set(index, tile);
  }

  removeTile(index, tile) {
    tile.remove();
    this.tiles.delete(index);
    this.spare.push(tile.firstChild);
  }

  textOf(rows) {
    const text = document.createElement("pre");
    let kind = null;
    let lines = [];
    const flush = () => {
      if (!lines.length) return;
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = `${lines.join("\n")}\n`;
      text.append(part);
      lines = [];
    };
    for (const { tokens, texts, level } of rows) {
      const next = tokens && kindOf(this.episode, tokens[0]) !== "given" ? "sampled" : "given";
      if (next !== kind) flush();
      kind = next;
      lines.push(tokens ? " ".repeat(level * INDENT) + texts.join("") : "");
    }
    flush();
    return text;
  }

  shadesOf(rows) {
    const scale = devicePixelRatio;
    const canvas = this.spare.pop() ?? document.createElement("canvas");
    const context = canvas.getContext("2d");
    const [width, height] = [Math.ceil(this.width * scale), Math.ceil(TILE * ROW * scale)];
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      canvas.style.cssText = `width: ${width / scale}px; height: ${height / scale}px`;
    }
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    rows.forEach(({ tokens, lefts }, i) => {
      tokens?.forEach((position, j) => {
        const kind = kindOf(this.episode, position);
        const isHit = this.hits?.[position];
        if (kind === "given" && !isHit) return;
        const left = lefts[j];
        const width = lefts[j + 1] - left;
        context.fillStyle = isHit ? this.colours.hit : this.colourOf(kind, position);
        // The gap shows where one token ends.
        context.fillRect(left, i * ROW + 3, Math.max(width - 1, 1), ROW - 6);
        if (kind !== "given") underline(context, this.colours.line[kind], kind, left, i * ROW, width);
      });
    });
    return canvas;
  }

  colourOf(kind, position) {
    const { strength, isBelow } = strengthOf(this.episode, position, this.shade);
    return this.colours[kind === "out" || isBelow ? "orange" : "blue"][strength];
  }

  headOf({ call, level, of, from }, row) {
    const parts = [];
    if (of === "call") {
      parts.push(h("b", {}, `call ${call.index + 1}`), h("span", {}, call.agent));
      parts.push(h("span", {}, `${call.sampled} sampled, ${call.finish_reason}`));
      if (call.under_grammar) parts.push(h("span", {}, "under a grammar"));
      const above = call.sampled - call.fresh.length;
      if (above > 0) parts.push(h("span", {}, `${above} of them as above`));
    } else parts.push(h("span", {}, `prompt of call ${call.index + 1}`));
    if (from !== null) {
      const isFork = call.why_forked !== null;
      const place = from < 0 ? "from the start" : `after token ${from}`;
      const why = isFork ? `↳ ${call.why_forked}` : "↳ goes on";
      parts.push(h("span", { class: isFork ? "fork" : "" }, why), h("span", {}, place));
    }
    const style = `top: ${row * ROW}px; padding-left: ${level * INDENT}ch`;
    return h("div", { class: "head", style }, parts);
  }

  /** Where a token is in the tall pane: the first row of it. */
  placeOf(position) {
    const row = this.rows[this.rowAt[position]];
    const at = row.tokens.indexOf(position);
    return {
      left: row.lefts[at],
      top: TOP + this.rowAt[position] * ROW,
      width: Math.max(row.lefts[at + 1] - row.lefts[at], 3),
    };
  }

  /** The same in the window. */
  boxOf(position) {
    const pane = this.tall.getBoundingClientRect();
    const { left, top, width } = this.placeOf(position);
    return new DOMRect(pane.left + left, pane.top + top, width, ROW);
  }

  frameIt(position) {
    this.outline.hidden = position === null;
    if (position === null) return;
    const { left, top, width } = this.placeOf(position);
    this.outline.style.cssText = `transform: translate(${left}px, ${top}px); width: ${width}px`;
  }

  positionAt({ clientX, clientY }) {
    const pane = this.tall.getBoundingClientRect();
    const row = this.rows?.[Math.floor((clientY - pane.top - TOP) / ROW)];
    if (!row?.tokens) return null;
    const x = clientX - pane.left;
    if (x < row.lefts[0] || x >= row.lefts.at(-1)) return null;
    return row.tokens[row.lefts.findLastIndex((left) => left <= x)];
  }

  point(event) {
    const position = event && this.positionAt(event);
    if (position === this.pointed) return;
    this.pointed = position;
    this.frameIt(position ?? this.cursor);
    this.onToken(position, position === null ? null : this.boxOf(position));
  }

  walk(event) {
    if (!this.rows || event.ctrlKey || event.metaKey || event.altKey) return;
    const { order, rank } = this.episode;
    const at = this.cursor ?? this.firstPosition();
    const beside = (way) => (this.cursor === null ? at : order[rank[at] + way]);
    const next = {
      ArrowLeft: () => beside(-1),
      ArrowRight: () => beside(1),
      ArrowUp: () => this.inRow(at, -1),
      ArrowDown: () => this.inRow(at, 1),
      Home: () => order[0],
      End: () => order.at(-1),
    }[event.key];
    if (event.key === "Escape" && this.cursor !== null) {
      this.cursor = null;
      this.frameIt(null);
      this.onToken(null);
      event.stopPropagation();
    }
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    this.moveTo(next() ?? at);
  }

  /** The token above or below, as far along its row. */
  inRow(position, way) {
    const { left } = this.placeOf(position);
    let row = this.rowAt[position] + way;
    while (this.rows[row] && !this.rows[row].tokens) row += way;
    if (!this.rows[row]) return position;
    const { tokens, lefts } = this.rows[row];
    const at = lefts.findLastIndex((start) => start <= left);
    return tokens[Math.min(Math.max(at, 0), tokens.length - 1)];
  }
}

function underline(context, colour, kind, left, top, width) {
  context.fillStyle = colour;
  if (kind === "in") context.fillRect(left, top + ROW - 3, width, 2);
  else for (let x = left; x < left + width - 2; x += 4) context.fillRect(x, top + ROW - 3, 2, 2);
}
