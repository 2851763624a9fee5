// The page Sensitivity and precision: a matrix of what rounding costs, a plan set upon it, budgets, and what was measured.
// The table comes once; choosing, setting, undoing and adding up ask nobody. The address always names what is shown.
import { actions, legend, viewBar, viewOf } from "./precision/bar.js";
import { budgetPanel, feasibility, totalsStrip } from "./precision/budgets.js";
import { inspector } from "./precision/inspector.js";
import { jobStatus } from "./precision/jobs.js";
import { matrixOf } from "./precision/matrix.js";
import { pareto } from "./precision/pareto.js";
import { calibrated, planOf } from "./precision/plan.js";
import { planDiff, planTable, planTools, verifyBox } from "./precision/plans.js";
import { drawers as tables } from "./tables.js";
import { commandParts, copy, el, options } from "./tools.js";

const NAMED = ["study", "table", "plan", "operand", "bits", "metric"];
const BUDGET = /^(avg_bits|activation_bits|size_mb|latency_ratio)$/;
const SETTLED = 350; // ms after a change until its interval is asked for

export function precision({ element, server }) {
  const root = element.querySelector(".dq-precision");
  const asked = new URL(location.href).searchParams;
  const address = Object.fromEntries(NAMED.filter((k) => asked.has(k)).map((k) => [k, asked.get(k)]));
  let undoKeys = null;
  document.addEventListener("keydown", (e) => undoKeys?.(e));

  async function open(query, hash = "") {
    let data;
    try {
      data = JSON.parse(await server.precision(query));
    } catch (e) {
      data = { error: `The server did not answer: ${e.message || e}` };
    }
    undoKeys = null;
    if (data.error) return problem(data.error);
    data.empty ? empty(data) : await page(data, query, hash);
  }

  const problem = (text) => root.replaceChildren(el("p", { class: "dq-note dq-bad", role: "alert" }, text),
    el("p", { class: "dq-note" }, el("a", { href: location.pathname }, "Open this page without the choices of the link")));

  // Studies and tables to look at; none where there is nothing to choose.
  function sources(data) {
    const pick = (label, values, value, change) => {
      if (values.length < 2) return "";
      const select = options(el("select", { class: "dq-select" }), values.map((v) => [v, v, ""]));
      select.value = value;
      select.addEventListener("change", () => change(select.value));
      return el("label", { class: "dq-field" }, el("span", {}, label), select);
    };
    const names = Object.keys(data.studies);
    if (data.study && !names.includes(data.study)) names.unshift(data.study);
    return [pick("Study", names, data.study, (study) => open({ study })), pick("Table", data.studies[data.study] ?? [], data.table, (table) => open({ study: data.study, table }))];
  }

  async function page(data, query, hash) {
    const plan = planOf(data);
    const view = viewOf(data, query);
    const state = { budgets: {}, qkv: false, loaded: null, interval: null, measured: null, solved: null, device: data.devices[0]?.key ?? null };
    for (const [key, value] of new URLSearchParams(hash)) if (BUDGET.test(key) && Number(value) > 0) state.budgets[key] = Number(value);
    state.qkv = new URLSearchParams(hash).get("qkv") === "1";
    const question = () => ({ study: data.study, table: data.table, metric: view.metric, device: state.device, qkv: state.qkv, budgets: state.budgets, plan: plan.written(), pins: plan.pins() });
    const ask = async (name, more = {}) => JSON.parse(await server[`precision_${name}`]({ ...question(), ...more }));
    const fetchPlan = async (name) => JSON.parse(await server.precision_load({ study: data.study, table: data.table, name }));

    // Uniform plans that the table can have.
    const ways = (operand) => data.formats.filter((f) => !f[operand]).map((f) => f.label);
    const inputs = ways("activation");
    const bases = ways("weight").map((w) => {
      const a = inputs.includes(w) ? w : inputs.includes("8") ? "8" : "16";
      return [`w${w}a${a}`, `uniform w${w}a${a}`, () => plan.uniform(w, a)];
    });
    const first = bases.find(([key]) => key === "w8a8") ?? bases.at(-1);

    const status = jobStatus(server);
    const notes = el("div", { class: "dq-notes", role: "status" });
    const say = (texts, tone = "dq-warn") => notes.replaceChildren(...texts.map((t) => el("p", { class: `dq-note ${tone}` }, t)));
    const look = inspector({ data, plan, view, folder: data.study });
    let acts = null;
    const matrix = matrixOf({ data, plan, view, onSelect: () => acts.show(), onInspect: (cells) => look.show(inspected = cells), onKey: (key) => acts.onKey(key) });
    let inspected = null;
    acts = actions({ data, plan, matrix, begin: bases });
    const key = legend(data);
    const totals = totalsStrip({ data });
    totals.devices.addEventListener("change", () => { state.device = totals.devices.value; shown(); });
    const verify = verifyBox({ data, status, start });
    const budgets = budgetPanel({ data, plan, state, ask, verify });
    const table = planTable({ data, plan });
    const diff = planDiff({ data, plan, view, bases, fetchPlan });
    const curve = pareto({ data, plan, view, ask, load });
    const tools = planTools({ data, state, ask, start, load, link: () => location.href });
    const redraw = (metric = false) => {
      matrix.draw();
      key.show(matrix.range(), view);
      look.show(inspected);
      if (metric) { shown(); curve.refresh(); } else keepAddress();
    };

    state.changed = () => { state.solved = null; shown(); };
    state.solvedAs = (answer) => { state.solved = plan.text().plan; curve.refresh(); commandShown(answer.command); };

    const command = el("code", {});
    const copying = el("button", { type: "button", class: "dq-small", on: { click: () => copy(command.textContent, copying) } }, "Copy");
    const sweeping = el("button", { type: "button", class: "dq-small", on: { click: () => copy(data.command, sweeping) } }, "Copy");
    const commandShown = (text) => command.replaceChildren(...commandParts(text));
    const commands = el("details", { class: "dq-card dq-mx-commands" }, el("summary", {}, "As commands"),
      el("p", { class: "dq-sub" }, "The table:"), el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command of the table" }, el("code", {}, commandParts(data.command))), sweeping),
      el("p", { class: "dq-sub" }, "The plan:"), el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command of the plan" }, command), copying));

    // Everything that follows the plan.
    let settling = 0;
    let asking = 0;
    function shown() {
      const sums = plan.totals(view.metric, state.device);
      const own = ++asking;
      state.interval = null;
      state.measured = measuredOf();
      const tell = () => totals.show({ totals: sums, metric: view.metric, interval: state.interval, measured: state.measured, feasible: feasibility(state.budgets, sums, plan) });
      tell();
      acts.show();
      table.show();
      diff.show();
      look.show(inspected);
      const fit = data.calibrations[view.metric];
      curve.mark(sums.avg_bits, fit ? calibrated(fit, sums.loss) : sums.loss);
      keepAddress();
      root.dataset.plan = plan.text().plan;
      clearTimeout(settling);
      settling = setTimeout(async () => {
        const answer = await ask("appraise").catch((e) => ({ error: `The server did not answer: ${e.message || e}` }));
        if (own !== asking || !root.contains(notes)) return;
        if (answer.error) return say([answer.error]);
        state.interval = answer.predicted_loss;
        if (plan.text().plan !== state.solved) commandShown(answer.command);
        tell();
      }, SETTLED);
    }
    const measuredOf = () => (state.loaded && state.loaded.text === plan.text().plan ? state.loaded.record.verified : null);

    plan.watch(() => {
      matrix.draw();
      matrix.tell();
      key.show(matrix.range(), view);
      shown();
    });

    async function load(name) {
      const found = await fetchPlan(name);
      if (found.error) return say([found.error], "dq-bad");
      say([]);
      const labels = plan.read(found.plan);
      plan.take(found.plan, name);
      state.loaded = { name, record: found.record, text: plan.text().plan };
      if (plan.differs(labels).length === 0) shown();
    }

    // A plan is kept, and drawn where that is asked for, by a job.
    async function start(what) {
      const solved = state.solved === plan.text().plan;
      const begun = await ask("start", { ...what, solved });
      if (begun.error) return status.say(begun.error);
      await followed(begun.job);
    }
    async function followed(job) {
      const ended = await status.follow(job);
      if (!ended) return;
      const fresh = JSON.parse(await server.precision({ study: ended.study ?? data.study, table: data.table }));
      if (fresh.error || fresh.empty) return say([fresh.error ?? "The study has no table any more."]);
      if (fresh.study !== data.study) return open({ study: fresh.study, table: fresh.table });
      const before = new Map(data.allocations.map((a) => [a.name, JSON.stringify(a)]));
      Object.assign(data, { allocations: fresh.allocations, calibrations: fresh.calibrations });
      tools.show();
      diff.lists();
      const made = fresh.allocations.find((a) => before.get(a.name) !== JSON.stringify(a));
      if (made) {
        const found = await fetchPlan(made.name);
        if (!found.error) state.loaded = { name: made.name, record: found.record, text: textOf(found.plan) };
        status.say(`Kept as ${made.name}.`);
      }
      shown();
      curve.refresh();
    }
    const textOf = (written) => {
      const labels = plan.read(written);
      return plan.differs(labels).length ? "" : plan.text().plan;
    };

    // The address names the study, the table, the plan and how the matrix is looked at; what is on the desk is behind the #.
    function keepAddress() {
      const url = new URL(location.href);
      const values = { study: data.study, table: data.table, plan: state.loaded?.name, operand: view.operand === "both" ? "" : view.operand, bits: view.bits, metric: view.metric === data.metric ? "" : view.metric };
      for (const k of NAMED) values[k] ? url.searchParams.set(k, values[k]) : url.searchParams.delete(k);
      const { plan: desk, pins } = plan.text();
      url.hash = new URLSearchParams({ desk, ...(pins ? { pins } : {}), ...state.budgets, ...(state.qkv ? { qkv: 1 } : {}) });
      if (url.href !== location.href) history.replaceState(null, "", url);
    }

    undoKeys = (e) => {
      if (!(e.ctrlKey || e.metaKey) || e.altKey || !root.contains(matrix.node)) return;
      if (e.target.closest?.("input[type=text], input[type=number], textarea")) return;
      const k = e.key.toLowerCase();
      if (k !== "z" && k !== "y") return;
      e.preventDefault();
      k === "y" || e.shiftKey ? plan.redo() : plan.undo();
    };

    const head = tables.headline({ kind: "headline", title: data.title, badges: [{ text: data.evidence, tone: data.evidence }], facts: data.facts, claims: [], notes: [] });
    head.querySelector(".dq-head").append(el("div", { class: "dq-fields" }, sources(data)));
    const kept = data.kept.length ? el("details", { class: "dq-mx-kept" }, el("summary", {}, `${data.kept.length} layers are not in this table`), el("ul", { class: "dq-list" }, data.kept.map((s) => el("li", {}, el("span", { class: "dq-mono" }, s.name), ` ${s.reason}`)))) : "";
    const card = el("section", { class: "dq-card dq-mx-card" },
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "What rounding costs, and the bits of the plan"), el("p", { class: "dq-lede" }, "Colour: cost of that cell alone. Number: bits that the plan gives it."))),
      viewBar({ data, view, redraw, lay: () => { matrix.lay(); key.show(matrix.range(), view); }, folding: (shut) => matrix.foldAll(shut) }),
      key.node, matrix.node, acts.node, kept);
    root.replaceChildren(head, notes, totals.node,
      el("div", { class: "dq-mx-desk" }, el("div", { class: "dq-mx-main" }, card, look.node), el("div", { class: "dq-mx-side" }, budgets.node, curve.node)),
      el("section", { class: "dq-card" }, el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Plan"), el("p", { class: "dq-lede" }, "Keep it, take it along, or send it: the link holds the plan, its pins and budgets."))), tools.node),
      table.node, diff.node, commands);
    say(data.notes);
    matrix.lay();
    await begin();
    key.show(matrix.range(), view);
    curve.refresh();
    root.dataset.shown = data.table;
    root.pixelOf = (name, column) => matrix.spot(data.sites.findIndex((s) => s.name === name) * plan.columns + column);
    if (data.job) followed(data.job);

    // What the link holds, else the plan that it names, else the study's latest, else a uniform one.
    async function begin() {
      const desk = new URLSearchParams(hash);
      const named = query.plan ?? (desk.has("desk") ? null : data.allocations.at(-1)?.name);
      const found = named ? await fetchPlan(named) : null;
      const labels = found && !found.error ? plan.read(found.plan) : first[2]();
      if (found?.error) say([`${found.error}. Beginning with ${first[1]}.`]);
      plan.begin(labels);
      if (found && !found.error) state.loaded = { name: named, record: found.record, text: plan.text().plan };
      if (!desk.has("desk")) return shown();
      const held = plan.parsed(desk.get("desk"), desk.get("pins"));
      if (held) plan.begin(held.labels, held.pins);
      else say([`The plan in the link is none of this table. Showing ${named ?? first[1]}.`]);
      shown();
    }
  }

  // No table: of a study, or at all.
  function empty(data) {
    const node = tables.empty(data.empty);
    const command = el("code", {}, commandParts(data.empty.command));
    const copying = el("button", { type: "button", class: "dq-small", on: { click: () => copy(command.textContent, copying) } }, "Copy");
    const status = jobStatus(server);
    const model = options(el("select", { class: "dq-select", "aria-label": "Model to measure" }), data.models.map((m) => [m.key, m.title, ""]));
    const tier = options(el("select", { class: "dq-select", "aria-label": "Tier of the sweep" }), data.tiers.map(([k, t]) => [k, t, ""]));
    tier.value = "gradient";
    const go = el("button", { type: "button", class: "dq-primary" }, "Measure now");
    const follow = async (job) => {
      go.disabled = true;
      const ended = await status.follow(job);
      go.disabled = false;
      if (ended) open({ study: ended.study ?? data.study });
    };
    const worded = () => command.replaceChildren(...commandParts(data.empty.command.replace(/sensitivity \S+/, (t) => (model.value ? `sensitivity ${model.value}` : t)) + (tier.value === "gradient" ? "" : ` --tier ${tier.value}`)));
    model.addEventListener("change", worded);
    tier.addEventListener("change", worded);
    go.addEventListener("click", async () => {
      const begun = JSON.parse(await server.precision_start({ what: "sweep", study: data.study, model: model.value, tier: tier.value }));
      begun.error ? status.say(begun.error) : follow(begun.job);
    });
    node.append(data.can || data.study ? el("div", { class: "dq-emptyline" }, data.models.length ? model : "", tier, go) : "", status.node, el("p", { class: "dq-sub" }, "or on the command line:"),
      el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, command), copying));
    const others = sources(data).filter(Boolean);
    root.replaceChildren(...data.notes.map((t) => el("p", { class: "dq-note dq-warn" }, t)), others.length ? el("div", { class: "dq-fields" }, others) : "", node);
    root.dataset.shown = "empty";
    if (data.job) follow(data.job);
  }

  open(address, location.hash.slice(1));
  return {};
}
