// Figures: plotly.js, loaded when the first one is drawn; colours follow the page.
import { exportButtons } from "./exports.js";
import { el, heading, swatch } from "./tools.js";

let plotly = null;
export function loadPlotly() {
  return (plotly ??= window.carriedPlotly ? window.carriedPlotly() : servedPlotly()); // a report carries it
}

function servedPlotly() {
  return new Promise((resolve, reject) => {
    const script = el("script", { src: "vendor/plotly.min.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js did not load"));
    document.head.append(script);
  });
}

// "var(--name)" anywhere in a figure becomes the colour that the page has now.
export function resolved(value, style) {
  if (typeof value === "string") {
    const found = /^var\((--[\w-]+)\)$/.exec(value);
    return found ? style.getPropertyValue(found[1]).trim() || value : value;
  }
  if (Array.isArray(value)) return value.map((v) => resolved(v, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, style)]));
  }
  return value;
}

export const narrow = () => window.matchMedia("(max-width: 640px)").matches;

export function drawPlot(holder, section) {
  if (!holder.isConnected) return Promise.resolve();
  return loadPlotly().then((P) => {
    if (!holder.isConnected) return null;
    const { data, layout } = styled(section, getComputedStyle(holder), narrow());
    return P.react(holder, data, layout, { responsive: true, displaylogo: false, displayModeBar: false, showSendToCloud: false });
  });
}

// The figure of a section in the colours of a style.
function styled(section, style, small) {
  const figure = resolved(section.figure, style);
  const ink = style.getPropertyValue("--dq-ink").trim();
  const line = style.getPropertyValue("--dq-line").trim();
  const asked = { ...figure.layout, ...(small ? section.narrow : {}) };
  const axes = {};
  for (const name of Object.keys(asked)) {
    if (/^[xy]axis\d*$/.test(name)) axes[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, ...asked[name] };
  }
  const layout = {
    ...asked, ...axes, height: section.height,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style.fontFamily, size: 12, color: ink },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink },
    hoverlabel: { font: { family: style.fontFamily } },
  };
  return { data: figure.data, layout };
}

// The figure for paper: light colours on white, whatever the page looks like now.
export async function svgOf(section) {
  const P = await loadPlotly();
  const paper = el("div", { class: "dq-paper", hidden: true });
  document.body.append(paper);
  const { data, layout } = styled(section, getComputedStyle(paper), false);
  paper.remove();
  const size = { format: "svg", width: 960, height: Math.max(320, section.height) };
  const url = await P.toImage({ data, layout: { ...layout, paper_bgcolor: "#ffffff" } }, size);
  return decodeURIComponent(url.slice(url.indexOf(",") + 1));
}

// A colour bar hangs on a point of its own, which is no number of the figure.
export function withoutLegend(section) {
  return { ...section, figure: { ...section.figure, data: section.figure.data.filter((trace) => trace.meta !== "legend") } };
}

function drawPlotSection(section) {
  const holder = el("div", { class: "dq-plot", role: "img", "aria-label": section.alt || section.title, style: `min-height:${Number(section.height)}px` });
  const root = el("section", { class: "dq-card" }, heading(section, exportButtons(withoutLegend(section), () => svgOf(section))), holder);
  if (section.readout) root.append(readout(section, holder));
  requestAnimationFrame(() => drawPlot(holder, section).catch((e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e)))));
  redraws.add({ node: holder, draw: () => drawPlot(holder, section) });
  return root;
}

// A plot's numbers at one position: chosen by click in the plot, or by the slider (keyboard).
function readout(section, holder) {
  const { label, positions, columns, rows } = section.readout;
  const slider = el("input", { type: "range", min: 0, max: positions.length - 1, value: positions.length - 1, "aria-label": label });
  const table = el("table", { class: "dq-table dq-compact" });
  const place = el("output", { class: "dq-mono" });
  const show = () => {
    const at = Number(slider.value);
    place.textContent = positions[at];
    slider.setAttribute("aria-valuetext", positions[at]);
    table.replaceChildren(
      el("thead", {}, el("tr", {}, columns.map((c, i) => el("th", { scope: "col", class: i ? "dq-num" : null }, c)))),
      el("tbody", {}, rows.map((r) => el("tr", {}, el("th", { scope: "row" }, swatch(r.run), r.name),
        r.values[at].map((v) => el("td", { class: "dq-num" }, v))))));
  };
  slider.addEventListener("input", show);
  const attach = () => holder.on?.("plotly_click", (e) => {
    const at = e.points[0].customdata;
    if (Number.isInteger(at)) { slider.value = String(at); show(); }
  });
  const wait = setInterval(() => { if (holder.on) { clearInterval(wait); attach(); } else if (!holder.isConnected) clearInterval(wait); }, 200);
  show();
  return el("div", { class: "dq-readout" }, el("label", {}, label, slider, place), el("div", { class: "dq-scroll" }, table));
}

export const redraws = new Set();
new MutationObserver(() => {
  for (const entry of redraws) entry.node.isConnected ? entry.draw() : redraws.delete(entry);
}).observe(document.body, { attributes: true, attributeFilter: ["class"] });

export const drawers = { plot: drawPlotSection };
