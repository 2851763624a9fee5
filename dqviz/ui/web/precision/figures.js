// The matrix as a file: its numbers as CSV, and drawn for paper as SVG, whatever the page looks like now.
import { csvText } from "../exports.js";
import { short } from "./bar.js";
import { place, shadesOf } from "./paint.js";

const [WIDE, TALL, NAMES, HEAD, FOOT] = [46, 20, 170, 46, 72]; // pixels
const SVG = "http://www.w3.org/2000/svg";

// As a section that `exportButtons` takes.
export function matrixFile({ data, plan, view, grid }) {
  const metric = () => new Map(data.metrics).get(view.metric);
  return {
    title: "What rounding costs, and the bits of the plan",
    ...data.files.matrix,
    // A row for every cell that the filters leave, also where its block is closed.
    get csv() {
      const rows = [["site", "block", "role", "metric_group", "operand", "window", "metric", "bits", "value", "lo", "hi", "noise", "inside_floor", "plan_bits", "pinned", "evidence", "recipe"]];
      data.sites.forEach((site, s) => {
        if (!view.shows(site)) return;
        for (const { index } of grid.columns) {
          const cell = s * plan.columns + index;
          const bits = view.bits === "plan" ? plan.label(cell) : view.bits;
          const told = plan.told(view.metric, cell, bits);
          rows.push([site.name, site.block, site.role, site.group, plan.operandOf(cell), index ? data.windows[index - 1] : "", view.metric, bits,
            told?.value, told?.lo, told?.hi, told?.noise, told?.inside_floor, plan.label(cell), plan.pinned(cell) ? 1 : 0, data.files.matrix.source.evidence, data.files.matrix.source.recipe]);
        }
      });
      return csvText(rows);
    },
    svg: () => drawn({ data, plan, view, grid, title: metric() }),
  };
}

function drawn({ data, plan, view, grid, title }) {
  const { rows, columns } = grid;
  const width = Math.max(NAMES + columns.length * WIDE + 16, 480);
  const height = HEAD + rows.length * TALL + FOOT;
  const root = document.implementation.createDocument(SVG, "svg").documentElement;
  const put = (tag, attributes, text = "", into = root) => {
    const node = root.ownerDocument.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
    node.textContent = text;
    return into.appendChild(node);
  };
  const attributes = { width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "sans-serif", "font-size": 12, fill: "#17212b" };
  for (const [name, value] of Object.entries(attributes)) root.setAttribute(name, String(value));
  const stripes = put("pattern", { id: "floor", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, "", put("defs", {}));
  put("rect", { width: 1.4, height: 6, fill: "#000", "fill-opacity": 0.4 }, "", stripes);
  put("rect", { width, height, fill: "#fff" });
  const range = grid.range();
  const shades = shadesOf(data.colours);
  columns.forEach((c, k) => put("text", { x: NAMES + (k + 0.5) * WIDE, y: HEAD - 8, "text-anchor": "middle", "font-size": 11 }, c.index ? data.windows[c.index - 1].replace(/^steps? (?=\d)/, "") : "weight"));
  const first = columns.findIndex((c) => c.index > 0);
  if (first >= 0) put("text", { x: NAMES + first * WIDE + 4, y: 18, "font-size": 11 }, data.windows.length > 1 ? "activations, by steps" : "activations");
  rows.forEach((row, r) => {
    const y = HEAD + r * TALL;
    const block = row.site === undefined;
    put("text", { x: block ? 6 : 22, y: y + 14, ...(block ? { "font-weight": 600 } : {}) }, block ? row.block : data.sites[row.site].label);
    columns.forEach((_, k) => {
      const x = NAMES + k * WIDE;
      const { value, floor } = grid.shown(r, k);
      const shade = value === null || !range ? { css: "#eef1f4", dark: false } : shades[place(value, range)];
      const box = { x: x + 0.5, y: y + 0.5, width: WIDE - 1, height: TALL - 1 };
      put("rect", { ...box, fill: shade.css });
      const cells = grid.cellsOf(r, k);
      const text = grid.bitsOf(cells, WIDE);
      if (floor) {
        put("rect", { ...box, fill: "url(#floor)" });
        put("rect", { x: x + WIDE / 2 - 4 * text.length - 3, y: y + 3, width: 8 * text.length + 6, height: TALL - 6, fill: shade.css });
      }
      put("text", { x: x + WIDE / 2, y: y + 14, "text-anchor": "middle", "font-family": "monospace", fill: shade.dark ? "#fff" : "#000" }, text);
      if (cells.every((cell) => plan.pinned(cell))) put("path", { d: `M${x + WIDE - 8} ${y + 1}h7v7z`, fill: shade.dark ? "#fff" : "#000" });
    });
  });
  const foot = HEAD + rows.length * TALL + 18;
  if (range) {
    put("text", { x: 6, y: foot + 10 }, short(range.low, 2));
    for (let i = 0; i < 64; i++) put("rect", { x: 70 + 2 * i, y: foot, width: 2.2, height: 12, fill: shades[i * 4].css });
    put("text", { x: 206, y: foot + 10 }, short(range.high, 2));
  }
  put("text", { x: 6, y: foot + 29, "font-size": 11 }, `${title} at ${view.bits === "plan" ? "the plan's bits" : `${view.bits} bits`}, log scale; numbers: bits of the plan`);
  put("text", { x: 6, y: foot + 45, "font-size": 11 }, "Striped: inside the noise floor. Corner: pinned.");
  return new XMLSerializer().serializeToString(root);
}
