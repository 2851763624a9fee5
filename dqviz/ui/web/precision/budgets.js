// Budgets with sliders, and the two solvers: the quick one while a slider moves, the exact one on asking.
import { clock, copy, commandParts, el } from "../tools.js";
import { BUDGETS, enough, fixed, named } from "./totals.js";

const FIRST = { avg_bits: 4, activation_bits: 8 }; // of a budget that was never on

// One budget: on or off, its slider, its number. What is out of range is said, and stays as it was typed.
function budgetRow({ data, plan, move, end }, [name, label, unit, step]) {
  let [from, to] = reach(data, plan, name);
  const on = el("input", { type: "checkbox", id: `dq-on-${name}`, "aria-label": `Budget: ${label}` });
  const slider = el("input", { type: "range", min: from, max: to, step, "aria-label": `${label}, at most`, "data-budget": name });
  const number = el("input", { type: "number", class: "dq-input", min: from, max: to, step: "any", "aria-label": `${label}, at most, ${unit}`, "aria-describedby": `dq-why-${name}` });
  const why = el("p", { class: "dq-why", role: "alert", hidden: true, id: `dq-why-${name}` });
  const wrong = (text) => {
    why.hidden = !text;
    why.textContent = text;
    number.setAttribute("aria-invalid", String(Boolean(text)));
  };
  const put = (value) => {
    slider.value = String(value);
    number.value = String(Number(Number(value).toFixed(3)));
    slider.setAttribute("aria-valuetext", `${number.value} ${unit}`);
    wrong("");
  };
  // A budget that a link or a kept plan brings may lie beyond the range; the totals say whether it is kept.
  const inRange = (value) => number.value !== "" && value >= from - 1e-9 && value <= to + 1e-9;
  const typed = () => {
    const value = Number(number.value);
    if (!inRange(value)) return wrong(`${from} to ${to} ${unit} can be asked for; the budget stays ${name in plan.budgets() ? `at ${fixed(name, plan.budgets()[name])}` : "off"}.`);
    wrong("");
    if (plan.budgets()[name] !== value) end(name, value);
  };
  on.addEventListener("change", () => {
    if (!on.checked) return end(name, null);
    if (inRange(Number(number.value))) return end(name, Number(number.value));
    on.checked = false;
    typed();
  });
  slider.addEventListener("input", () => move(name, Number(slider.value)));
  slider.addEventListener("change", () => end(name, Number(slider.value)));
  number.addEventListener("change", typed);
  number.addEventListener("keydown", (e) => { if (e.key === "Enter" && !on.checked) typed(); }); // also where the number stays
  put(plan.budgets()[name] ?? Math.min(to, Math.max(from, FIRST[name] ?? from + (to - from) * 0.4)));
  let last;
  let device = plan.device();
  return {
    node: el("div", { class: "dq-budget" }, el("label", { for: `dq-on-${name}` }, on, el("span", {}, label)), el("span", { class: "dq-budget-at" }, number, el("span", { class: "dq-sub" }, unit)), slider, why),
    // The plan has this budget; what was typed stays until it changes.
    show() {
      const value = plan.budgets()[name];
      if (device !== plan.device()) { // latency has another least there
        device = plan.device();
        [from, to] = reach(data, plan, name);
        for (const input of [slider, number]) Object.assign(input, { min: from, max: to });
      }
      on.checked = value !== undefined;
      if (value !== undefined && value !== last) put(value);
      last = value;
    },
  };
}

export function budgetPanel({ data, plan, ask, asItIs, solved, verify }) {
  const rows = BUDGETS.filter(([name]) => name !== "latency_ratio" || data.devices.length).map((budget) => budgetRow({ data, plan, move, end }, budget));
  const qkv = el("input", { type: "checkbox", id: "dq-qkv" });
  const solve = el("button", { type: "button", class: "dq-primary", id: "dq-solve" }, "Solve exactly");
  const said = el("div", { class: "dq-solved", role: "status" });

  // A slider that is dragged, with the plans that follow it, is one step back; another slider is another step. While one
  // answer is under way, only the newest question waits; an answer to a plan that has changed since is dropped.
  let busy = false;
  let again = false;
  let drag = null; // the change that the next answer belongs to: what was moved, whether that is over
  let answered = Promise.resolve(); // once no question is under way
  function quick() {
    if (!Object.keys(plan.budgets()).length) return tell(null);
    again = true;
    if (!busy) answered = questions();
  }
  async function questions() {
    busy = true;
    while (again) {
      again = false;
      const before = asItIs();
      const answer = await ask("suggest");
      if (again) continue;
      if (answer.error) bad(answer.error);
      else if (asItIs() === before) taken(answer, drag);
      else Object.keys(plan.budgets()).length ? bad(late("answered")) : tell(null);
    }
    busy = false;
  }
  function step(of) {
    if (drag?.of !== of || (drag.over && !busy)) drag = { of, over: false };
    return drag;
  }
  function move(name, value) {
    plan.bound(name, value, step(name));
    quick();
  }
  function end(name, value) {
    move(name, value);
    drag.over = true;
  }
  qkv.addEventListener("change", () => {
    plan.tie(qkv.checked, step("qkv"));
    quick();
    drag.over = true;
  });

  // What is proven of a plan, and its command, are of that plan, metric and device alone: hidden while there are others.
  let proven = null;
  const hide = () => { said.hidden = proven !== null && proven !== asItIs(); };
  function tell(of, ...nodes) {
    proven = of;
    said.replaceChildren(...nodes);
    hide();
  }

  function taken(answer, joined = null) {
    plan.take(plan.read(answer.plan), answer.status === "heuristic" ? "budget" : "solve", joined);
    const gap = answer.gap > 1e-9 ? `at most ${(100 * answer.gap).toPrecision(2)} % above the least` : "proven to be the least";
    tell(answer.command ? asItIs() : null, el("p", {}, el("strong", {}, answer.status === "heuristic" ? "Heuristic" : answer.status === "optimal" ? "Solved" : "Time limit"), ` in ${answer.seconds < 1 ? `${Math.max(1, Math.round(1000 * answer.seconds))} ms` : clock(answer.seconds)}; ${gap}.`),
      el("p", { class: "dq-sub" }, answer.binding.length ? `Binding: ${answer.binding.map(named).join("; ")}.` : "No budget binds: every cell has its least cost."));
    if (answer.command) {
      const button = el("button", { type: "button", class: "dq-small", on: { click: () => copy(answer.command, button) } }, "Copy command");
      said.append(el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(answer.command))), button));
    }
  }
  const late = (done) => `The plan, metric or device was changed while it was ${done}, so the ${done === "solved" ? "solution" : "answer"} was not taken. Solve again.`;
  const bad = (text) => tell(null, el("p", { class: "dq-note dq-bad", role: "alert" }, text));

  solve.addEventListener("click", async () => {
    solve.disabled = true;
    await answered; // else the plan of a slider would come in between
    const before = asItIs();
    tell(null, el("p", { class: "dq-sub" }, "Solving; at most 10 s."));
    const answer = await ask("solve");
    solve.disabled = false;
    if (answer.error) return bad(answer.error);
    if (asItIs() !== before) return bad(late("solved"));
    taken(answer);
    solved(answer);
  });

  return {
    node: el("section", { class: "dq-card dq-budgets" },
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Budgets"), el("p", { class: "dq-lede" }, "Moving a slider answers at once with a heuristic; pinned cells stay. Solve proves the best plan."))),
      rows.map((row) => row.node), el("label", { class: "dq-check" }, qkv, "Queries, keys and values of one attention get the same bits"),
      el("div", { class: "dq-mx-line" }, solve), said, verify),
    show() {
      rows.forEach((row) => row.show());
      qkv.checked = plan.qkv();
      hide();
    },
  };
}

// From the least that any plan takes to the most, inwards to three decimals.
function reach(data, plan, name) {
  const free = plan.least(name).free;
  const full = { avg_bits: 16, activation_bits: 16, size_mb: data.fp16_bytes / 1e6, latency_ratio: 1 }[name];
  return [Number(enough(free)), Number(Math.max(full, free).toFixed(3))];
}
