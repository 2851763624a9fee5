// Greedy rotations: a map of inputs and windows, and what the search did for one of them.
import { drawers as tables } from "../tables.js";
import { badge, el, heading } from "../tools.js";
import { inner, whenDrawn } from "./alpha.js";

function drawRotation(section, context) {
  const map = section.map ? inner(section.map) : "";
  if (map) {
    whenDrawn(map, (holder) => {
      const { row, window: column } = section;
      const line = { color: getComputedStyle(holder).getPropertyValue("--dq-ink").trim(), width: 3 };
      window.Plotly.relayout(holder, { shapes: [{ type: "rect", x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5, line }] });
      holder.on("plotly_click", (e) => {
        const at = e.points[0]?.pointIndex;
        if (Array.isArray(at) && section.rows[at[0]]) context.choose({ site: section.rows[at[0]], window: at[1] });
      });
    });
  }
  const table = tables.table(section.ways);
  table.className = "dq-inner dq-innertable";
  const card = el("section", { class: "dq-card" }, heading(section),
    el("div", { class: map ? "dq-rotations" : "" }, map,
      el("div", { class: "dq-rotation" }, el("p", { class: "dq-lede" }, el("strong", {}, section.place)),
        el("div", { class: "dq-two" }, inner(section.peaks), inner(section.blocks)), table)),
    el("div", { role: "status" }, el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w)))));
  card.querySelector("h2").append(" ", ...section.badges.map(badge));
  return card;
}

export const drawers = { rotation: drawRotation };
