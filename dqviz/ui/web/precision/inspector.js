// The chosen cells: what rounding them costs at every width; of one alone, how sure that is and where to look further.
import { el } from "../tools.js";
import { short } from "./bar.js";
import { plural } from "./totals.js";

export function inspector({ data, plan, view, folder }) {
  const node = el("section", { class: "dq-card dq-inspect", "aria-label": "Chosen cell" });

  function show(cells) {
    if (!cells?.length) return node.replaceChildren(el("p", { class: "dq-lede" }, "Choose a cell to see what it costs at every width, and how sure that is."));
    if (cells.length > 1) return several(cells);
    const [cell] = cells;
    const site = data.sites[plan.siteOf(cell)];
    const column = plan.columnOf(cell);
    const rows = view.swept.map((bits) => [bits, plan.told(view.metric, cell, bits)]).filter(([, found]) => found);
    const most = Math.max(...rows.map(([, f]) => f.value ?? 0)) || 1;
    const why = el("a", { class: "dq-linkish", href: `./activations?${new URLSearchParams({ study: folder, site: site.input })}` }, "Why this layer? Its activations");
    const line = ([bits, found]) => el("tr", { "aria-current": bits === plan.label(cell) ? "true" : null },
      el("th", { scope: "row" }, `${bits} bits`, bits === plan.label(cell) ? el("span", { class: "dq-sub" }, "plan") : ""),
      el("td", { class: "dq-num" }, short(found.value), el("i", { class: "dq-inspect-bar", style: `width:${(100 * Math.max(found.value ?? 0, 0)) / most}%`, "aria-hidden": "true" })),
      el("td", { class: "dq-num" }, found.lo === null ? "–" : `${short(found.lo, 2)} to ${short(found.hi, 2)}`),
      el("td", { class: "dq-num" }, short(found.noise, 2)),
      el("td", {}, found.inside_floor ? "inside the floor" : "above it"));
    node.replaceChildren(
      el("h3", {}, `${site.block}, ${site.label}: ${column ? `input in ${data.windows[column - 1]}` : "weight"}`),
      el("p", { class: "dq-sub dq-mono" }, site.name),
      el("div", { class: "dq-scroll", tabindex: "0", role: "region", "aria-label": "Cost at every width" },
        el("table", { class: "dq-table dq-compact" },
          el("thead", {}, el("tr", {}, ["", "cost", "95 % interval", "noise", "noise floor"].map((t, i) => el("th", { scope: "col", class: i && i < 4 ? "dq-num" : null }, t || "bits")))),
          el("tbody", {}, rows.map(line)))),
      el("p", { class: "dq-sub" }, `${new Map(data.metrics).get(view.metric)}; ${data.evidence}, tier ${data.tier}, ${data.method}. Plan: ${plan.label(cell)} bits${plan.pinned(cell) ? ", pinned" : ""}. `, why));
  }
  // Of more than one cell the sum, as the plan's loss adds up.
  function several(cells) {
    const layers = new Set(cells.map((cell) => plan.siteOf(cell))).size;
    const rows = view.swept.map((bits) => {
      const told = cells.map((cell) => plan.told(view.metric, cell, bits)).filter((found) => found && found.value !== null);
      return el("tr", {}, el("th", { scope: "row" }, `${bits} bits`), el("td", { class: "dq-num" }, told.length ? short(told.reduce((sum, f) => sum + Math.max(f.value, 0), 0)) : "–"),
        el("td", { class: "dq-num" }, `${told.filter((f) => f.inside_floor).length} of ${told.length}`));
    });
    node.replaceChildren(
      el("h3", {}, `${cells.length} cells in ${plural(layers, "layer")}`),
      el("div", { class: "dq-scroll", tabindex: "0", role: "region", "aria-label": "Sum of costs at every width" },
        el("table", { class: "dq-table dq-compact" },
          el("thead", {}, el("tr", {}, ["bits", "sum of costs", "in the floor"].map((t, i) => el("th", { scope: "col", class: i ? "dq-num" : null }, t)))),
          el("tbody", {}, rows))),
      el("p", { class: "dq-sub" }, `${new Map(data.metrics).get(view.metric)}, each cell rounded alone; ${data.evidence}, tier ${data.tier}, ${data.method}. Choose one cell for its interval.`));
  }
  show([]);
  return { node, show };
}
