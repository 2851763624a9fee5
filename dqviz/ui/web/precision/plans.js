// Plans: the one on the desk as a table with drop-downs and as a difference, and those of the study.
import { copy, el, options, save } from "../tools.js";
import { short } from "./bar.js";
import { plural } from "./totals.js";

const LARGE = 1600; // drop-downs at once; of more, one block at a time
const MOST_LINES = 200; // of a difference
const SEEDS = [2, 10000]; // of a verification

// Saving, verifying, loading, taking along.
export function planTools({ data, ask, start, load, link, status }) {
  const button = (text, kind, f) => el("button", { type: "button", class: kind, on: { click: f } }, text);
  const said = el("span", { class: "dq-sub", role: "status" });
  const saved = el("select", { class: "dq-select", "aria-label": "Load a plan of the study" });
  saved.addEventListener("change", () => { const name = saved.value; saved.value = ""; if (name) load(name); });
  const download = button("Download JSON", "dq-small", async () => {
    const file = await ask("file");
    said.textContent = file.error || "";
    if (!file.error) save(new Blob([file.text], { type: "application/json" }), file.name);
  });
  download.title = "As dqviz quantize --plan takes it";
  const keep = button("Save into the study", "dq-small", async () => {
    keep.disabled = true;
    await start({ verify: 0, calibrate: 0 }, status).finally(() => { keep.disabled = false; });
  });
  const share = button("Copy link", "dq-small", () => copy(link(), share));
  const show = () => {
    options(saved, [["", data.allocations.length ? "Load a plan …" : "No plan is kept yet", ""], ...data.allocations.map((a) => [a.name, `${a.name}${a.verified ? ", verified" : ""}`, ""])]);
    saved.value = "";
    saved.disabled = !data.allocations.length;
  };
  show();
  return { node: el("div", {}, el("div", { class: "dq-mx-line" }, saved, keep, download, share, said), status.node), show };
}

export function verifyBox({ data, start, status }) {
  const seeds = el("input", { type: "number", class: "dq-input", min: SEEDS[0], max: SEEDS[1], value: 16, id: "dq-seeds", "aria-label": "Seeds to draw with the plan", "aria-describedby": "dq-why-seeds" });
  const why = el("p", { class: "dq-why", role: "alert", hidden: true, id: "dq-why-seeds" });
  const calibrate = el("input", { type: "checkbox", id: "dq-calibrate" });
  const go = el("button", { type: "button", class: "dq-secondary", id: "dq-verify" }, "Verify");
  const fits = () => {
    const count = Number(seeds.value);
    why.hidden = Number.isInteger(count) && count >= SEEDS[0] && count <= SEEDS[1];
    why.textContent = why.hidden ? "" : `A whole number from ${SEEDS[0]} to ${SEEDS[1]} can be drawn.`;
    seeds.setAttribute("aria-invalid", String(!why.hidden));
    return why.hidden;
  };
  seeds.addEventListener("change", fits);
  go.addEventListener("click", async () => {
    if (!fits()) return seeds.focus();
    go.disabled = true;
    await start({ verify: Number(seeds.value), calibrate: calibrate.checked ? data.fewest : 0 }, status).finally(() => { go.disabled = false; });
  });
  const first = el("span", {});
  const node = el("div", { class: "dq-verify" },
    el("h3", {}, "Measured beside predicted"),
    el("p", { class: "dq-sub" }, "Draws the plan on seeds that nothing was chosen by, and keeps it in the study."),
    el("div", { class: "dq-mx-line" }, el("label", { class: "dq-check" }, seeds, "seeds"), go), why,
    el("label", { class: "dq-check" }, calibrate, first),
    status.node);
  return {
    node,
    show(metric) {
      first.textContent = data.calibrations[metric] ? `Draw ${data.fewest} other plans anew first: predictions get another interval` : `First draw ${data.fewest} other plans, which gives predictions an interval`;
    },
  };
}

// The plan as a table: a drop-down for every cell, block by block where they are many.
export function planTable({ data, plan }) {
  const blocks = [...new Set(data.sites.map((s) => s.block))];
  const large = plan.count > LARGE;
  const block = options(el("select", { class: "dq-select", "aria-label": "Block" }), [...(large ? [] : [["", "all blocks", ""]]), ...blocks.map((b) => [b, b, ""])]);
  const body = el("tbody", {});
  const selects = new Map();
  const heads = ["weight", ...data.windows];
  const details = el("details", { class: "dq-card dq-plantable" }, el("summary", {}, "The plan as a table"),
    el("div", { class: "dq-fields" }, el("label", { class: "dq-field" }, el("span", {}, "Block"), block)),
    el("div", { class: "dq-scroll dq-tall", tabindex: "0", role: "region", "aria-label": "The plan as a table" },
      el("table", { class: "dq-table dq-compact" }, el("caption", { class: "dq-offscreen" }, "Bits of every layer"),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Layer"), el("th", { scope: "col" }, "Role"), heads.map((h) => el("th", { scope: "col" }, h)))), body)));

  function fill() {
    selects.clear();
    const sites = data.sites.map((s, i) => [s, i]).filter(([s]) => !block.value || s.block === block.value);
    body.replaceChildren(...sites.map(([s, i]) => el("tr", {}, el("th", { scope: "row" }, `${s.block} · ${s.label}`), el("td", {}, s.role), heads.map((h, c) => {
      const cell = i * plan.columns + c;
      const select = options(el("select", { class: "dq-cellselect", "aria-label": `${s.block} ${s.label}, ${c ? `input in ${h}` : h}`, title: s.name }), plan.possible(cell).map((b) => [b, b, ""]));
      select.addEventListener("change", () => plan.set([cell], select.value));
      selects.set(cell, select);
      return el("td", {}, select);
    }))));
    show();
  }
  function show() {
    if (!details.open) return;
    for (const [cell, select] of selects) {
      select.value = plan.label(cell);
      select.classList.toggle("dq-pinnedcell", plan.pinned(cell));
    }
  }
  block.addEventListener("change", fill);
  details.addEventListener("toggle", () => { if (details.open && !selects.size) fill(); else show(); });
  return { node: details, show };
}

// What differs from another plan.
export function planDiff({ data, plan, view, bases, fetchPlan }) {
  const against = el("select", { class: "dq-select", "aria-label": "Compare the plan with" });
  const list = el("div", {});
  const details = el("details", { class: "dq-card dq-plandiff" }, el("summary", {}, "What differs from another plan"),
    el("div", { class: "dq-fields" }, el("label", { class: "dq-field" }, el("span", {}, "Compared with"), against)), list);
  let other = null; // labels

  const lists = () => {
    const before = against.value;
    options(against, [...bases.map(([key, text]) => [key, text, "uniform"]), ...data.allocations.map((a) => [`=${a.name}`, a.name, "of the study"])]);
    if ([...against.options].some((o) => o.value === before)) against.value = before;
  };
  async function pick() {
    const picked = against.value;
    const base = bases.find(([key]) => key === picked);
    if (base) other = base[2]();
    else {
      const found = await fetchPlan(picked.slice(1));
      if (against.value !== picked) return; // another was picked since
      other = null; // what the list named before
      if (found.error) return list.replaceChildren(el("p", { class: "dq-note dq-bad", role: "alert" }, found.error));
      other = plan.read(found.plan);
    }
    show();
  }
  function show() {
    if (!details.open || !other) return;
    const cells = plan.differs(other);
    const named = (f) => data.formats[f].label;
    const bySite = new Map();
    for (const cell of cells) bySite.set(plan.siteOf(cell), [...(bySite.get(plan.siteOf(cell)) ?? []), cell]);
    let delta = 0;
    const cost = (cell, label) => Math.max(0, plan.told(view.metric, cell, label)?.cost ?? 0);
    for (const cell of cells) delta += cost(cell, plan.label(cell)) - cost(cell, named(other[cell]));
    const rows = [...bySite].slice(0, MOST_LINES).map(([s, own]) => el("tr", {}, el("th", { scope: "row" }, `${data.sites[s].block} · ${data.sites[s].label}`),
      el("td", {}, changes(own)), el("td", { class: "dq-num" }, signed(own.reduce((sum, cell) => sum + cost(cell, plan.label(cell)) - cost(cell, named(other[cell])), 0)))));
    function changes(own) {
      const said = new Map();
      for (const cell of own) {
        const c = plan.columnOf(cell);
        const text = `${c ? "a" : "w"} ${named(other[cell])} → ${plan.label(cell)}`;
        said.set(text, [...(said.get(text) ?? []), c ? data.windows[c - 1] : null]);
      }
      return [...said].map(([text, where]) => (where[0] === null || where.length === data.windows.length ? text : `${text} (${where.join(", ")})`)).join("; ");
    }
    list.replaceChildren(
      el("p", { class: "dq-lede", role: "status" }, cells.length ? `${plural(cells.length, "cell")} in ${plural(bySite.size, "layer")} ${cells.length === 1 ? "differs" : "differ"}; the sum of costs is ${signed(delta)}.` : "No cell differs."),
      cells.length ? el("div", { class: "dq-scroll dq-tall", tabindex: "0", role: "region", "aria-label": "Differences" },
        el("table", { class: "dq-table dq-compact" }, el("thead", {}, el("tr", {}, ["Layer", "Bits", "Cost"].map((t, i) => el("th", { scope: "col", class: i === 2 ? "dq-num" : null }, t)))), el("tbody", {}, rows))) : "",
      bySite.size > MOST_LINES ? el("p", { class: "dq-sub" }, `The first ${MOST_LINES} layers of ${bySite.size}.`) : "");
  }
  const signed = (v) => `${v > 0 ? "+" : v < 0 ? "−" : ""}${short(Math.abs(v))}`;
  against.addEventListener("change", pick);
  details.addEventListener("toggle", () => { if (details.open && !other) pick(); else show(); });
  lists();
  return { node: details, show, lists };
}
