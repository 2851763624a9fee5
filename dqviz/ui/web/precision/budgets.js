// What the plan adds up to, budgets with sliders, and the two solvers: the quick one while a slider moves, the exact one on asking.
import { clock, copy, commandParts, el, options } from "../tools.js";
import { short } from "./bar.js";
import { calibrated } from "./plan.js";

export const BUDGETS = [
  ["avg_bits", "Weight bits, average", "bits", 0.05],
  ["activation_bits", "Activation bits, average", "bits", 0.05],
  ["size_mb", "Size of the file", "MB", 0.01],
  ["latency_ratio", "Latency", "of 16 bit", 0.005],
];
const fixed = (name, value) => (value === null ? "–" : name === "size_mb" ? String(Number(value.toPrecision(4))) : value.toFixed(name === "latency_ratio" ? 3 : 2));

// The strip of totals: all of it is added up here; only the interval of the prediction comes from the server.
export function totalsStrip({ data }) {
  const cells = {};
  const item = (key, label) => {
    const [value, sub] = [el("dd", { "data-total": key }), el("dd", { class: "dq-sub" })];
    cells[key] = { value, sub };
    return el("div", {}, el("dt", {}, label), value, sub);
  };
  const words = el("p", { class: "dq-mx-fits", role: "status" });
  const devices = options(el("select", { class: "dq-select", "aria-label": "Device that latency is predicted for" }), data.devices.map((d) => [d.key, d.title, ""]));
  const node = el("section", { class: "dq-card dq-totals", "aria-label": "What the plan adds up to" },
    el("dl", {}, item("avg_bits", "weight bits, average"), item("activation_bits", "activation bits, average"), item("size_mb", "MB, predicted"),
      item("latency_ratio", "latency, predicted"), item("loss", "loss, predicted"), item("measured", "loss, measured")),
    words);
  if (data.devices.length) cells.latency_ratio.value.parentElement.append(el("dd", { class: "dq-sub" }, devices));

  function show({ totals, metric, interval, measured, feasible }) {
    const curve = data.calibrations[metric];
    for (const [name] of BUDGETS) cells[name].value.textContent = fixed(name, totals[name]);
    cells.avg_bits.sub.textContent = `of ${data.sites.length} layers' weights`;
    cells.activation_bits.sub.textContent = data.windows.length > 1 ? `over ${data.windows.length} windows` : "over all steps";
    cells.size_mb.sub.textContent = `${(100 * totals.size_mb * 1e6 / data.fp16_bytes).toFixed(0)} % of 16 bit`;
    cells.latency_ratio.sub.textContent = totals.latency_ratio === null ? "no peak is known for these formats" : "of 16 bit: a floor, no speed of ours, on";
    const mean = curve ? calibrated(curve, totals.loss) : totals.loss;
    cells.loss.value.textContent = short(mean);
    cells.loss.sub.textContent = curve
      ? interval?.lo != null ? `95 %: ${short(interval.lo, 2)} to ${short(interval.hi, 2)}` : "interval follows"
      : "sum of cells, not calibrated";
    cells.measured.value.textContent = measured ? short(measured.mean) : "–";
    const outside = measured && interval?.lo != null && (measured.mean < interval.lo || measured.mean > interval.hi);
    cells.measured.sub.textContent = measured ? `${measured.lo === null ? "" : `95 %: ${short(measured.lo, 2)} to ${short(measured.hi, 2)}, `}${measured.seeds.length} seeds${outside ? "; outside what was predicted, believe this one" : ""}` : "not drawn yet: verify";
    words.replaceChildren(...feasible.map((f) => el("span", { class: f.tone }, f.text)));
  }
  return { node, show, devices };
}

export function budgetPanel({ data, plan, state, ask, verify }) {
  const rows = BUDGETS.filter(([name]) => name !== "latency_ratio" || data.devices.length).map(([name, label, unit, step]) => {
    const [from, to] = reach(data, plan, name);
    const on = el("input", { type: "checkbox", id: `dq-on-${name}`, "aria-label": `Budget: ${label}` });
    const slider = el("input", { type: "range", min: from, max: to, step, "aria-label": `${label}, at most`, "data-budget": name });
    const number = el("input", { type: "number", class: "dq-input", min: from, max: to, step: "any", "aria-label": `${label}, at most, ${unit}` });
    on.checked = name in state.budgets;
    const put = (value) => {
      slider.value = String(value);
      number.value = String(Number(Number(value).toFixed(3)));
      slider.setAttribute("aria-valuetext", `${number.value} ${unit}`);
    };
    put(state.budgets[name] ?? Math.min(to, Math.max(from, { avg_bits: 4, activation_bits: 8 }[name] ?? from + (to - from) * 0.4)));
    const take = (value, dragging) => {
      on.checked = true;
      state.budgets[name] = Number(value);
      put(value);
      dragging ? quick() : ended();
    };
    on.addEventListener("change", () => {
      on.checked ? (state.budgets[name] = Number(number.value)) : delete state.budgets[name];
      state.changed();
    });
    slider.addEventListener("input", () => take(slider.value, true));
    slider.addEventListener("change", () => take(slider.value, false));
    const typed = () => {
      if (!(Number(number.value) > 0)) return put(slider.value);
      take(number.value, true);
      ended();
    };
    number.addEventListener("change", typed);
    number.addEventListener("keydown", (e) => { if (e.key === "Enter" && !on.checked) typed(); }); // also where the number stays
    return el("div", { class: "dq-budget" }, el("label", { for: `dq-on-${name}` }, on, el("span", {}, label)), el("span", { class: "dq-budget-at" }, number, el("span", { class: "dq-sub" }, unit)), slider);
  });
  const qkv = el("input", { type: "checkbox", id: "dq-qkv" });
  qkv.checked = state.qkv;
  qkv.addEventListener("change", () => { state.qkv = qkv.checked; state.changed(); });
  const solve = el("button", { type: "button", class: "dq-primary", id: "dq-solve" }, "Solve exactly");
  const said = el("div", { class: "dq-solved", role: "status" });

  // While one answer is under way, only the newest place of the slider waits.
  let busy = false;
  let again = false;
  let drag = {};
  async function quick() {
    again = true;
    if (busy) return;
    busy = true;
    while (again) {
      again = false;
      const answer = await ask("suggest");
      if (answer.error) bad(answer.error);
      else if (!again) taken(answer, drag);
    }
    busy = false;
    if (drag.over) drag = {};
  }
  const ended = () => {
    if (busy) drag.over = true;
    else drag = {};
    state.changed();
  };

  function taken(answer, joined = null) {
    plan.take(answer.plan, answer.status === "heuristic" ? "budget" : "solve", joined);
    const gap = answer.gap > 0 ? `at most ${(100 * answer.gap).toPrecision(2)} % above the least` : "proven to be the least";
    said.replaceChildren(el("p", {}, el("strong", {}, answer.status === "heuristic" ? "Heuristic" : answer.status === "optimal" ? "Solved" : "Time limit"), ` in ${answer.seconds < 1 ? `${Math.max(1, Math.round(1000 * answer.seconds))} ms` : clock(answer.seconds)}; ${gap}.`),
      el("p", { class: "dq-sub" }, answer.binding.length ? `Binding: ${answer.binding.map(named).join(", ")}.` : "No budget binds: every cell has its least cost."));
    if (answer.command) {
      const button = el("button", { type: "button", class: "dq-small", on: { click: () => copy(answer.command, button) } }, "Copy command");
      said.append(el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(answer.command))), button));
    }
  }
  const bad = (text) => said.replaceChildren(el("p", { class: "dq-note dq-bad", role: "alert" }, text));

  solve.addEventListener("click", async () => {
    solve.disabled = true;
    said.replaceChildren(el("p", { class: "dq-sub" }, "Solving; at most 10 s."));
    const answer = await ask("solve").catch((e) => ({ error: `The server did not answer: ${e.message || e}` }));
    solve.disabled = false;
    if (answer.error) return bad(answer.error);
    taken(answer);
    state.solvedAs(answer);
  });

  return {
    node: el("section", { class: "dq-card dq-budgets" },
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Budgets"), el("p", { class: "dq-lede" }, "Moving a slider answers at once with a heuristic; pinned cells stay. Solve proves the best plan."))),
      rows, el("label", { class: "dq-check" }, qkv, "Queries, keys and values of one attention get the same bits"),
      el("div", { class: "dq-mx-line" }, solve), said, verify),
    said: bad,
  };
}

const named = (name) => BUDGETS.find(([key]) => key === name)?.[1].toLowerCase() ?? name;

// From the least that any plan takes to the most.
function reach(data, plan, name) {
  if (name === "latency_ratio") return [0.2, 1];
  const free = plan.least(name).free;
  const full = { avg_bits: 16, activation_bits: 16, size_mb: data.fp16_bytes / 1e6 }[name];
  return [Number(free.toFixed(3)), Number(Math.max(full, free).toFixed(3))];
}

// Whether the plan keeps its budgets, in words.
export function feasibility(budgets, totals, plan) {
  const names = Object.keys(budgets);
  if (!names.length) return [{ tone: "dq-sub", text: "No budget is on." }];
  return names.map((name) => {
    const unit = { size_mb: "MB", latency_ratio: "of 16 bit" }[name] ?? "bits";
    const [bound, used] = [budgets[name], totals[name]];
    const what = named(name);
    if (used === null) return { tone: "dq-sub", text: `${what}: not known.` };
    if (used <= bound * (1 + 1e-9)) return { tone: "dq-fits", text: `${what}: ${fixed(name, used)} of ${short(bound)} ${unit}, kept.` };
    const least = name === "latency_ratio" ? null : plan.least(name);
    const over = fixed(name, used - bound);
    if (least && least.free > bound * (1 + 1e-9)) return { tone: "dq-breaks", text: `${what}: out of reach, no plan of this table takes less than ${fixed(name, least.free)} ${unit}.` };
    if (least && least.pinned > bound * (1 + 1e-9)) return { tone: "dq-breaks", text: `${what}: pinned cells already exceed the budget by ${fixed(name, least.pinned - bound)} ${unit}.` };
    return { tone: "dq-breaks", text: `${what}: ${over} ${unit} over the budget of ${short(bound)}.` };
  });
}
