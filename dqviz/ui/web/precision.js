// The page Sensitivity and precision: a matrix of what rounding costs, a plan set upon it, budgets, and what was measured.
// The table comes once; choosing, setting, undoing and adding up ask nobody. The address always names what is shown.
import { exportButtons } from "./exports.js";
import { answerOf } from "./precision/asking.js";
import { actions, legend, viewBar, viewOf } from "./precision/bar.js";
import { budgetPanel } from "./precision/budgets.js";
import { matrixFile } from "./precision/figures.js";
import { inspector } from "./precision/inspector.js";
import { jobStatus } from "./precision/jobs.js";
import { matrixOf } from "./precision/matrix.js";
import { pareto } from "./precision/pareto.js";
import { calibrated, planOf } from "./precision/plan.js";
import { planDiff, planTable, planTools, verifyBox } from "./precision/plans.js";
import { feasibility, totalsStrip } from "./precision/totals.js";
import { drawers as tables } from "./tables.js";
import { commandParts, copy, el, options } from "./tools.js";

const NAMED = ["study", "table", "plan", "operand", "bits", "metric"];
const SETTLED = 350; // ms after a change until its interval is asked for, and it is kept in this tab

export function precision({ element, server }) {
  const root = element.querySelector(".dq-precision");
  const asked = new URL(location.href).searchParams;
  const address = Object.fromEntries(NAMED.filter((k) => asked.has(k)).map((k) => [k, asked.get(k)]));
  let undoKeys = null;
  let leave = null; // keeps what is on the desk
  let complain = problem; // where a page is shown, it stays
  let opening = 0;
  document.addEventListener("keydown", (e) => undoKeys?.(e));
  window.addEventListener("pagehide", () => leave?.());

  // False where it did not open: what was asked for last is shown, whichever answer comes last.
  async function open(query, hash = "", told = []) {
    const own = ++opening;
    leave?.();
    const data = await answerOf(server, "precision", query);
    if (own !== opening) return true;
    if (data.error) return complain(data.error);
    const kept = keptDesk(data);
    const link = Object.fromEntries(new URLSearchParams(hash));
    const metric = query.metric || data.metric;
    const named = data.empty ? null : query.plan ?? (link.desk ? null : kept?.loaded ?? data.allocations.findLast((a) => a.metric === metric)?.name);
    const found = named ? await answerOf(server, "precision_load", { study: data.study, table: data.table, name: named }) : null;
    if (own !== opening) return true;
    leave?.(); // also what was done since
    undoKeys = leave = null;
    complain = problem;
    data.empty ? empty(data) : page(data, query, { link, named, found, told });
    return true;
  }

  // What is on the desk outlives a reload and a look at another table, with its steps back: in this tab, for this table.
  const placeOf = ({ study, table, key }) => `dqviz/desk/${study}/${table}/${key}`;
  function keepDesk(of, kept) {
    try {
      sessionStorage.setItem(placeOf(of), JSON.stringify(kept));
    } catch { /* full, or forbidden: the address still holds the plan */ }
  }
  function keptDesk(of) {
    try {
      return JSON.parse(sessionStorage.getItem(placeOf(of)));
    } catch {
      return null;
    }
  }

  function problem(text) {
    root.replaceChildren(el("p", { class: "dq-note dq-bad", role: "alert" }, text),
    el("p", { class: "dq-note" }, el("a", { href: location.pathname }, "Open this page without the choices of the link")));
    return false;
  }

  // Studies and tables to look at; none where there is nothing to choose.
  function sources(data) {
    const pick = (label, values, value, change) => {
      if (values.length < 2) return "";
      const select = options(el("select", { class: "dq-select" }), values.map((v) => [v, v, ""]));
      select.value = value;
      select.addEventListener("change", async () => { if (!await change(select.value)) select.value = value; });
      return el("label", { class: "dq-field" }, el("span", {}, label), select);
    };
    const names = Object.keys(data.studies);
    if (data.study && !names.includes(data.study)) names.unshift(data.study);
    return [pick("Study", names, data.study, (study) => open({ study })), pick("Table", data.studies[data.study] ?? [], data.table, (table) => open({ study: data.study, table }))];
  }

  function page(data, query, opened) {
    const plan = planOf(data);
    const view = viewOf(data, query);
    const state = { loaded: null, interval: null, measured: null, solved: null };
    const question = () => ({ study: data.study, table: data.table, metric: view.metric, device: plan.device(), qkv: plan.qkv(), budgets: plan.budgets(), plan: plan.written(), pins: plan.pins() });
    // What an answer is of: the plan with its budgets, pins, ties and device, and the metric.
    const asItIs = () => JSON.stringify([plan.text(), view.metric]);
    const ask = (name, more = {}) => answerOf(server, `precision_${name}`, { ...question(), ...more });
    const fetchPlan = (name) => answerOf(server, "precision_load", { study: data.study, table: data.table, name });

    // Uniform plans that the table can have.
    const ways = (operand) => data.formats.filter((f) => !f[operand]).map((f) => f.label);
    const inputs = ways("activation");
    const bases = ways("weight").map((w) => {
      const a = inputs.includes(w) ? w : inputs.includes("8") ? "8" : "16";
      return [`w${w}a${a}`, `uniform w${w}a${a}`, () => plan.uniform(w, a)];
    });
    const first = bases.find(([key]) => key === "w8a8") ?? bases.at(-1);

    const [verifying, keeping] = [jobStatus(server), jobStatus(server)];
    const notes = el("div", { class: "dq-notes", role: "status" });
    const note = (text, tone = "dq-warn") => el("p", { class: `dq-note ${tone}` }, text);
    const say = (texts, tone) => notes.replaceChildren(...texts.map((t) => note(t, tone)));
    const look = inspector({ data, plan, view, folder: data.study });
    let acts = null;
    const matrix = matrixOf({ data, plan, view, onSelect: () => acts.show(), onInspect: (cells) => look.show((inspected = cells)), onKey: (key) => acts.onKey(key) });
    const file = matrixFile({ data, plan, view, grid: matrix.grid });
    let inspected = null;
    let base = null; // what edits are discarded to
    acts = actions({ data, plan, matrix, begin: bases, drop: () => base && plan.put(base, "discard"), touched: () => base && !plan.is(base) });
    const key = legend(data);
    const totals = totalsStrip({ data });
    totals.devices.addEventListener("change", () => plan.predictFor(totals.devices.value));
    const verify = verifyBox({ data, status: verifying, start });
    const budgets = budgetPanel({ data, plan, ask, asItIs, verify: verify.node, solved: (answer) => { state.solved = { text: asItIs(), command: answer.command }; curve.refresh(); commandShown(answer.command); } });
    const table = planTable({ data, plan });
    const diff = planDiff({ data, plan, view, bases, fetchPlan });
    const curve = pareto({ data, plan, view, ask, load });
    const tools = planTools({ data, ask, start, load, link: () => location.href, status: keeping });
    const redraw = (metric = false) => {
      matrix.draw();
      key.show(matrix.range(), view);
      look.show(inspected);
      if (metric) { shown(); curve.refresh(); } else keepAddress();
    };

    const bar = viewBar({ data, view, redraw, lay: () => { matrix.lay(); key.show(matrix.range(), view); }, folding: matrix.foldAll });

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
      const sums = plan.totals(view.metric);
      const own = ++asking;
      state.interval = null;
      state.measured = measuredOf();
      const tell = () => totals.show({ totals: sums, metric: view.metric, device: plan.device(), interval: state.interval, measured: state.measured, feasible: feasibility(plan.budgets(), sums, plan) });
      tell();
      totals.devices.value = plan.device();
      acts.show();
      budgets.show();
      verify.show(view.metric);
      table.show();
      diff.show();
      look.show(inspected);
      const fit = data.calibrations[view.metric];
      curve.mark(sums.avg_bits, fit ? calibrated(fit, sums.loss) : sums.loss);
      keepAddress();
      root.dataset.plan = plan.text().desk;
      commandShown(solvedAs()?.command ?? "# The command of this plan follows.");
      clearTimeout(settling);
      settling = setTimeout(async () => {
        leave?.();
        const answer = await ask("appraise");
        if (own !== asking || !root.contains(notes)) return;
        state.interval = answer.error ? answer : { ...answer.predicted_loss, within: answer.within };
        commandShown((solvedAs() ?? answer).command ?? `# ${answer.error}`);
        tell();
      }, SETTLED);
    }
    const solvedAs = () => (state.solved?.text === asItIs() ? state.solved : null);
    const measuredOf = () => (state.loaded?.desk === plan.text().desk && state.loaded.metric === view.metric ? state.loaded.verified : null);

    plan.watch(() => {
      matrix.draw();
      matrix.tell();
      key.show(matrix.range(), view);
      shown();
    });

    // A plan of the study comes with the metric, budgets, pins, ties and device that it was chosen under.
    const stateOf = (found) => plan.state(plan.read(found.plan), found.pins, found.budgets, found.qkv, found.device);
    function loadedAs(name, found) { // its notes
      state.loaded = { name, verified: found.verified, metric: found.metric, desk: plan.textOf(stateOf(found)).desk };
      return found.notes;
    }
    function byMetricOf(found) { // whether it is another than before
      const before = view.metric;
      view.metric = data.metrics.some(([key]) => key === found.metric) ? found.metric : before;
      bar.show();
      return view.metric !== before;
    }
    let loading = 0;
    async function load(name) {
      const own = ++loading;
      const found = await fetchPlan(name);
      if (own !== loading) return; // another was picked since
      if (found.error) return say([found.error], "dq-bad");
      say(loadedAs(name, found));
      const anew = byMetricOf(found);
      if (!plan.put(stateOf(found), name)) shown();
      if (anew) redraw(true);
    }

    // A plan is kept, and drawn where that is asked for, by a job.
    async function start(what, status) {
      const begun = await ask("start", { ...what, solved: Boolean(solvedAs()) });
      if (begun.error) return status.say(begun.silent ? `${begun.error} The page Runs says whether the job has begun.` : begun.error);
      await followed(begun.job, status);
    }
    async function followed(job, status) {
      const ended = await status.follow(job);
      if (!ended) return;
      const fresh = await answerOf(server, "precision", { study: ended.study ?? data.study, table: data.table });
      const { made } = ended; // by this job, whatever others have kept meanwhile
      if (fresh.error || fresh.empty) {
        status.say(`Kept as ${made}; open the page again to see it.`);
        return say([fresh.error ?? "The study has no table any more."]);
      }
      const told = (all) => JSON.stringify(all.find((a) => a.name === made));
      const [before, after] = [told(data.allocations), told(fresh.allocations)];
      if (fresh.study !== data.study) { // the copy of a recorded study: the desk goes along
        keepDesk(fresh, { desk: plan.kept(), loaded: made });
        return open({ ...viewed(), study: fresh.study, table: fresh.table }, "", [`Kept as ${made} in study ${fresh.study}, your copy of ${data.study}: it is shown now.`]);
      }
      Object.assign(data, { allocations: fresh.allocations, calibrations: fresh.calibrations });
      tools.show();
      diff.lists();
      const found = await fetchPlan(made);
      say(found.error ? [found.error] : loadedAs(made, found));
      status.say(before === after ? `Nothing new: the study keeps this plan already, as ${made}.` : before ? `Added to ${made}.` : `Kept as ${made}.`);
      shown();
      curve.refresh();
    }

    const keep = () => keepDesk(data, { desk: plan.kept(), loaded: state.loaded?.name });
    const viewed = () => ({ operand: view.operand === "both" ? "" : view.operand, bits: view.bits, metric: data.metrics.length > 1 ? view.metric : "" });

    // The address names the study, the table, the plan and how the matrix is looked at; what is on the desk is behind the #.
    function keepAddress() {
      const url = new URL(location.href);
      const values = { study: data.study, table: data.table, plan: state.loaded?.name, ...viewed() };
      for (const k of NAMED) values[k] ? url.searchParams.set(k, values[k]) : url.searchParams.delete(k);
      url.hash = new URLSearchParams(plan.text());
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
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "What rounding costs, and the bits of the plan"), el("p", { class: "dq-lede" }, "Colour: cost of that cell alone. Number: bits that the plan gives it.")), el("div", { class: "dq-tools" }, exportButtons(file, file.svg))),
      bar.node,
      key.node, matrix.node, acts.node, kept);
    const plans = el("section", { class: "dq-card" }, el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Plan"), el("p", { class: "dq-lede" }, "Keep it, take it along, or send it: the link holds the plan, its pins and budgets."))), tools.node);
    root.replaceChildren(head, notes, totals.node,
      el("div", { class: "dq-mx-desk" }, el("div", { class: "dq-mx-main" }, card, look.node, plans), el("div", { class: "dq-mx-side" }, budgets.node, curve.node)),
      table.node, diff.node, commands);
    matrix.lay();
    notes.replaceChildren(...opened.told.map((t) => note(t, "")), ...data.notes.map((t) => note(t)), ...begin(opened));
    leave = keep; // not before: what the tab has kept is read there
    complain = (text) => {
      say([text], "dq-bad");
      return false;
    };
    key.show(matrix.range(), view);
    curve.refresh();
    root.dataset.shown = data.table;
    root.pixelOf = (name, column) => matrix.spot(data.sites.findIndex((s) => s.name === name) * plan.columns + column);
    if (data.job) followed(data.job, verifying);

    // The plan that the address names, else the study's latest, else a uniform one: what edits are discarded to. Upon it
    // what this tab has kept, and upon that what the link holds, so that both can be gone back to. Notes on what is shown.
    function begin({ link, named, found }) {
      const kept = keptDesk(data);
      const opens = found && !found.error ? stateOf(found) : plan.state(first[2]());
      plan.begin(opens);
      const told = found && !found.error ? loadedAs(named, found).map((t) => note(t)) : [];
      if (found && !found.error && !query.metric) byMetricOf(found);
      const recalled = Boolean(kept && plan.recall(kept.desk));
      base = opens;
      const held = link.desk ? plan.parsed(link) : null;
      const instead = held ? "the plan of the link" : recalled ? "what this tab has kept" : found && !found.error ? named : first[1];
      if (found?.error) told.push(note(`${found.error}. Showing ${instead}.`));
      if (link.desk && !held) told.push(note(`The plan in the link is none of this table. Showing ${instead}.`));
      if (held) recalled ? plan.put(held, "link") : plan.begin(held);
      else if (query.plan && recalled && !found.error && !link.desk) plan.put(opens, query.plan);
      else if (recalled && !plan.is(opens)) told.push(note("These are your edits of this table, kept in this tab. Discard edits goes back to the plan as it was.", ""));
      shown();
      return told;
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
      const ended = await status.follow(job).finally(() => { go.disabled = false; });
      if (ended) open({ study: ended.study ?? data.study });
    };
    const worded = () => command.replaceChildren(...commandParts(data.empty.command.replace(/sensitivity \S+/, (t) => (model.value ? `sensitivity ${model.value}` : t)) + (tier.value === "gradient" ? "" : ` --tier ${tier.value}`)));
    model.addEventListener("change", worded);
    tier.addEventListener("change", worded);
    go.addEventListener("click", async () => {
      const begun = await answerOf(server, "precision_start", { what: "sweep", study: data.study, model: model.value, tier: tier.value });
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
