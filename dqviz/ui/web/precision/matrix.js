// The matrix: a row for every layer and block, a column for the weight and for every window. Fill: what rounding costs;
// text: the bits of the plan. One canvas, drawn anew as a whole; choosing asks nobody.
import { el } from "../tools.js";

const GAP = 6; // between weights and activations
const SHADES = 256;

export function matrixOf({ data, plan, view, onSelect, onInspect, onKey }) {
  const head = el("div", { class: "dq-mx-head", "aria-hidden": "true" });
  const names = el("div", { class: "dq-mx-names" });
  const canvas = el("canvas", { class: "dq-mx-canvas", "aria-hidden": "true" });
  const hint = el("div", { class: "dq-mx-hint", hidden: true, "aria-hidden": "true" });
  const spoken = el("p", { class: "dq-offscreen", role: "status" });
  const label = "Matrix of layers and windows of steps. Arrow keys move, with Shift they select a rectangle, Space selects or leaves a cell, Enter selects it alone, Escape none, Control A all. Digits set bits, P pins, U unpins.";
  const grid = el("div", { class: "dq-mx-grid" }, el("div", { class: "dq-mx-corner" }), head, names, canvas);
  const node = el("div", { class: "dq-mx", tabindex: "0", role: "group", "aria-label": label }, grid);
  const outer = el("div", { class: "dq-mx-outer" }, node, hint, spoken);
  const shades = lut(data.colours);
  const blocks = [...new Set(data.sites.map((s) => s.block))];
  const closed = new Set(data.sites.length > 48 ? blocks : []);
  const selected = new Set();
  let rows = []; // what is drawn: {block, sites, site?}
  let columns = []; // {index, x, width}
  let tall = 22;
  let at = { row: 1, column: 0 }; // the cursor
  let anchor = null;
  let focused = false;

  function lay() {
    const shown = data.sites.map((s, i) => ({ ...s, i })).filter((s) => view.shows(s));
    rows = [];
    for (const block of blocks) {
      const own = shown.filter((s) => s.block === block);
      if (!own.length) continue;
      rows.push({ block, sites: own.map((s) => s.i) });
      if (!closed.has(block)) for (const s of own) rows.push({ block, sites: [s.i], site: s.i });
    }
    const kinds = [...Array(plan.columns).keys()].filter((c) => view.operand === "both" || (view.operand === "weight") === (c === 0));
    const narrow = node.clientWidth < 560;
    const left = narrow ? 96 : 150;
    const gap = kinds.length > 1 && kinds[0] === 0 ? GAP : 0;
    const room = Math.max(node.clientWidth - left - gap - 14, 60);
    const wide = Math.min(132, Math.max(26, Math.floor(room / kinds.length)));
    columns = kinds.map((index, i) => ({ index, x: i * wide + (index && gap ? gap : 0), width: wide }));
    tall = rows.length > 120 ? 19 : 22;
    grid.style.gridTemplateColumns = `${left}px max-content`;
    at = { row: Math.min(at.row, rows.length - 1), column: Math.min(at.column, columns.length - 1) };
    namesOf();
    headOf();
    draw();
  }

  function namesOf() {
    const open = document.activeElement?.dataset?.block;
    names.replaceChildren(...rows.map((row) => {
      if (row.site !== undefined) return el("span", { class: "dq-mx-name", style: `height:${tall}px`, title: data.sites[row.site].name }, data.sites[row.site].label);
      const shut = closed.has(row.block);
      return el("button", { type: "button", class: "dq-mx-block", style: `height:${tall}px`, "data-block": row.block, "aria-expanded": String(!shut), on: { click: () => fold(row.block) } },
        el("span", { "aria-hidden": "true" }, shut ? "▸" : "▾"), ` ${row.block}`);
    }));
    if (open !== undefined) [...names.querySelectorAll("button")].find((b) => b.dataset.block === open)?.focus();
  }

  function headOf() {
    const every = Math.ceil(44 / (columns[0]?.width ?? 44));
    head.replaceChildren(...columns.map((c, i) => {
      const text = c.index === 0 ? "weight" : data.windows[c.index - 1].replace(/^steps? (?=\d)/, "");
      const told = c.index === 0 || (i - (columns[0].index === 0 ? 1 : 0)) % every === 0;
      return el("span", { style: `left:${c.x}px;width:${told && c.index ? Math.max(c.width, 44) : c.width}px`, class: c.index === 1 && columns.length > 1 ? "dq-mx-first" : null }, told ? text : "");
    }));
    const first = columns.find((c) => c.index > 0);
    if (first) head.prepend(el("em", { style: `left:${first.x}px` }, data.windows.length > 1 ? "activations, by steps" : "activations"));
  }

  const fold = (block) => {
    closed.has(block) ? closed.delete(block) : closed.add(block);
    lay();
  };
  function foldAll(shut) {
    blocks.forEach((b) => (shut ? closed.add(b) : closed.delete(b)));
    lay();
  }

  // Cells of a drawn cell: one, or those of a whole block.
  const cellsOf = (row, column) => rows[row].sites.map((s) => s * plan.columns + columns[column].index);

  // What is shown of a drawn cell: the largest value of a block; inside the floor only where all are.
  function shown(row, column) {
    let [value, floor] = [null, true];
    for (const cell of cellsOf(row, column)) {
      const found = plan.told(view.metric, cell, view.bits === "plan" ? plan.label(cell) : view.bits);
      if (found === null || found.value === null) continue;
      value = Math.max(value ?? 0, found.value);
      floor &&= Boolean(found.inside_floor);
    }
    return { value, floor: value !== null && floor };
  }

  function range() {
    let [low, high] = [Infinity, 0];
    for (let s = 0; s < data.sites.length; s++) {
      for (const { index } of columns) {
        const value = plan.told(view.metric, s * plan.columns + index, view.bits === "plan" ? plan.label(s * plan.columns + index) : view.bits)?.value;
        if (value > 0) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    if (!high) return null;
    low = Math.max(low, high * 1e-5);
    return high / low > 1.05 ? { low, high } : { low: low / 2, high: high * 2 };
  }

  let drawnRange = null;
  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const last = columns.at(-1);
    const [width, height] = [last ? last.x + last.width : 0, rows.length * tall];
    head.style.width = `${width}px`;
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const style = getComputedStyle(outer);
    const ink = style.getPropertyValue("--dq-ink").trim();
    const empty = style.getPropertyValue("--dq-sunken").trim();
    const fonts = { mono: style.getPropertyValue("--font-mono") || "monospace" };
    drawnRange = range();
    const hatches = [hatch(g, "rgba(255,255,255,.42)"), hatch(g, "rgba(0,0,0,.34)")];
    g.textAlign = "center";
    g.textBaseline = "middle";
    rows.forEach((row, r) => {
      const top = r * tall;
      const whole = row.site === undefined;
      columns.forEach((c, k) => {
        const { value, floor } = shown(r, k);
        const shade = value === null || !drawnRange ? null : shades[place(value, drawnRange)];
        const box = [c.x + 0.5, top + 0.5, c.width - 1, tall - 1];
        g.fillStyle = shade?.css ?? empty;
        g.fillRect(...box);
        const dark = shade ? shade.dark : null;
        if (floor) {
          g.fillStyle = hatches[dark === false ? 1 : 0];
          g.fillRect(...box);
        }
        const cells = cellsOf(r, k);
        g.fillStyle = dark === null ? ink : dark ? "#fff" : "#000";
        g.font = `${whole ? "italic " : "600 "}${c.width < 34 ? 10.5 : 12}px ${fonts.mono}`;
        const text = bitsOf(cells, c.width);
        if (floor) { // letters on stripes need a ground
          const wide = g.measureText(text).width + 6;
          g.fillStyle = shade?.css ?? empty;
          g.fillRect(c.x + (c.width - wide) / 2, top + 3, wide, tall - 6);
          g.fillStyle = dark === null ? ink : dark ? "#fff" : "#000";
        }
        g.fillText(text, c.x + c.width / 2, top + tall / 2 + 0.5);
        if (cells.every((cell) => plan.pinned(cell))) {
          g.beginPath();
          g.moveTo(c.x + c.width - 8, top + 1);
          g.lineTo(c.x + c.width - 1, top + 1);
          g.lineTo(c.x + c.width - 1, top + 8);
          g.fill();
        }
        if (cells.every((cell) => selected.has(cell))) outline(g, c.x, top, c.width, tall, ink, []);
      });
    });
    if (focused && rows.length) {
      const c = columns[at.column];
      outline(g, c.x, at.row * tall, c.width, tall, ink, [3, 2]);
    }
    outer.dataset.selected = String(selected.size);
  }

  function bitsOf(cells, width) {
    const found = [...new Set(cells.map((cell) => plan.label(cell)))];
    if (found.length === 1) return found[0];
    const numbers = found.map(Number).filter(Boolean).sort((a, b) => a - b);
    return width >= 40 && numbers.length === found.length ? `${numbers[0]}–${numbers.at(-1)}` : "…";
  }

  // -- choosing

  const hit = (e) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [e.clientX - box.left, e.clientY - box.top];
    const column = columns.findIndex((c) => x >= c.x && x < c.x + c.width);
    const row = Math.floor(y / tall);
    return row < 0 || row >= rows.length || column < 0 ? null : { row, column };
  };

  function rectangle(a, b) {
    const [r1, r2] = [Math.min(a.row, b.row), Math.max(a.row, b.row)];
    const [c1, c2] = [Math.min(a.column, b.column), Math.max(a.column, b.column)];
    const found = [];
    for (let r = r1; r <= r2; r++) {
      const heading = rows[r].site === undefined && !closed.has(rows[r].block);
      if (heading && r1 !== r2) continue; // passed over; its layers are rows of their own
      for (let c = c1; c <= c2; c++) found.push(...cellsOf(r, c));
    }
    return found;
  }

  function choose(cells, how = "only") {
    const all = how === "toggle" && cells.every((cell) => selected.has(cell));
    if (how === "only") selected.clear();
    cells.forEach((cell) => (all ? selected.delete(cell) : selected.add(cell)));
    draw();
    onSelect([...selected]);
  }

  function move(to, e) {
    at = { row: Math.min(Math.max(to.row, 0), rows.length - 1), column: Math.min(Math.max(to.column, 0), columns.length - 1) };
    if (e.shiftKey && anchor) choose(rectangle(anchor, at));
    else {
      anchor = at;
      draw();
    }
    inView();
    say();
  }

  function inView() {
    const [top, left] = [at.row * tall, columns[at.column].x];
    const [headTall, namesWide] = [head.offsetHeight, names.offsetWidth];
    if (top < node.scrollTop) node.scrollTop = top;
    if (top + tall + headTall > node.scrollTop + node.clientHeight) node.scrollTop = top + tall + headTall - node.clientHeight;
    if (left < node.scrollLeft) node.scrollLeft = left;
    const right = left + columns[at.column].width + namesWide;
    if (right > node.scrollLeft + node.clientWidth) node.scrollLeft = right - node.clientWidth;
  }

  function say() {
    const cells = cellsOf(at.row, at.column);
    onInspect(cells);
    spoken.textContent = `${words(at.row, at.column).join(", ")}${cells.every((cell) => selected.has(cell)) ? ", selected" : ""}`;
  }

  function words(row, column) {
    const cells = cellsOf(row, column);
    const { value, floor } = shown(row, column);
    const c = columns[column].index;
    const where = rows[row].site === undefined ? `${rows[row].block}, ${cells.length} layers` : `${rows[row].block}, ${data.sites[rows[row].site].label}`;
    const cost = value === null ? "no number" : `${rows[row].site === undefined ? "at most " : ""}${view.short(value)} at ${view.bits === "plan" ? "these bits" : `${view.bits} bits`}`;
    return [where, c ? `input in ${data.windows[c - 1]}` : "weight", `plan: ${bitsOf(cells, 99)} bits${cells.every((x) => plan.pinned(x)) ? ", pinned" : ""}`, cost, ...(floor ? ["inside the noise floor"] : [])];
  }

  let from = null;
  canvas.addEventListener("pointerdown", (e) => {
    const found = hit(e);
    if (!found || e.button !== 0) return;
    from = { ...found, before: new Set(selected), dragged: false };
    if (e.pointerType === "mouse") canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    const found = hit(e);
    tip(e, from ? null : found);
    if (!from || !found || e.pointerType !== "mouse" || (found.row === from.row && found.column === from.column && !from.dragged)) return;
    from.dragged = true;
    selected.clear();
    if (e.ctrlKey || e.metaKey) from.before.forEach((cell) => selected.add(cell));
    at = found;
    choose(rectangle(from, found), "add");
  });
  canvas.addEventListener("pointerup", (e) => {
    const found = hit(e);
    const began = from;
    from = null;
    if (!began) return;
    node.focus({ preventScroll: true });
    if (began.dragged) return void (anchor = { row: began.row, column: began.column });
    if (!found) return;
    at = found;
    if (e.shiftKey && anchor) choose(rectangle(anchor, found), e.ctrlKey || e.metaKey ? "add" : "only");
    else {
      anchor = found;
      choose(rectangle(found, found), e.ctrlKey || e.metaKey ? "toggle" : "only");
    }
    say();
  });
  canvas.addEventListener("pointercancel", () => (from = null));
  canvas.addEventListener("pointerleave", () => (hint.hidden = true));

  function tip(e, found) {
    hint.hidden = !found || e.pointerType !== "mouse";
    if (hint.hidden) return;
    const [first, ...others] = words(found.row, found.column);
    hint.replaceChildren(el("strong", {}, first), ...others.map((t) => el("span", {}, t)));
    const box = outer.getBoundingClientRect();
    const [x, y] = [e.clientX - box.left, e.clientY - box.top];
    hint.style.left = `${Math.min(x + 14, box.width - hint.offsetWidth - 4)}px`;
    hint.style.top = `${y + 18 + hint.offsetHeight > box.height ? y - hint.offsetHeight - 10 : y + 18}px`;
  }

  node.addEventListener("focus", () => { focused = true; draw(); });
  node.addEventListener("blur", () => { focused = false; draw(); });
  node.addEventListener("keydown", (e) => {
    if (e.target !== node || e.altKey || !rows.length) return;
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-8, 0], PageDown: [8, 0], Home: [0, -columns.length], End: [0, columns.length] }[e.key];
    const ctrl = e.ctrlKey || e.metaKey;
    if (by) move({ row: at.row + by[0], column: at.column + by[1] }, e);
    else if (e.key === " ") { anchor = at; choose(rectangle(at, at), "toggle"); say(); }
    else if (e.key === "Enter" && !ctrl) {
      if (rows[at.row].site === undefined && e.shiftKey) fold(rows[at.row].block);
      else { anchor = at; choose(rectangle(at, at)); say(); }
    } else if (e.key === "Escape") choose([]);
    else if (ctrl && e.key.toLowerCase() === "a") all();
    else if (ctrl || !onKey(e.key)) return;
    e.preventDefault();
    e.stopPropagation();
  });

  const all = () => choose(rows.filter((r) => r.site !== undefined || closed.has(r.block)).flatMap((row) => columns.flatMap((c) => row.sites.map((s) => s * plan.columns + c.index))));

  new ResizeObserver(() => lay()).observe(node);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  return {
    node: outer, lay, draw, choose, all, foldAll,
    tell: () => focused && say(), // after the plan has changed under the cursor
    selection: () => [...selected],
    range: () => drawnRange,
    // Pixel of a cell, for what points at it; null while its block is closed.
    spot(cell) {
      const row = rows.findIndex((r) => r.site === plan.siteOf(cell));
      const column = columns.findIndex((c) => c.index === plan.columnOf(cell));
      const box = canvas.getBoundingClientRect();
      return row < 0 || column < 0 ? null : [box.left + columns[column].x + columns[column].width / 2, box.top + (row + 0.5) * tall];
    },
  };
}

const place = (value, { low, high }) => (value > low ? Math.min(SHADES - 1, Math.round(((SHADES - 1) * Math.log(value / low)) / Math.log(high / low))) : 0);

function lut(colours) {
  const parts = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return Array.from({ length: SHADES }, (_, i) => {
    const x = (i / (SHADES - 1)) * (parts.length - 1);
    const k = Math.min(Math.floor(x), parts.length - 2);
    const rgb = parts[k].map((v, j) => Math.round(v + (parts[k + 1][j] - v) * (x - k)));
    const light = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return { css: `rgb(${rgb.join(" ")})`, dark: 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] < 0.18 };
  });
}

function hatch(g, colour) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const t = tile.getContext("2d");
  t.strokeStyle = colour;
  t.lineWidth = 1.4;
  t.beginPath();
  for (const x of [-6, 0, 6]) {
    t.moveTo(x, 6);
    t.lineTo(x + 6, 0);
  }
  t.stroke();
  return g.createPattern(tile, "repeat");
}

function outline(g, x, y, width, height, ink, dash) {
  g.save();
  g.setLineDash(dash);
  g.lineWidth = 2;
  g.strokeStyle = dash.length ? ink : "#fff";
  g.strokeRect(x + 2.5, y + 2.5, width - 5, height - 5);
  if (!dash.length) {
    g.strokeStyle = "#c2185b";
    g.strokeRect(x + 1, y + 1, width - 2, height - 2);
  }
  g.restore();
}
