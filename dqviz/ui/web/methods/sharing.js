// Attention sharing: a map of attentions and steps, a threshold that says which of them share, and what that saves.
import { exportButtons } from "../exports.js";
import { drawPlot, redraws, svgOf, withoutLegend } from "../plots.js";
import { drawers as tables } from "../tables.js";
import { badge, choice, el, heading, options as entriesOf } from "../tools.js";
import { outcome } from "./outcome.js";

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

// What a set of cells saves over all steps, and the output error inside it; as quant/sharing_choice.py counts.
export function saving(section, shared, mode) {
  const steps = section.timesteps.length;
  let [cells, rows, every, left, sum, worst] = [0, 0, 0, 0, 0, 0];
  section.work.forEach((work, a) => {
    every += work.rows * steps;
    shared[a].forEach((on, s) => {
      if (!on) return;
      cells += 1;
      rows += Math.floor(work.rows / 2);
      left += work[mode];
      sum += section.error[mode][a][s];
      worst = Math.max(worst, section.error[mode][a][s]);
    });
  });
  return { cells, of: section.work.length * steps, qk: rows / every, macs: left / (steps * section.network), error: cells ? sum / cells : 0, worst };
}

function drawSharing(section, context) {
  const state = { ...section.chosen };
  const times = section.timesteps;
  const mode = () => (state.share === "off" ? "map" : state.share);
  const agreement = (a, s) => (state.by === "error" ? 1 - section.error[mode()][a][s] : section.cosine[a][s]);
  const shares = (a, s) => state.share !== "off" && s >= state.first && s <= state.last && (state.by === "released" ? section.released[a] : agreement(a, s) >= state.threshold);

  const map = el("div", { class: "dq-plot", role: "img", "aria-label": section.alt, style: `min-height:${Number(section.height)}px` });
  const trade = el("div", { class: "dq-plot", role: "img", style: "min-height:260px" });
  const modes = choice("Sharing", section.modes, state.share, (share) => change({ share }));
  const choosers = choice("Chosen by", section.choosers, state.by, (by) => change({ by }));
  const slider = el("input", { type: "range", step: 0.001, max: 1, "aria-label": "Threshold" });
  const value = el("output", { class: "dq-mono" });
  const ends = ["first", "last"].map((key) => {
    const label = key === "first" ? "First step that may share" : "Last step that may share";
    const select = entriesOf(el("select", { class: "dq-select", "aria-label": label }), times.map((t, s) => [s, `${s} · t ${Number(t.toFixed(1))}`]));
    select.addEventListener("change", () => {
      const picked = Number(select.value);
      change(key === "first" ? { first: picked, last: Math.max(picked, state.last) } : { last: picked, first: Math.min(picked, state.first) });
    });
    return select;
  });
  const name = el("span", {});
  const facts = el("dl", { class: "dq-figures", "aria-live": "polite" });
  const result = outcome(section);
  slider.addEventListener("input", () => { state.threshold = atLeast(Number(slider.value)); show(); });
  slider.addEventListener("change", () => context.keep({ threshold: state.threshold }));

  // By output error the slider says how much error is let in; the threshold is held against 1 less that.
  function atLeast(shown) {
    return Number((state.by === "error" ? 1 - shown : shown).toFixed(4));
  }

  function change(changes) {
    Object.assign(state, changes);
    const whole = state.first === 0 && state.last === times.length - 1;
    context.keep({ share: state.share, by: state.by, threshold: state.threshold, first: whole ? "" : state.first, last: whole ? "" : state.last });
    show();
  }

  function options() {
    if (state.share === "off") return { sharing: "off" };
    const found = { sharing: state.share, sharing_set: state.by };
    if (state.by !== "released") found.sharing_threshold = state.threshold;
    return state.first === 0 && state.last === times.length - 1 ? found : { ...found, sharing_steps: [timestepRange()] };
  }

  // Half-open, the lower end first; an end between two steps lies halfway.
  function timestepRange() {
    const between = (s) => Number(((times[s - 1] + times[s]) / 2).toFixed(2));
    return [state.last === times.length - 1 ? 0 : between(state.last + 1), state.first === 0 ? Math.ceil(times[0]) + 1 : between(state.first)];
  }

  const shared = () => section.cosine.map((row, a) => row.map((_, s) => shares(a, s)));

  // The figure with what is not shared faded.
  function mapFigure() {
    const base = section.figures[state.by === "error" ? mode() : "similarity"];
    const [cells, legend] = base.data;
    const veil = {
      type: "heatmap", name: "not shared", x: cells.x, y: cells.y, z: shared().map((row) => row.map((on) => (on ? null : 1))),
      colorscale: [[0, "var(--dq-surface)"], [1, "var(--dq-surface)"]], showscale: false, opacity: 0.78, hoverinfo: "skip",
      xgap: cells.xgap, ygap: cells.ygap,
    };
    return { ...base, data: [cells, veil, legend] };
  }
  const curve = () => section.curves[`${state.by === "error" ? "error" : "similarity"}:${mode()}`];
  function tradeFigure(made) {
    const { data: [line, point], layout } = curve();
    const at = state.share === "off" ? { x: [], y: [] } : { x: [100 * made.macs], y: [100 * made.error] };
    return { data: [line, { ...point, ...at }], layout };
  }

  let queued = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      const made = saving(section, shared(), mode());
      const fail = (holder) => (e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e)));
      drawPlot(map, { ...section, figure: mapFigure() }).then(attach).catch(fail(map));
      drawPlot(trade, { figure: tradeFigure(made), height: 260, narrow: { margin: { l: 48, r: 6, t: 8, b: 46 } } }).catch(fail(trade));
    });
  }
  let attached = false;
  function attach() {
    if (attached || !map.on || !trade.on) return;
    attached = true;
    map.on("plotly_click", (e) => {
      const point = e.points.find((p) => p.curveNumber === 0);
      if (!point || state.by === "released" || state.share === "off") return;
      const [a, s] = point.pointIndex ?? point.pointNumber;
      change({ threshold: Math.floor(1e4 * Math.min(Math.max(agreement(a, s), 0), 1)) / 1e4 });
    });
    trade.on("plotly_click", (e) => {
      const threshold = e.points.find((p) => p.curveNumber === 0)?.customdata;
      if (threshold !== undefined && state.by !== "released") change({ threshold, share: mode() });
    });
  }

  function show() {
    const made = saving(section, shared(), mode());
    const off = state.share === "off";
    for (const [group, entries, now] of [[modes, section.modes, state.share], [choosers, section.choosers, state.by]]) {
      [...group.children].forEach((b, i) => b.setAttribute("aria-pressed", String(entries[i][0] === now)));
    }
    for (const b of [...choosers.children, ...ends]) b.disabled = off;
    [ends[0].value, ends[1].value] = [state.first, state.last];
    slider.disabled = off || state.by === "released";
    const byError = state.by === "error";
    name.textContent = byError ? "Output error up to" : "Cosine at least";
    slider.setAttribute("aria-label", name.textContent);
    slider.min = byError ? 0 : section.range[0];
    slider.value = byError ? 1 - state.threshold : state.threshold;
    value.textContent = byError ? percent(1 - state.threshold) : state.threshold.toFixed(3);
    slider.setAttribute("aria-valuetext", `${value.textContent}, ${made.cells} of ${made.of} shared`);
    trade.setAttribute("aria-label", `Multiply-adds saved against mean output error; now ${percent(made.macs, 2)} and ${percent(made.error)}`);
    const fact = (term, text, sub) => el("div", {}, el("dt", {}, term), el("dd", {}, text, sub ? el("span", { class: "dq-sub" }, ` ${sub}`) : ""));
    facts.replaceChildren(
      fact("attentions and steps that share", `${made.cells}`, `of ${made.of}`),
      fact("rows of q and k left out", percent(made.qk)),
      fact("multiply-adds of the network left out", percent(made.macs, 2)),
      fact("output error where shared", made.cells ? percent(made.error) : "–", made.cells ? `worst ${percent(made.worst)}` : ""));
    result.show(options());
    draw();
  }

  const made = el("div", { class: "dq-headed" }, el("h3", {}, "Saved ", badge(section.predicted), " and lost ", badge(section.badges[0])), facts);
  const tall = section.height > 320; // what is saved stands where there is room
  const current = () => ({ ...section, figure: mapFigure() });
  redraws.add({ node: map, draw });
  const card = el("section", { class: "dq-card" },
    heading(section, exportButtons(withoutLegend(section), () => svgOf(current()))),
    el("div", { class: "dq-fields dq-viewbar" },
      el("div", { class: "dq-field" }, el("span", {}, "Sharing"), modes),
      el("div", { class: "dq-field" }, el("span", {}, "Chosen by"), choosers),
      el("label", { class: "dq-slider" }, name, slider, value),
      el("div", { class: "dq-field" }, el("span", {}, "Steps that may share"), el("div", { class: "dq-edits" }, ends))),
    el("div", { class: "dq-beside" },
      el("div", {}, el("h3", {}, "Who shares, when"), el("p", { class: "dq-sub" }, "Faded: each branch keeps its own. A click on a cell sets the threshold there."), map, tall ? "" : made),
      el("div", {}, el("h3", {}, "What a threshold saves, and what it costs"), el("p", { class: "dq-sub" }, "The error is that of the unconditional half's attention output. A click takes a threshold."), trade, tall ? made : "")),
    el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w))),
    result.node);
  card.querySelector("h2").append(" ", ...section.badges.map(badge));
  const inner = tables.table(section.table);
  inner.className = "dq-inner";
  card.append(el("details", {}, el("summary", {}, section.table.title), inner));
  show();
  return card;
}

export const drawers = { sharing: drawSharing };
