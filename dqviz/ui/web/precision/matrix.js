// The matrix: a row for every layer and block, a column for the weight and for every window. One canvas beside the names;
// choosing asks nobody.
import { el } from "../tools.js";
import { choosing } from "./choosing.js";
import { gridOf } from "./grid.js";
import { painter } from "./paint.js";

const LABEL = "Matrix of layers and windows of steps. Arrow keys move, with Shift they select a rectangle, Space selects or leaves a cell, Enter selects it alone, Escape none, Control A all. Digits set bits, P pins, U unpins.";

const LETTER = 6.8; // pixels of a figure in the heads

export function matrixOf({ data, plan, view, onSelect, onInspect, onKey }) {
  const head = el("div", { class: "dq-mx-head", "aria-hidden": "true" });
  const names = el("div", { class: "dq-mx-names" });
  const canvas = el("canvas", { class: "dq-mx-canvas", "aria-hidden": "true" });
  const hint = el("div", { class: "dq-mx-hint", hidden: true, "aria-hidden": "true" });
  const spoken = el("p", { class: "dq-offscreen", role: "status" });
  const inner = el("div", { class: "dq-mx-grid" }, el("div", { class: "dq-mx-corner" }), head, names, canvas);
  const node = el("div", { class: "dq-mx", tabindex: "0", role: "group", "aria-label": LABEL }, inner);
  const outer = el("div", { class: "dq-mx-outer" }, node, hint, spoken);
  const selected = new Set();
  const grid = gridOf({ data, plan, view });
  const paint = painter({ data, plan, grid, canvas, outer });
  let range = null;

  function draw() {
    range = paint(selected, hands.cursor());
    outer.dataset.selected = String(selected.size);
  }
  const fold = (block) => {
    grid.fold(block);
    lay();
  };
  const hands = choosing({ grid, node, canvas, selected, draw, onSelect, onInspect, onKey, tip, fold, speak: (words) => (spoken.textContent = words) });

  function lay() {
    grid.lay(node.clientWidth);
    inner.style.gridTemplateColumns = `${grid.left}px max-content`;
    hands.laid();
    namesOf();
    headOf();
    draw();
  }

  function namesOf() {
    const open = document.activeElement?.dataset?.block;
    names.replaceChildren(...grid.rows.map((row) => {
      if (row.site !== undefined) return el("span", { class: "dq-mx-name", style: `height:${grid.tall}px`, title: data.sites[row.site].name }, data.sites[row.site].label);
      const shut = grid.closed(row.block);
      return el("button", { type: "button", class: "dq-mx-block", style: `height:${grid.tall}px`, "data-block": row.block, "aria-expanded": String(!shut), on: { click: () => fold(row.block) } },
        el("span", { "aria-hidden": "true" }, shut ? "▸" : "▾"), ` ${row.block}`);
    }));
    if (open !== undefined) [...names.querySelectorAll("button")].find((b) => b.dataset.block === open)?.focus();
  }

  function headOf() {
    const { columns } = grid;
    const last = columns.at(-1);
    head.style.width = `${last ? last.x + last.width : 0}px`;
    const texts = columns.map((c) => (c.index === 0 ? "weight" : data.windows[c.index - 1].replace(/^steps? (?=\d)/, "")));
    const room = Math.max(...texts.map((text, i) => (columns[i].index ? text.length * LETTER : 0)));
    const every = Math.ceil(room / (last?.width ?? room)); // of the windows; all of them where there is room
    head.replaceChildren(...columns.map((c, i) => {
      const told = c.index === 0 || (i - (columns[0].index === 0 ? 1 : 0)) % every === 0;
      return el("span", { style: `left:${c.x}px;width:${told && c.index ? Math.max(c.width, room) : c.width}px`, class: c.index === 1 && columns.length > 1 ? "dq-mx-first" : null }, told ? texts[i] : "");
    }));
    const first = columns.find((c) => c.index > 0);
    if (first) head.prepend(el("em", { style: `left:${first.x}px` }, data.windows.length > 1 ? "activations, by steps" : "activations"));
  }

  function tip(e, found) {
    hint.hidden = !found || e.pointerType !== "mouse";
    if (hint.hidden) return;
    const [first, ...others] = grid.words(found.row, found.column);
    hint.replaceChildren(el("strong", {}, first), ...others.map((t) => el("span", {}, t)));
    const box = outer.getBoundingClientRect();
    const [x, y] = [e.clientX - box.left, e.clientY - box.top];
    hint.style.left = `${Math.min(x + 14, box.width - hint.offsetWidth - 4)}px`;
    hint.style.top = `${y + 18 + hint.offsetHeight > box.height ? y - hint.offsetHeight - 10 : y + 18}px`;
  }

  new ResizeObserver(() => lay()).observe(node);
  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  return {
    node: outer, grid, lay, draw, choose: hands.choose, all: hands.all, tell: hands.tell,
    foldAll(shut) {
      grid.foldAll(shut);
      lay();
    },
    selection: () => [...selected],
    range: () => range,
    // Pixel of a cell, for what points at it; null while its block is closed.
    spot(cell) {
      const row = grid.rows.findIndex((r) => r.site === plan.siteOf(cell));
      const column = grid.columns.findIndex((c) => c.index === plan.columnOf(cell));
      const box = canvas.getBoundingClientRect();
      return row < 0 || column < 0 ? null : [box.left + grid.columns[column].x + grid.columns[column].width / 2, box.top + (row + 0.5) * grid.tall];
    },
  };
}
