// Taking tables and figures along: CSV, LaTeX, SVG. Every file says which recipe its numbers come from.
import { el, save } from "./tools.js";

// Buttons of a section; `svg` makes the text of a picture, where there is one.
export function exportButtons(section, svg = null) {
  if (!section.file) return [];
  const button = (label, about, make, type) => {
    const node = el("button", { type: "button", class: "dq-small", title: about }, label);
    node.addEventListener("click", async () => {
      save(new Blob([await make()], { type }), `${section.file}.${label === "LaTeX" ? "tex" : label.toLowerCase()}`);
    });
    return node;
  };
  const csv = section.csv || section.figure;
  return [
    csv && button("CSV", "Download the numbers as CSV", () => section.csv || figureCsv(section), "text/csv"),
    section.latex && button("LaTeX", "Download this table for LaTeX (booktabs)", () => section.latex, "text/x-tex"),
    svg && button("SVG", "Download this figure as SVG", async () => signed(await svg(), section), "image/svg+xml"),
  ].filter(Boolean);
}

// An SVG with its title and source inside.
function signed(text, section) {
  const svg = new DOMParser().parseFromString(text, "image/svg+xml");
  const add = (tag, words) => {
    const node = svg.createElementNS("http://www.w3.org/2000/svg", tag);
    node.textContent = words;
    svg.documentElement.prepend(node);
  };
  add("desc", section.source.sentence);
  add("title", section.title);
  return new XMLSerializer().serializeToString(svg);
}

// What a figure holds, a row per point; a cell of a matrix is a point. A figure whose traces are moved or scaled for
// the eye brings its numbers along, in the same form, as layout.meta.exported.
export function figureCsv(section) {
  const rows = [["trace", "x", "y", "z", "evidence", "recipe"]];
  const brought = section.figure.layout?.meta?.exported ?? [];
  [...section.figure.data, ...brought].forEach((trace, i) => {
    if (trace.hoverinfo === "skip") return; // helps to read the figure, says nothing of its own
    const name = trace.name || `${trace.type} ${i + 1}`;
    const put = (x, y, z) => rows.push([name, x, y, z, section.source.evidence, section.source.recipe]);
    const [x, y, z] = ["x", "y", "z"].map((axis) => numbers(trace[axis]));
    const at = (axis, list, k) => (list ? list[k] : (trace[`${axis}0`] ?? 0) + k * (trace[`d${axis}`] ?? 1));
    const length = (x || y || []).length;
    if (z && Array.isArray(z[0])) z.forEach((line, r) => line.forEach((v, c) => put(at("x", x, c), at("y", y, r), v)));
    else for (let k = 0; k < length; k++) put(at("x", x, k), at("y", y, k), z?.[k]);
  });
  return csvText(rows);
}

// Rows, the first the names of their columns.
export const csvText = (rows) => rows.map((row) => row.map(field).join(",")).join("\n") + "\n";

const ARRAYS = { f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array };

// A list as Plotly takes it: plain, or packed as {dtype, bdata, shape}.
function numbers(list) {
  if (!list || !list.bdata) return list;
  const bytes = Uint8Array.from(atob(list.bdata), (c) => c.charCodeAt(0));
  const flat = Array.from(new ARRAYS[list.dtype](bytes.buffer));
  const shape = String(list.shape ?? "").split(",").map(Number);
  if (shape.length < 2) return flat;
  return Array.from({ length: shape[0] }, (_, r) => flat.slice(r * shape[1], (r + 1) * shape[1]));
}

// A text that a spreadsheet would compute gets a leading apostrophe, as in dqviz/pages/exports.py.
function field(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const lines = String(value).replace(/\r\n?/g, "\n");
  const text = /^[=+\-@\t]/.test(lines) ? `'${lines}` : lines;
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
