// What the plan adds up to, what it is predicted and measured to lose, and whether it keeps its budgets.
import { el, options } from "../tools.js";
import { short } from "./bar.js";
import { calibrated } from "./plan.js";

export const BUDGETS = [
  ["avg_bits", "Weight bits, average", "bits", 0.05],
  ["activation_bits", "Activation bits, average", "bits", 0.05],
  ["size_mb", "Size of the file", "MB", 0.01],
  ["latency_ratio", "Latency", "of full precision", 0.005],
];
export const named = (name) => BUDGETS.find(([key]) => key === name)?.[1].toLowerCase() ?? name;
export const fixed = (name, value) => (value === null ? "–" : name === "size_mb" ? String(Number(value.toPrecision(4))) : value.toFixed(name === "latency_ratio" ? 3 : 2));
// As a bound that would be accepted: rounded up to three decimals.
export const enough = (value) => String(Math.ceil(value * 1000 - 1e-6) / 1000);
const exact = (value) => String(Number(value.toFixed(3)));
export const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

// How many of the drawn plans were inside the interval that the others give them: what the interval is worth.
export const covered = ({ plans, coverage, samples, few }) => `coverage ${Math.round(coverage * plans)} of ${plural(plans, "plan")}, ${plural(samples, "sample")} each${few ? ": says little" : ""}`;

// The loss that verified plans are told by: the typical one, as predictions are.
export const typical = (verified) => verified.typical ?? verified;

// All of it is added up here; only the interval of the prediction comes from the server.
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
    el("dl", {}, item("avg_bits", "weight bits, average"), item("activation_bits", "activation bits, average"), item("size_mb", "MB (10^6 bytes), predicted"),
      item("latency_ratio", "latency, predicted"), item("loss", "loss, predicted"), item("measured", "loss, measured")),
    words);
  const span = (interval) => interval.error ?? `95 %: ${short(interval.lo, 2)} to ${short(interval.hi, 2)}${interval.within ? "" : "; beyond the drawn plans: wider interval"}`;
  if (data.devices.length) cells.latency_ratio.value.parentElement.append(el("dd", { class: "dq-sub" }, devices));

  function show({ totals, metric, device, interval, measured, feasible }) {
    const curve = data.calibrations[metric];
    for (const [name] of BUDGETS) cells[name].value.textContent = fixed(name, totals[name]);
    cells.avg_bits.sub.textContent = `codes alone; ${totals.stored_bits.toFixed(2)} with scales`;
    cells.activation_bits.sub.textContent = data.windows.length > 1 ? `over ${data.windows.length} windows` : "over all steps";
    cells.size_mb.sub.textContent = `${(100 * totals.size_mb * 1e6 / data.fp16_bytes).toFixed(0)} % of 16 bit`;
    cells.latency_ratio.sub.textContent = totals.latency_ratio === null ? "no times are known for these formats" : `${data.devices.find((d) => d.key === device).said}, on`;
    const mean = curve ? calibrated(curve, totals.loss) : totals.loss;
    cells.loss.value.textContent = short(mean);
    cells.loss.sub.replaceChildren(...(curve
      ? [interval ? span(interval) : "interval follows", el("br"), covered(curve)]
      : ["sum of cells, not calibrated"]));
    const drawn = measured && typical(measured);
    cells.measured.value.textContent = drawn ? short(drawn.mean) : "–";
    const outside = drawn && interval?.lo != null && (drawn.mean < interval.lo || drawn.mean > interval.hi);
    cells.measured.sub.textContent = drawn ? `${drawn.lo === null ? "" : `95 %: ${short(drawn.lo, 2)} to ${short(drawn.hi, 2)}, `}typical of ${plural(measured.seeds.length, "seed")}` : "not drawn yet: verify";
    words.replaceChildren(...feasible.map((f) => el("span", { class: f.tone }, f.text)), outside ? el("span", { class: "dq-doubt" }, "The measured loss is outside what was predicted: believe the measured one.") : "");
  }
  return { node, show, devices };
}

// Whether the plan keeps its budgets, in words.
export function feasibility(budgets, totals, plan) {
  const names = Object.keys(budgets);
  if (!names.length) return [{ tone: "dq-sub", text: "No budget is on." }];
  return names.map((name) => {
    const unit = { size_mb: "MB", latency_ratio: "of full precision" }[name] ?? "bits";
    const [bound, used] = [budgets[name], totals[name]];
    const what = named(name);
    if (used === null) return { tone: "dq-sub", text: `${what}: not known.` };
    if (used <= bound * (1 + 1e-9)) return { tone: "dq-fits", text: `${what}: ${exact(used)} of ${exact(bound)} ${unit}, kept.` };
    const least = plan.least(name);
    if (least.free > bound * (1 + 1e-9)) return { tone: "dq-breaks", text: `${what}: out of reach, ${enough(least.free)} ${unit} is the least that plans of this table can keep.` };
    if (least.pinned > bound * (1 + 1e-9)) return { tone: "dq-breaks", text: `${what}: pinned cells already exceed the budget by ${enough(least.pinned - bound)} ${unit}.` };
    return { tone: "dq-breaks", text: `${what}: ${enough(used - bound)} ${unit} over the budget of ${exact(bound)}.` };
  });
}
