// The window editor: borders between windows of steps, moved by pointer or keys over the errors that they leave.
import { exportButtons } from "../exports.js";
import { drawPlot, redraws, svgOf } from "../plots.js";
import { badge, choice, el, heading } from "../tools.js";
import { commandOf, outcome } from "./outcome.js";

const percent = (squared) => 100 * Math.sqrt(squared);
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 2 : 1)} MiB`;
const pairs = (cut) => cut.slice(1).map((end, i) => [cut[i], end]);
const said = (first, end) => (end === first + 1 ? `step ${first}` : `steps ${first} to ${end - 1}`);
const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const histories = {}; // what undo and redo go to, while the page is open
const NAMES = { 1: "one", step: "each step" };

function drawWindows(section, context) {
  const { steps, timesteps, errors, presets, best, memory, tiers } = section;
  const state = { borders: section.borders, tier: section.tier, axis: section.axes[section.axis] ? section.axis : "step" };
  const { study } = context.chosen();
  const { done, undone } = (histories[[study, section.method, section.bits].join()] ??= { done: [], undone: [] });

  const edges = () => [0, ...state.borders, steps];
  const counted = () => (state.tier === "B" ? [0, steps] : edges()); // tier B has one transform
  const error = ([a, b]) => errors[`${a}-${b}`];
  function level(cut) {
    const every = pairs(cut).map((w) => [error(w), w[1] - w[0]]);
    return every.some(([e]) => e === undefined) ? null : every.reduce((sum, [e, n]) => sum + e * n, 0) / steps;
  }

  const measured = section.timesteps.map((_, edge) => edge).filter((edge) => edge && error([0, edge]) !== undefined && error([edge, steps]) !== undefined);

  const holder = el("div", { class: "dq-plot", role: "img", "aria-label": section.alt, style: `min-height:${section.height}px` });
  const bands = el("div", { class: "dq-bands", "aria-hidden": "true" });
  const handles = el("div", { role: "group", "aria-label": "Borders between windows" });
  const stage = el("div", { class: "dq-windowstage" }, holder, bands, handles);
  const facts = el("dl", { class: "dq-figures", "aria-live": "polite" });
  const gap = el("div", { class: "dq-gap" });
  const result = outcome(section);

  const equal = choice("Equal windows", Object.keys(presets).map((k) => [k, NAMES[k] ?? k]), null, (k) => put({ borders: presets[k].slice(1, -1) }));
  const least = choice("Least error", Object.keys(best).map((k) => [k, k]), null, (k) => put({ borders: best[k].slice(1, -1) }));
  const titles = { step: "steps", timestep: "timesteps", snr: "log-SNR" };
  const axis = choice("Axis", Object.keys(section.axes).map((k) => [k, titles[k]]), state.axis, (k) => { state.axis = k; context.keep({ axis: k }); show(); });
  const over = section.has_input ? choice("Errors of", [["all", "all inputs"], ["one", "chosen input"]], section.over, (k) => context.choose({ over: k }, ["windows"])) : null;
  const button = (text, title, f) => el("button", { type: "button", class: "dq-small", title, on: { click: f } }, text);
  const add = button("Add border", "In the middle of the longest window", () => split());
  const remove = button("Remove border", "The one that was moved last", () => take(Math.min(latest, state.borders.length - 1)));
  const undo = button("Undo", "Ctrl+Z", () => back(done, undone));
  const redo = button("Redo", "Ctrl+Shift+Z", () => back(undone, done));
  let latest = 0; // border that was moved last

  function put(changes) {
    const next = { ...state, ...changes };
    if (next.borders.join() === state.borders.join() && next.tier === state.tier) return show();
    done.push({ borders: state.borders, tier: state.tier });
    undone.length = 0;
    Object.assign(state, changes);
    keep();
    show();
  }
  function back(from, to) {
    const before = from.pop();
    if (!before) return;
    to.push({ borders: state.borders, tier: state.tier });
    Object.assign(state, before);
    keep();
    show();
  }
  const keep = () => context.keep({ borders: state.borders.join(".") || "0", tier: state.tier });

  function split(at) {
    const [a, b] = pairs(edges()).sort((u, v) => v[1] - v[0] - (u[1] - u[0]))[0];
    const border = at ?? Math.floor((a + b) / 2);
    if (border < 1 || border >= steps || state.borders.includes(border)) return;
    const borders = [...state.borders, border].sort((u, v) => u - v);
    latest = borders.indexOf(border);
    put({ borders });
    handles.children[latest]?.focus();
  }
  function take(k) {
    if (k < 0 || k >= state.borders.length) return;
    put({ borders: state.borders.filter((_, i) => i !== k) });
    latest = Math.max(k - 1, 0);
    (handles.children[latest] ?? add).focus();
  }
  function move(k, to) {
    const [low, high] = limits(k);
    const border = Math.min(Math.max(to, low), high);
    latest = k;
    put({ borders: state.borders.map((b, i) => (i === k ? border : b)) });
  }
  const limits = (k) => [(state.borders[k - 1] ?? 0) + 1, (state.borders[k + 1] ?? steps) - 1];

  // Pixel of the left end of a step (of the end for `steps`), and the step border nearest to a pixel.
  const places = () => section.axes[state.axis];
  function pixel(edge) {
    const x = holder._fullLayout.xaxis;
    return x._offset + x.l2p(places()[edge]);
  }
  function nearest(clientX) {
    const x = clientX - stage.getBoundingClientRect().left;
    const every = places().map((_, edge) => Math.abs(pixel(edge) - x));
    return every.indexOf(Math.min(...every));
  }

  function handle(k) {
    const node = el("div", { class: "dq-border", role: "slider", tabindex: "0", "aria-orientation": "horizontal" });
    let before = null; // borders before a drag: a drag is one change
    node.addEventListener("keydown", (e) => {
      const [low, high] = limits(k);
      const border = state.borders[k];
      const to = { ArrowLeft: border - 1, ArrowDown: border - 1, ArrowRight: border + 1, ArrowUp: border + 1, Home: low, End: high }[e.key];
      if (to !== undefined) move(k, to);
      else if (e.key === "Delete" || e.key === "Backspace") take(k);
      else return;
      e.preventDefault();
    });
    node.addEventListener("pointerdown", (e) => {
      node.setPointerCapture(e.pointerId);
      before = state.borders;
      latest = k;
      node.focus();
      e.preventDefault();
    });
    node.addEventListener("pointermove", (e) => {
      if (!before) return;
      const [low, high] = limits(k);
      const border = Math.min(Math.max(nearest(e.clientX), low), high);
      if (border === state.borders[k]) return;
      state.borders = state.borders.map((b, i) => (i === k ? border : b));
      show();
    });
    const drop = () => {
      if (!before) return;
      const moved = state.borders;
      state.borders = before;
      before = null;
      put({ borders: moved });
    };
    node.addEventListener("pointerup", drop);
    node.addEventListener("pointercancel", drop);
    return node;
  }

  // Borders and windows lie above the plot, so that moving them moves nothing else.
  function place() {
    const layout = holder._fullLayout;
    if (!layout?.xaxis?._length || !holder.isConnected) return;
    const { _offset: top, _length: tall } = layout.yaxis;
    while (handles.children.length > state.borders.length) handles.lastChild.remove();
    while (handles.children.length < state.borders.length) handles.append(handle(handles.children.length));
    state.borders.forEach((border, k) => {
      const node = handles.children[k];
      const [low, high] = limits(k);
      const where = `first step of window ${k + 2}: ${border}, timestep ${Number(timesteps[border].toFixed(1))}`;
      for (const [name, value] of Object.entries({ label: `Border ${k + 1} of ${state.borders.length}`, valuemin: low, valuemax: high, valuenow: border, valuetext: where })) node.setAttribute(`aria-${name}`, value);
      Object.assign(node.style, { left: `${pixel(border)}px`, top: `${top - 26}px`, height: `${tall + 26}px` });
    });
    bands.replaceChildren(...pairs(edges()).map(([a, b], k) => {
      const wide = pixel(b) - pixel(a);
      const known = state.tier === "B" || error([a, b]) !== undefined;
      const label = wide > 92 ? said(a, b) : wide > 40 ? (b === a + 1 ? `${a}` : `${a}–${b - 1}`) : "";
      return el("span", { class: `dq-band${k % 2 ? " dq-odd" : ""}${known ? "" : " dq-unknown"}`, style: `left:${pixel(a) + 1}px;width:${wide - 2}px;top:${top - 24}px` }, label);
    }), ...measured.map((edge) => el("span", { class: "dq-measuredmark", style: `left:${pixel(edge)}px;top:${top + tall}px` })));
  }

  // The figure on the chosen axis, with the chosen windows in it.
  function figure(legend = false) {
    const at = places();
    const moved = (trace) => ({ ...trace, x: trace.x.map((v) => (v === null ? null : at[Math.round(v + 0.5)])) });
    const own = { ...section.figure.data.at(-1), x: [], y: [], text: [] };
    for (const w of pairs(counted())) {
      if (error(w) === undefined) continue;
      own.x.push(at[w[0]], at[w[1]], null);
      own.y.push(percent(error(w)), percent(error(w)), null);
      own.text.push(said(...w), said(...w), "");
    }
    const { layout } = section.figure;
    const ticks = state.axis === "timestep" ? { tickvals: [0, 200, 400, 600, 800, 1000].map((t) => -t), ticktext: ["0", "200", "400", "600", "800", "1000"] } : {};
    const xaxis = { ...layout.xaxis, range: [at[0], at.at(-1)], title: { ...layout.xaxis.title, text: section.titles[state.axis] }, ...ticks };
    return { data: [...section.figure.data.slice(0, -1).map(moved), own], layout: { ...layout, xaxis, showlegend: legend } };
  }
  let queued = false;
  let attached = false;
  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      drawPlot(holder, { ...section, figure: figure() })
        .then(() => {
          if (!attached && holder.on) holder.on("plotly_afterplot", place);
          attached = true;
          place();
        })
        .catch((e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e))));
    });
  }

  const radios = tiers.map(([key, name, what]) => {
    const radio = el("input", { type: "radio", name: "dq-tier", value: key, id: `dq-tier-${key}` });
    radio.addEventListener("change", () => put({ tier: key }));
    const [disk, resident, bar] = [el("td", { class: "dq-num" }), el("td", { class: "dq-num" }), el("span", { class: "dq-sizebar" }, el("span", {}))];
    const row = el("tr", {}, el("th", { scope: "row" }, el("label", { for: radio.id, class: "dq-tier" }, radio, el("span", {}, `${key} · ${name}`, el("span", { class: "dq-sub" }, what)))), disk, resident, el("td", { class: "dq-barcell", "aria-hidden": "true" }, bar));
    return { key, radio, disk, resident, bar, row };
  });
  const sizes = el("table", { class: "dq-table dq-compact dq-tiers" }, el("caption", { class: "dq-offscreen" }, "Memory of each tier"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Tier"), [["On disk", "Codes, scales, transforms and what is kept: the file"], ["In memory", "The same, and what simulation expands for the running window"]].map(([t, title]) => el("th", { scope: "col", class: "dq-num", title }, t)), el("td", { class: "dq-barcell" }, "on disk; line: 16-bit model"))),
    el("tbody", {}, radios.map((r) => r.row)));

  function showSizes() {
    const at = state.borders.length; // index of that many windows, less one
    const most = Math.max(memory.full, ...tiers.map(([key]) => memory.tiers[key].disk[at]));
    for (const { key, radio, disk, resident, bar } of radios) {
      const own = memory.tiers[key];
      const cell = (bytes) => [mebibytes(bytes), el("span", { class: "dq-sub" }, `${(bytes / memory.full).toFixed(2)} of 16 bit`)];
      radio.checked = key === state.tier;
      disk.replaceChildren(...cell(own.disk[at]));
      resident.replaceChildren(...cell(own.resident[at]));
      bar.style.setProperty("--full", `${(100 * memory.full) / most}%`);
      bar.firstChild.style.width = `${(100 * own.disk[at]) / most}%`;
      bar.classList.toggle("dq-over", own.disk[at] > memory.full);
    }
  }

  // Borders as the method takes them: a name where they cut equally.
  function asOption() {
    if (!state.borders.length) return 1;
    const named = Object.entries(presets).find(([, cut]) => cut.join() === edges().join());
    return named ? (named[0] === "step" ? "step" : Number(named[0])) : state.borders;
  }

  function show() {
    const cut = edges();
    for (const [group, known] of [[equal, presets], [least, best]]) {
      [...group.children].forEach((b, i) => b.setAttribute("aria-pressed", String(Object.values(known)[i].join() === cut.join())));
    }
    [...axis.children].forEach((b, i) => b.setAttribute("aria-pressed", String(Object.keys(section.axes)[i] === state.axis)));
    [undo.disabled, redo.disabled, remove.disabled] = [!done.length, !undone.length, !state.borders.length];
    add.disabled = state.borders.length >= steps - 1;
    const [own, one] = [level(counted()), level([0, steps])];
    const unknown = pairs(counted()).filter((w) => error(w) === undefined);
    const fact = (term, text, sub) => el("div", {}, el("dt", {}, term), el("dd", {}, text, sub ? el("span", { class: "dq-sub" }, ` ${sub}`) : ""));
    facts.replaceChildren(
      fact("windows", String(cut.length - 1), state.tier === "B" && cut.length > 2 ? "one transform for all" : ""),
      fact("output error", own === null ? "–" : `${percent(own).toFixed(2)} %`, own === null ? "not measured" : ""),
      fact("against one window", own === null ? "–" : `${signed(100 * (Math.sqrt(own / one) - 1), 1)} %`));
    showGap(unknown);
    showSizes();
    result.show({ windows: asOption(), tier: state.tier });
    draw();
    place();
  }

  // What was not measured yet, and how it would be.
  function showGap(unknown) {
    const key = unknown.map((w) => w.join("-")).join();
    if (gap.dataset.of === key) return;
    gap.dataset.of = key;
    if (!unknown.length) return gap.replaceChildren();
    const options = { windows: state.borders };
    gap.replaceChildren(el("p", { class: "dq-note dq-warn" }, `Not measured: ${unknown.map((w) => said(...w)).join(", ")}. Borders with a ▴ at the axis are.`),
      context.starter("Measure these windows", commandOf("probe", section, options, "--only", "windows"), { ...context.chosen(), what: "probe", only: ["windows"], options }));
  }

  const keyed = (text, dash, colour) => el("li", {}, el("span", { class: `dq-linekey dq-${dash}`, style: `border-color:${colour}`, "aria-hidden": "true" }), text);
  const keys = el("ul", { class: "dq-legend", "aria-label": "Lines" }, keyed("your windows", "thick", "var(--run-1)"), section.legend.map((entry) => keyed(...entry)),
    el("li", {}, el("span", { class: "dq-measuredkey", "aria-hidden": "true" }, "▴"), "borders that were measured"));

  // A double click in the plot puts a border there; the figure keeps the browser's own event to itself.
  let press = { at: -Infinity, x: 0 };
  stage.addEventListener("pointerdown", (e) => {
    const again = e.timeStamp - press.at < 400 && Math.abs(e.clientX - press.x) < 6;
    press = { at: again ? -Infinity : e.timeStamp, x: e.clientX };
    if (again && !e.target.closest(".dq-border")) split(nearest(e.clientX));
  }, true);
  redraws.add({ node: holder, draw });
  new ResizeObserver(place).observe(stage);
  const card = el("section", { class: "dq-card" }, heading(section, exportButtons(section, () => svgOf({ ...section, figure: figure(true) }))),
    el("div", { class: "dq-fields dq-viewbar" },
      el("div", { class: "dq-field" }, el("span", {}, "Equal windows"), equal),
      Object.keys(best).length ? el("div", { class: "dq-field" }, el("span", {}, "Least error measured, windows"), least) : "",
      el("div", { class: "dq-field" }, el("span", {}, "Axis"), axis),
      over ? el("div", { class: "dq-field" }, el("span", {}, "Errors of"), over) : "",
      el("div", { class: "dq-edits" }, add, remove, undo, redo)),
    stage, keys, facts, gap,
    el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w)), section.note ? el("li", {}, section.note) : ""),
    el("div", { class: "dq-headed" }, el("h3", {}, "Memory of the tiers ", badge(section.predicted)), el("p", { class: "dq-sub" }, "In memory: a copy that simulates also holds what it expands to float32 for the window that it is in."), el("div", { class: "dq-scroll", tabindex: "0", role: "region", "aria-label": "Memory of the tiers" }, sizes)),
    result.node);
  card.addEventListener("keydown", (e) => {
    if (!(e.ctrlKey || e.metaKey) || e.key.toLowerCase() !== "z" || e.target.matches("input[type=text], textarea")) return;
    e.preventDefault();
    e.shiftKey ? back(undone, done) : back(done, undone);
  });
  card.querySelector("h2").append(" ", ...section.badges.map(badge));
  show();
  return card;
}

export const drawers = { windows: drawWindows };
