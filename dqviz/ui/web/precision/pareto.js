// Predicted loss over the bits of the weights: a curve of plans, and over it the plans of the study with what was measured.
import { el } from "../tools.js";
import { drawPlot, loadPlotly, redraws } from "../plots.js";
import { short } from "./bar.js";

export function pareto({ data, plan, view, ask, load }) {
  const holder = el("div", { class: "dq-plot", role: "img", style: "min-height:320px" });
  const said = el("p", { class: "dq-sub", role: "status" }, "");
  const anew = el("button", { type: "button", class: "dq-small", title: "With the pins and budgets as they are now" }, "Draw anew");
  const list = el("ul", { class: "dq-list" });
  const node = el("section", { class: "dq-card dq-pareto" },
    el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Loss over bits"), el("p", { class: "dq-lede" }, "A line of heuristic plans; click one, or a plan of the study, to load it.")), el("div", { class: "dq-tools" }, anew)),
    holder, said, el("details", {}, el("summary", {}, "As a list"), list));
  let points = [];
  let calibrated = false;
  let here = null;

  function section() {
    const kept = data.allocations.filter((a) => a.metric === view.metric);
    const drawn = kept.filter((a) => a.verified);
    const trace = (name, xs, ys, more) => ({ type: "scatter", mode: "markers", name, x: xs, y: ys, hovertemplate: "%{x:.2f} bits<br>%{y:.3g}<extra>%{fullData.name}</extra>", ...more });
    const traces = [
      trace(calibrated ? "predicted" : "predicted, sum of cells", points.map((p) => p.avg_bits), points.map((p) => p.predicted.mean || null), // 0 has no logarithm
        { mode: "lines+markers", line: { color: "var(--run-1)", width: 2 }, marker: { size: 6 } }),
      trace("plans kept, predicted", kept.map((a) => a.avg_bits), kept.map((a) => a.predicted_loss.mean), { marker: { size: 11, symbol: "circle-open", color: "var(--run-3)", line: { width: 2 } } }),
      trace("measured", drawn.map((a) => a.avg_bits), drawn.map((a) => a.verified.mean), {
        marker: { size: 11, color: "var(--run-2)" },
        error_y: { type: "data", symmetric: false, color: "var(--run-2)", array: drawn.map((a) => (a.verified.hi ?? a.verified.mean) - a.verified.mean), arrayminus: drawn.map((a) => a.verified.mean - (a.verified.lo ?? a.verified.mean)) },
      }),
      trace("this plan", here ? [here.bits] : [], here ? [here.loss] : [], { marker: { size: 13, symbol: "x", color: "var(--dq-ink)" } }),
    ];
    if (calibrated && points.length) {
      const band = (key) => points.map((p) => p.predicted[key]);
      const line = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false, x: points.map((p) => p.avg_bits) };
      traces.unshift({ ...line, name: "low", y: band("lo") }, { ...line, name: "95 % interval", y: band("hi"), fill: "tonexty", fillcolor: "rgba(0,99,178,.13)", showlegend: true });
    }
    return {
      figure: { data: traces.filter((t) => t.x.length), layout: { margin: { l: 64, r: 12, t: 8, b: 44 }, hovermode: "closest", dragmode: false, showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
        xaxis: { title: { text: "average bits of the weights", standoff: 8 }, fixedrange: true, zeroline: false }, yaxis: { title: { text: "loss", standoff: 8 }, type: "log", dtick: 1, fixedrange: true, zeroline: false, exponentformat: "power" } } },
      height: 380, narrow: { showlegend: false, margin: { l: 48, r: 8, t: 8, b: 44 } },
    };
  }

  async function draw() {
    if (!points.length) return;
    const kept = data.allocations.filter((a) => a.metric === view.metric);
    holder.setAttribute("aria-label", `Predicted loss over average bits: ${points.map((p) => `${p.avg_bits.toFixed(1)} bits ${short(p.predicted.mean)}`).join(", ")}`);
    list.replaceChildren(...points.map((p, i) => item(`${p.avg_bits.toFixed(2)} bits, ${p.size_mb.toFixed(2)} MB: predicted ${short(p.predicted.mean)}`, () => take(i))),
      ...kept.map((a) => item(`${a.name}: ${a.avg_bits.toFixed(2)} bits, predicted ${short(a.predicted_loss.mean)}${a.verified ? `, measured ${short(a.verified.mean)}` : ""}`, () => load(a.name))));
    await drawPlot(holder, section());
    if (!holder.dataset.heard && holder.on) {
      holder.dataset.heard = "1";
      holder.on("plotly_click", (e) => {
        const point = e.points[0];
        const name = point.data.name;
        const own = data.allocations.filter((a) => a.metric === view.metric);
        if (name.startsWith("predicted")) take(point.pointIndex);
        else if (name.startsWith("plans")) load(own[point.pointIndex].name);
        else if (name === "measured") load(own.filter((a) => a.verified)[point.pointIndex].name);
      });
    }
  }
  const take = (i) => plan.take(points[i].plan, `${points[i].avg_bits.toFixed(2)} bits of the curve`);
  const item = (text, f) => el("li", {}, el("button", { type: "button", class: "dq-linkish", on: { click: f } }, text));

  async function refresh() {
    anew.disabled = true;
    const answer = await ask("curve").catch((e) => ({ error: String(e.message || e) }));
    anew.disabled = false;
    if (answer.error) return void (said.textContent = answer.error);
    ({ points, calibrated } = answer);
    said.textContent = `${points.length} plans, predicted; activations have at most ${short(answer.activation_bits)} bits on average. ${calibrated ? "" : "The sums of cells are not calibrated: measured losses beside them have no unit in common. "}A line that is not smooth means a noisy table.`;
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
      waiting = setTimeout(() => node.isConnected && draw(), 250);
    },
  };
}
