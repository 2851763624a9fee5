// Panels about one input at one step: cards that stay where they are while what they show changes.
import { exportButtons } from "./exports.js";
import { drawPlot, loadPlotly, redraws, svgOf, withoutLegend } from "./plots.js";
import { drawers as tables } from "./tables.js";
import { badge, choice, commandParts, copy, el, options } from "./tools.js";

// What can be chosen on a panel: by buttons, and by drop-downs whose entries the server names.
const CHOICES = {
  values: [
    ["bits", "Bits", [["4", "4 bit"], ["6", "6"], ["8", "8"]]],
    ["format", "Format", [["sym", "symmetric"], ["asym", "asymmetric"]]],
    ["axis", "Value axis", [["linear", "linear"], ["log", "log"]]],
  ],
  channels: [["order", "Order of the channels", [["channel", "in order"], ["size", "by size"]]]],
  tokens: [["surface", "Drawn as", [["flat", "flat"], ["3d", "3D"]]]],
};
const DROPS = { values: [["scale", "Scale"], ["cover", "Range covers"]] };

export function panelCards({ controls, choose }) {
  const node = el("div", { class: "dq-panels" });
  const cards = new Map();
  async function show(sections, chosen) {
    const keys = new Set(sections.map((s) => s.key));
    for (const [key, card] of cards) if (!keys.has(key)) { card.node.remove(); cards.delete(key); }
    let before = null;
    for (const section of sections) {
      if (!cards.has(section.key)) cards.set(section.key, panelCard(section.key, controls, choose));
      const card = cards.get(section.key);
      const place = before ? before.nextSibling : node.firstChild;
      if (card.node !== place) node.insertBefore(card.node, place);
      before = card.node;
    }
    await Promise.all(sections.map((section) => cards.get(section.key).update(section, chosen)));
  }
  return { node, show };
}

function panelCard(key, controls, choose) {
  const title = el("h2", {});
  const lede = el("p", { class: "dq-lede" });
  const tools = el("div", { class: "dq-tools" });
  const fields = el("div", { class: "dq-fields dq-panelfields" });
  const holder = el("div", { class: "dq-plot", role: "img" });
  const facts = el("dl", { class: "dq-figures" });
  const words = el("ul", { class: "dq-says" });
  const count = el("p", { class: "dq-sub" });
  const more = el("div", { class: "dq-under" });
  const node = el("section", { class: `dq-card dq-panel dq-panel-${key}`, "data-panel": key },
    el("div", { class: "dq-head" }, title, tools), lede, fields, holder, facts, words, count, more);
  const set = build();
  let section = null;
  let text = "";
  let stale = false;
  let near = false;

  function build() {
    const setters = [];
    for (const [field, label, entries] of CHOICES[key] || []) {
      const group = choice(label, entries, null, (value) => choose({ [field]: value }));
      [...group.children].forEach((b, i) => (b.dataset.value = entries[i][0]));
      fields.append(group);
      setters.push((chosen) => [...group.children].forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.value === String(chosen[field])))));
    }
    for (const [field, label] of DROPS[key] || []) {
      const select = options(el("select", { class: "dq-select" }), controls[field]);
      select.addEventListener("change", () => choose({ [field]: select.value }));
      fields.append(el("label", { class: "dq-field" }, el("span", {}, label), select));
      setters.push((chosen) => { select.value = String(chosen[field]); });
      if (field === "cover") setters.push((chosen) => { select.disabled = chosen.scale === "row"; });
    }
    return (chosen) => setters.forEach((f) => f(chosen));
  }

  // Only what is in view, or nearly, is drawn at once.
  const looked = new Promise((resolve) => {
    new IntersectionObserver((seen) => {
      near = seen[seen.length - 1].isIntersecting;
      resolve();
      if (near && stale) draw();
    }, { rootMargin: "160px" }).observe(holder);
  });
  redraws.add({ node: holder, draw: () => (near ? draw() : (stale = true)) });

  let drawing = Promise.resolve();
  function draw() {
    stale = false;
    return (drawing = drawing.then(drawNow));
  }

  async function drawNow() {
    if (!section.figure) return;
    const P = await loadPlotly();
    const kind = section.figure.data[0].type;
    if (holder.dataset.kind && holder.dataset.kind !== kind) P.purge(holder);
    holder.dataset.kind = kind;
    try {
      await drawPlot(holder, section);
    } catch (e) {
      holder.replaceChildren(el("p", { class: "dq-note dq-warn" }, `This cannot be drawn here: ${e.message || e}`));
    }
  }

  async function update(next, chosen) {
    set(chosen);
    const now = JSON.stringify(next);
    if (now === text) return;
    text = now;
    section = next;
    title.replaceChildren(next.title, " ", ...(next.badges || []).map(badge));
    lede.textContent = next.lede || "";
    node.classList.toggle("dq-widepanel", Boolean(next.wide));
    if (next.kind === "hint") return hint(next);
    tools.replaceChildren(...exportButtons(withoutLegend(next), () => svgOf(next)));
    holder.setAttribute("aria-label", next.alt);
    holder.style.minHeight = `${Number(next.height)}px`;
    holder.hidden = false;
    facts.replaceChildren(...(next.facts || []).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    words.replaceChildren(...(next.words || []).map((w) => el("li", {}, w)));
    count.textContent = next.count ? `${next.count}.` : "";
    const open = more.querySelector("details")?.open;
    more.replaceChildren(next.table ? folded(next.table, open) : "");
    stale = true;
    await looked;
    if (near && stale) await draw();
  }

  function hint(next) {
    holder.hidden = true;
    words.replaceChildren(el("li", {}, next.text));
    if (!next.command) return more.replaceChildren();
    const button = el("button", { type: "button", class: "dq-small" }, "Copy");
    button.addEventListener("click", () => copy(next.command, button));
    more.replaceChildren(el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(next.command))), button));
  }

  // A click in a plot over the steps goes to the step under the pointer.
  holder.addEventListener("click", (e) => {
    const layout = holder._fullLayout;
    const ridges = layout?.meta?.steps;
    if (!layout || !["ridge", "line", "rows"].includes(key)) return;
    const box = holder.getBoundingClientRect();
    const { xaxis: x, yaxis: y } = layout;
    const [px, py] = [e.clientX - box.left - x._offset, e.clientY - box.top - y._offset];
    if (px < 0 || py < 0 || px > x._length || py > y._length) return;
    const step = ridges ? ridges[Math.min(Math.max(Math.floor(y.p2l(py)), 0), ridges.length - 1)] : Math.round(x.p2l(px));
    choose({ step: Math.min(Math.max(step, 0), controls.timesteps.length - 1) });
  });
  return { node, update };
}

function folded(table, open) {
  const card = tables.table(table);
  card.className = "dq-inner";
  const details = el("details", {}, el("summary", {}, table.title), card);
  details.open = Boolean(open);
  return details;
}
