// Predicted loss over the bits of the weights: a curve of plans, and over it the plans of the study with what was measured.
// Everything that is predicted, also of plans that were kept long ago, is predicted by the calibration that there is now.
import { csvText, exportButtons } from "../exports.js";
import { el } from "../tools.js";
import { drawPlot, loadPlotly, redraws, svgOf } from "../plots.js";
import { short } from "./bar.js";
import { covered, plural, typical } from "./totals.js";

export function pareto({ data, plan, view, ask, load }) {
  const NONE = { points: [], kept: {}, calibrated: false };
  let told = { ...NONE, metric: view.metric };
  let old = true; // while another line is asked for
  let here = null;

  // Plans of the study that have a number to show here.
  const kept = () => data.allocations.filter((a) => a.metric === told.metric).map((a) => ({ ...a, ...told.kept[a.name] }));
  const predicted = () => kept().filter((a) => a.predicted);
  const drawn = () => kept().filter((a) => a.verified);
  const word = () => (told.calibrated ? "predicted" : "predicted, sum of cells");

  const holder = el("div", { class: "dq-plot", role: "img", style: "min-height:320px" });
  const said = el("p", { class: "dq-sub", role: "status" }, "");
  const anew = el("button", { type: "button", class: "dq-small", title: "With the pins and budgets as they are now" }, "Draw anew");
  const list = el("ul", { class: "dq-list" });
  const file = { title: "Loss over bits", ...data.files.curve, get csv() { return numbers(); } };
  const node = el("section", { class: "dq-card dq-pareto" },
    el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Loss over bits"), el("p", { class: "dq-lede" }, "A line of heuristic plans; click one, or a plan of the study, to load it.")), el("div", { class: "dq-tools" }, anew, exportButtons(file, () => svgOf(section())))),
    holder, said, el("details", {}, el("summary", {}, "As a list"), list));

  function section() {
    const { points } = told;
    const trace = (name, xs, ys, more) => ({ type: "scatter", mode: "markers", name, x: xs, y: ys, hovertemplate: "%{x:.2f} bits<br>%{y:.3g}<extra>%{fullData.name}</extra>", ...more });
    const losses = drawn().map((a) => typical(a.verified));
    const traces = [
      trace(word(), points.map((p) => p.avg_bits), points.map((p) => p.predicted.mean || null), // 0 has no logarithm
        { mode: "lines+markers", line: { color: "var(--run-1)", width: 2 }, marker: { size: 6 } }),
      trace("kept, predicted", predicted().map((a) => a.avg_bits), predicted().map((a) => a.predicted.mean || null), { marker: { size: 11, symbol: "circle-open", color: "var(--run-3)", line: { width: 2 } } }),
      trace("measured", drawn().map((a) => a.avg_bits), losses.map((l) => l.mean), {
        marker: { size: 11, color: "var(--run-2)" },
        error_y: { type: "data", symmetric: false, color: "var(--run-2)", array: losses.map((l) => (l.hi ?? l.mean) - l.mean), arrayminus: losses.map((l) => l.mean - (l.lo ?? l.mean)) },
      }),
      trace("this plan", here ? [here.bits] : [], here ? [here.loss || null] : [], { marker: { size: 13, symbol: "x", color: "var(--dq-ink)" } }),
    ];
    const banded = points.filter((p) => p.predicted.lo !== null);
    if (told.calibrated && banded.length) {
      const line = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, x: banded.map((p) => p.avg_bits) };
      traces.unshift({ ...line, name: "low", y: banded.map((p) => p.predicted.lo) }, { ...line, name: "95 %", y: banded.map((p) => p.predicted.hi), fill: "tonexty", fillcolor: "rgba(70,140,210,.2)", showlegend: true });
    }
    return {
      title: file.title, source: file.source,
      figure: { data: traces.filter((t) => t.x.length), layout: { margin: { l: 64, r: 12, t: 8, b: 56 }, hovermode: "closest", dragmode: false, showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
        xaxis: { title: { text: "average bits of the weights", standoff: 6, font: { size: 12 } }, fixedrange: true, zeroline: false, ...span(traces) }, yaxis: { title: { text: "loss", standoff: 6, font: { size: 12 } }, type: "log", dtick: 1, fixedrange: true, zeroline: false, exponentformat: "power" } } },
      height: 380, narrow: { margin: { l: 60, r: 8, t: 8, b: 56 } },
    };
  }

  function numbers() {
    const rows = [["what", "name", "avg_bits", "loss", "lo", "hi", "samples", "evidence", "recipe"]];
    const put = (what, name, bits, loss, samples, evidence) => rows.push([what, name, bits, loss.mean, loss.lo, loss.hi, samples, evidence, file.source.recipe]);
    for (const p of told.points) put(word(), "", p.avg_bits, p.predicted, null, "predicted");
    for (const a of predicted()) put("plan kept, predicted", a.name, a.avg_bits, a.predicted, null, "predicted");
    for (const a of drawn()) put("plan kept, measured", a.name, a.avg_bits, typical(a.verified), a.verified.seeds.length, a.verified.evidence);
    return csvText(rows);
  }

  async function draw() {
    const { points } = told;
    holder.hidden = !old && !points.length;
    list.replaceChildren();
    if (!points.length) return;
    holder.setAttribute("aria-label", `Predicted loss over average bits: ${points.map((p) => `${p.avg_bits.toFixed(1)} bits ${short(p.predicted.mean)}`).join(", ")}`);
    const words = (a) => [a.predicted ? `predicted ${short(a.predicted.mean)}` : `no prediction: ${a.why ?? "it is not there any more"}`, ...(a.verified ? [`measured ${short(typical(a.verified).mean)}`] : [])].join(", ");
    list.replaceChildren(...points.map((p, i) => item(`${p.avg_bits.toFixed(2)} bits, ${p.size_mb.toFixed(2)} MB: predicted ${short(p.predicted.mean)}`, () => take(i))),
      ...kept().map((a) => item(`${a.name}: ${a.avg_bits.toFixed(2)} bits, ${words(a)}`, () => load(a.name))));
    await drawPlot(holder, section());
    if (!holder.dataset.heard && holder.on) {
      holder.dataset.heard = "1";
      holder.on("plotly_click", (e) => {
        const point = e.points[0];
        const name = point.data.name;
        if (name === word()) take(point.pointIndex);
        else if (name.startsWith("kept")) load(predicted()[point.pointIndex].name);
        else if (name === "measured") load(drawn()[point.pointIndex].name);
      });
    }
  }
  const take = (i) => plan.take(plan.read(told.points[i].plan), `${told.points[i].avg_bits.toFixed(2)} bits of the curve`);
  const item = (text, f) => el("li", {}, el("button", { type: "button", class: "dq-linkish", on: { click: f } }, text));

  let asking = 0;
  async function refresh() {
    const own = ++asking;
    anew.disabled = old = true;
    holder.classList.toggle("dq-old", old);
    const metric = view.metric;
    const answer = await ask("curve");
    if (own !== asking) return; // another was asked for since
    anew.disabled = old = false;
    holder.classList.toggle("dq-old", old);
    told = { ...(answer.error ? NONE : answer), metric };
    if (answer.error) {
      said.textContent = answer.error;
      return draw();
    }
    const fit = data.calibrations[view.metric];
    said.textContent = [
      `${plural(told.points.length, "plan")}, predicted; activations have at most ${short(told.activation_bits)} bits on average.`,
      fit ? `Interval: ${covered(fit)}.` : "The sums of cells are not calibrated: measured losses beside them have no unit in common.",
      told.points.length > 1 ? "A line that is not smooth means a noisy table." : "The table has one width of weights that the pins leave, so there is no line.",
    ].join(" ");
    await draw();
  }
  anew.addEventListener("click", refresh);
  redraws.add({ node: holder, draw });
  loadPlotly().catch(() => {});
  let waiting = 0;
  return {
    node, refresh, draw,
    // The mark of the plan on the desk follows it, a moment later.
    mark(bits, loss) {
      here = { bits, loss };
      clearTimeout(waiting);
      waiting = setTimeout(() => node.isConnected && !old && draw(), 250);
    },
  };
}

// Where all plans have nearly one width, an axis that is still one of bits.
function span(traces) {
  const xs = traces.flatMap((t) => t.x);
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  return high - low < 0.5 ? { range: [low - 1, high + 1], dtick: 0.5 } : {};
}
