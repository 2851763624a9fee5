// Incoherence over the steps: a line per input and stage, a threshold that marks what to balance.
import { exportButtons } from "../exports.js";
import { drawPlot, redraws, svgOf, narrow } from "../plots.js";
import { drawers as tables } from "../tables.js";
import { badge, el, heading } from "../tools.js";
import { outcome } from "./outcome.js";

function drawIncoherence(section, context) {
  if (section.empty) {
    return el("section", { class: "dq-card" }, heading(section), el("p", { class: "dq-lede" }, section.empty),
      context.missing.capture ? context.starter("Capture now", context.missing.capture, { ...context.chosen(), what: "capture" }) : "");
  }
  const height = narrow() ? section.narrow_height : section.height;
  const shown = { ...section, height };
  const holder = el("div", { class: "dq-plot", role: "img", "aria-label": section.alt, style: `min-height:${height}px` });
  const { thresholds, inputs } = section;
  const marked = el("p", { class: "dq-marked", role: "status" });
  const slider = (key, label, most, step) => {
    const input = el("input", { type: "range", min: 1, max: most, step, value: thresholds[key], "aria-label": label });
    const said = el("output", { class: "dq-mono" });
    input.addEventListener("input", () => { thresholds[key] = Number(input.value); mark(); });
    input.addEventListener("change", () => context.keep({ [key]: input.value }));
    return { node: el("label", { class: "dq-slider" }, el("span", {}, label), input, said), said };
  };
  const psi = slider("psi", "Incoherence above", Math.max(12, Math.ceil(section.highest)), 0.25);
  const change = slider("change", "Largest over smallest of all steps above", 4, 0.05);
  const over = (i) => i.psi > thresholds.psi || i.change > thresholds.change;
  const result = section.settable ? outcome(section) : null;
  const style = (trace) => {
    if (trace.meta === "floor") return trace;
    const [own, high] = [trace.meta === section.at, over(inputs[trace.meta])];
    const colour = own ? "var(--run-1)" : high ? "var(--run-2)" : "var(--dq-muted)";
    return { ...trace, line: { width: own ? 3 : high ? 1.6 : 1, color: colour }, opacity: own || high ? 1 : 0.45 };
  };
  function mark() {
    psi.said.textContent = thresholds.psi.toFixed(2);
    change.said.textContent = `${thresholds.change.toFixed(2)} ×`;
    const moved = Object.entries(thresholds).filter(([key, value]) => value !== section.defaults[key]);
    result?.show({ transform: "incoherence", ...Object.fromEntries(moved) });
    const found = inputs.filter(over);
    marked.replaceChildren(el("strong", {}, `${found.length} of the ${inputs.length} inputs in this capture to balance`), found.length ? ": " : ".", found.length > 12 ? "" : found.map((i) => i.label).join(", "));
    draw();
  }
  const level = () => section.figure.layout && {
    ...section.figure.layout,
    shapes: [{ type: "line", xref: "x domain", x0: 0, x1: 1, yref: "y", y0: thresholds.psi, y1: thresholds.psi, line: { width: 1.5, color: "var(--run-2)", dash: "dash" } }],
  };
  let queued = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      const figure = { data: section.figure.data.map(style), layout: level() };
      drawPlot(holder, { ...shown, figure }).then(attach).catch((e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e))));
    });
  }
  let attached = false;
  function attach() {
    if (attached || !holder.on) return;
    attached = true;
    holder.on("plotly_click", (e) => {
      const at = e.points.map((p) => p.data.meta).find(Number.isInteger);
      if (at !== undefined) context.choose({ site: inputs[at].name });
    });
  }
  redraws.add({ node: holder, draw });
  const card = el("section", { class: "dq-card" }, heading(section, exportButtons(section, () => svgOf({ ...section, figure: { data: section.figure.data.map(style), layout: level() } }))),
    el("div", { class: "dq-sliders" }, psi.node, change.node), marked, holder,
    el("ul", { class: "dq-legend", "aria-label": "Colours" }, legend("--run-1", "chosen input"), legend("--run-2", "to balance"), legend("--dq-muted", "others"), legend("--dq-good", "a Gaussian row")),
    el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w))), result?.node ?? "");
  card.querySelector("h2").append(" ", ...section.badges.map(badge));
  if (section.without_stages && context.missing.capture) card.append(context.starter("Capture with transforms", context.missing.capture, { ...context.chosen(), what: "capture" }));
  const inner = tables.table(section.table);
  inner.className = "dq-inner";
  inner.querySelector(".dq-scroll")?.classList.add("dq-tall");
  card.append(el("details", {}, el("summary", {}, section.table.title), inner));
  mark();
  return card;
}

export const legend = (name, text) => el("li", {}, el("span", { class: "dq-swatch", style: `--run: var(${name})`, "aria-hidden": "true" }), text);

export const drawers = { incoherence: drawIncoherence };
