// What the matrix shows, which of its rows, and what is done with the chosen cells.
import { choice, el, options } from "../tools.js";

export const short = (value, digits = 3) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
};

// What is shown, as a link may name it.
export function viewOf(data, asked) {
  const swept = data.formats.filter((f) => data.cells[data.metric].weight[f.label] || data.cells[data.metric].activation[f.label]).map((f) => f.label).filter((b) => b !== "16");
  const pick = (value, allowed, plain) => (allowed.includes(value) ? value : plain);
  const metrics = data.metrics.map(([key]) => key);
  const view = {
    swept,
    operand: pick(asked.operand, ["both", "weight", "activation"], "both"),
    bits: pick(asked.bits, [...swept, "plan"], swept.includes("4") ? "4" : swept[0]),
    metric: pick(asked.metric, metrics, data.metric),
    group: "", role: "", block: "", pattern: null, short,
    shows: (s) => (!view.group || s.group === view.group) && (!view.role || s.role === view.role) && (!view.block || s.block === view.block) && (!view.pattern || view.pattern.test(s.name)),
  };
  return view;
}

export function viewBar({ data, view, redraw, lay, folding }) {
  const field = (label, entries, key, then) => {
    const select = options(el("select", { class: "dq-select", "data-field": key }), entries);
    select.value = view[key];
    select.addEventListener("change", () => { view[key] = select.value; then(select.value); });
    return el("label", { class: "dq-field" }, el("span", {}, label), select);
  };
  const unique = (name) => [...new Set(data.sites.map((s) => s[name]))];
  const groups = unique("group");
  const metric = data.metrics.length > 1 ? field("Metric", data.metrics.map(([k, t]) => [k, t, ""]), "metric", () => redraw(true)) : "";
  // A metric group has a metric of its own, where the table has it.
  const grouped = (group) => {
    view.metric = group ? data.metric_of[group] : data.metric;
    bar.show();
    lay();
    redraw(true);
  };
  const why = el("p", { class: "dq-why", role: "alert", hidden: true, id: "dq-mx-why" });
  const pattern = el("input", { type: "text", class: "dq-input", placeholder: "e.g. attn1|ff", "aria-label": "Layers whose name matches a regular expression", "aria-describedby": "dq-mx-why", spellcheck: "false", "data-field": "pattern" });
  pattern.addEventListener("input", () => {
    try {
      view.pattern = pattern.value ? new RegExp(pattern.value) : null;
      why.hidden = true;
    } catch (e) {
      why.hidden = false;
      why.textContent = `No regular expression (${e.message.replace(/^Invalid regular expression: /, "")}); the rows stay as they are.`;
    }
    pattern.setAttribute("aria-invalid", String(!why.hidden));
    if (why.hidden) lay();
  });
  const operand = data.windows.length ? choice("Operand", [["both", "Both"], ["weight", "Weights"], ["activation", "Activations"]], view.operand, (v) => { view.operand = v; lay(); redraw(); }) : "";
  const button = (text, f) => el("button", { type: "button", class: "dq-small", on: { click: f } }, text);
  const node = el("div", { class: "dq-mx-bar" },
    el("div", { class: "dq-fields" },
      el("div", { class: "dq-field" }, el("span", {}, "Operand"), operand),
      field("Cost at", [...view.swept.map((b) => [b, `${b} bits`, ""]), ["plan", "bits of the plan", ""]], "bits", () => redraw()),
      metric,
      groups.length > 1 ? field("Metric group", [["", "all", ""], ...groups.map((g) => [g, g, ""])], "group", grouped) : ""),
    el("div", { class: "dq-fields" },
      field("Role", [["", "all roles", ""], ...unique("role").map((r) => [r, r.replaceAll("_", " "), ""])], "role", lay),
      field("Block", [["", "all blocks", ""], ...unique("block").map((b) => [b, b, ""])], "block", lay),
      el("label", { class: "dq-field" }, el("span", {}, "Name matches"), pattern),
      el("div", { class: "dq-pair" }, button("Open all", () => folding(false)), button("Close all", () => folding(true)))),
    why);
  const bar = { node, show: () => { if (metric) metric.querySelector("select").value = view.metric; } }; // after a plan has brought its own
  return bar;
}

// The colours, as far as they reach, with what the marks mean.
export function legend(data) {
  const bar = el("span", { class: "dq-mx-ramp", style: `background: linear-gradient(90deg, ${data.colours.join(", ")})` });
  const [low, high] = [el("span", { class: "dq-mono" }), el("span", { class: "dq-mono" })];
  const what = el("span", {});
  const node = el("p", { class: "dq-mx-legend" }, el("span", { class: "dq-mx-scale" }, low, bar, high), what,
    el("span", {}, el("i", { class: "dq-mx-hatch", "aria-hidden": "true" }), "inside the noise floor"),
    el("span", {}, el("i", { class: "dq-mx-pin", "aria-hidden": "true" }), "pinned"));
  return {
    node,
    show(range, view) {
      low.textContent = range ? short(range.low, 2) : "";
      high.textContent = range ? short(range.high, 2) : "";
      const title = new Map(data.metrics).get(view.metric);
      what.textContent = `${title} at ${view.bits === "plan" ? "the plan's bits" : `${view.bits} bits`}, log scale, ${data.evidence}`;
    },
  };
}

const HOW = matchMedia("(pointer: coarse)").matches ? "Choose cells: tap; hold and draw a rectangle" : "Choose cells: click, drag, Shift, Ctrl";

// Bits, pins and steps back for the chosen cells.
export function actions({ data, plan, matrix, begin, drop, touched }) {
  const many = el("strong", { class: "dq-mx-many", role: "status" });
  const formats = data.formats.filter((f) => /^\d+$/.test(f.label) || !f.weight || !f.activation);
  const buttons = formats.map((f) => {
    const button = el("button", { type: "button", class: "dq-mx-bits", "data-bits": f.label, "aria-label": `Set ${f.label}${/^\d/.test(f.label) ? " bits" : ""}` }, f.label);
    button.addEventListener("click", () => set(f.label));
    return button;
  });
  const button = (text, label, f) => el("button", { type: "button", class: "dq-small", title: label, on: { click: f } }, text);
  const pin = button("Pin", "A solver leaves pinned cells as they are (P)", () => plan.pin(matrix.selection(), true));
  const unpin = button("Unpin", "Let a solver choose (U)", () => plan.pin(matrix.selection(), false));
  const free = button("Unpin all", "Let a solver choose everything", () => plan.pin(plan.pins(), false));
  const undo = button("Undo", "Ctrl+Z", () => plan.undo());
  const redo = button("Redo", "Ctrl+Shift+Z", () => plan.redo());
  const discard = button("Discard edits", "Back to the plan that this table opens with; Undo brings the edits back", drop);
  const every = button("Select shown", "All cells that are shown (Ctrl+A in the matrix)", () => matrix.all());
  const none = button("Clear selection", "Escape", () => matrix.choose([]));
  const uniform = options(el("select", { class: "dq-select", "aria-label": "Begin again with a uniform plan" }), [["", "Start from …", ""], ...begin.map(([key, text]) => [key, text, ""])]);
  uniform.addEventListener("change", () => {
    const found = begin.find(([key]) => key === uniform.value);
    uniform.value = "";
    if (found) plan.take(found[2](), found[1]);
  });
  const note = el("p", { class: "dq-sub", role: "status" });

  function set(label) {
    const chosen = matrix.selection();
    const refused = chosen.filter((cell) => plan.against(cell, label));
    plan.set(chosen, label);
    note.textContent = refused.length ? `${refused.length} of ${chosen.length} cells stay: ${plan.against(refused[0], label)}.` : "";
  }

  function show() {
    const chosen = matrix.selection();
    many.textContent = chosen.length ? `${chosen.length} cell${chosen.length === 1 ? "" : "s"} chosen` : HOW;
    const operands = [...new Set(chosen.map((cell) => plan.operandOf(cell)))];
    const held = new Set(chosen.map((cell) => plan.label(cell)));
    buttons.forEach((b, i) => {
      const f = formats[i];
      const whys = operands.map((operand) => f[operand]);
      const refused = chosen.length && whys.every(Boolean);
      // Not `disabled`, which would take the reason away from the keyboard and from screen readers.
      b.setAttribute("aria-disabled", String(!chosen.length || refused));
      b.title = refused ? whys[0] : chosen.length ? `Set ${f.label} (pinned)` : "Choose cells first";
      b.setAttribute("aria-pressed", String(held.size === 1 && held.has(f.label)));
    });
    for (const b of [pin, unpin, none]) b.disabled = !chosen.length;
    const pinned = plan.pins().length;
    free.disabled = !pinned;
    free.textContent = pinned ? `Unpin all (${pinned})` : "Unpin all";
    const { back, on } = plan.undone();
    undo.disabled = back === undefined;
    redo.disabled = on === undefined;
    undo.title = back === undefined ? "Nothing to undo" : `Undo: ${back} (Ctrl+Z)`;
    discard.disabled = !touched();
    redo.title = on === undefined ? "Nothing to redo" : `Redo: ${on} (Ctrl+Shift+Z)`;
  }

  for (const b of buttons) b.addEventListener("click", (e) => { if (b.getAttribute("aria-disabled") === "true") { note.textContent = b.title; e.stopImmediatePropagation(); } }, true);
  const keys = { p: () => plan.pin(matrix.selection(), true), u: () => plan.pin(matrix.selection(), false) };
  return {
    show,
    // Whether a key in the matrix was one of ours.
    onKey(key) {
      if (/^[2-8]$/.test(key)) set(key);
      else if (keys[key.toLowerCase()]) keys[key.toLowerCase()]();
      else return false;
      return true;
    },
    node: el("div", { class: "dq-mx-actions" }, el("div", { class: "dq-mx-line" }, many, every, none),
      el("div", { class: "dq-mx-line" }, el("div", { class: "dq-mx-bitsgroup", role: "group", "aria-label": "Bits of the chosen cells" }, buttons), pin, unpin, free, el("span", { class: "dq-space" }), undo, redo, discard, uniform), note),
  };
}
