// Sections of words and numbers: tables, headline, the empty page, commands, downloads.
import { exportButtons } from "./exports.js";
import { badge, commandParts, copy, el, heading, save, swatch } from "./tools.js";

function cell(c, tag, extra = {}) {
  const node = el(tag, { ...extra, title: c.title });
  if (c.run !== undefined && c.run !== null) node.append(swatch(c.run));
  if (c.badge) node.append(badge(c.badge));
  if (c.text) node.append(el("span", { class: "dq-value" }, c.text));
  if (c.sub) node.append(el("span", { class: "dq-sub" }, c.sub));
  return node;
}

function drawTable(section) {
  const table = el("table", { class: "dq-table" }, el("caption", { class: "dq-offscreen" }, section.title));
  table.append(el("thead", {}, el("tr", {}, section.columns.map((c, i) =>
    el("th", { scope: "col", class: c.words ? "dq-words" : i ? "dq-num" : null, title: c.hint }, c.label, c.unit ? el("span", { class: "dq-unit" }, ` ${c.unit}`) : "")))));
  table.append(el("tbody", {}, section.rows.map((r) => el("tr", { class: r.mark ? `dq-row-${r.mark}` : null }, r.cells.map((c, i) =>
    i ? cell(c, "td", { class: c.words ? "dq-words" : "dq-num" }) : cell(c, "th", { scope: "row" }))))));
  const root = el("section", { class: "dq-card" }, heading(section, exportButtons(section)),
    el("div", { class: "dq-scroll", tabindex: "0", role: "region", "aria-label": section.title }, table));
  if (section.note) root.append(el("p", { class: "dq-lede" }, section.note));
  for (const d of section.details || []) {
    root.append(el("details", {}, el("summary", {}, d.summary), el("ul", { class: "dq-list" }, d.lines.map((l) => el("li", {}, l)))));
  }
  return root;
}

function drawHeadline(section) {
  const badges = [...new Map((section.badges || []).map((b) => [b.text, b])).values()]; // each once, the last told
  return el("section", { class: "dq-headline" },
    el("div", { class: "dq-head" },
      el("div", {}, el("h2", {}, section.title, " ", badges.map(badge)),
        el("p", { class: "dq-facts" }, section.facts.map((f) => el("span", {}, f))))),
    section.claims.length ? el("ul", { class: "dq-claims" }, section.claims.map((c) =>
      el("li", { class: `dq-claim dq-${c.tone}` }, el("span", { class: "dq-claim-text" }, c.text), c.sub ? el("span", { class: "dq-sub" }, c.sub) : ""))) : "",
    (section.notes || []).map((n) => el("p", { class: `dq-note dq-${n.tone}` }, n.text)));
}

function drawEmpty(section) {
  const ghost = el("div", { class: "dq-ghost", "aria-hidden": "true" });
  for (let i = 0; i < 12; i++) ghost.append(el("span", { style: `--i:${i}` }));
  return el("section", { class: "dq-empty" }, ghost, el("h2", {}, section.title), el("p", {}, section.text),
    el("ol", {}, section.steps.map((s) => el("li", {}, el("strong", {}, s.title), " ", s.text))));
}

function drawCommand(section) {
  const button = el("button", { type: "button", class: "dq-small" }, "Copy");
  button.addEventListener("click", () => copy(section.text, button));
  return el("section", { class: "dq-card dq-command" }, heading(section, button),
    el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(section.text))));
}

function drawDownloads(section, context) {
  const row = el("div", { class: "dq-downloads" });
  for (const item of section.items) {
    const button = el("button", { type: "button", class: "dq-secondary" }, item.label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const file = await context.server.study_file({ study: section.study, file: item.file });
        if (file.error) throw new Error(file.error);
        const bytes = Uint8Array.from(atob(file.base64), (c) => c.charCodeAt(0));
        save(new Blob([bytes], { type: file.type }), file.name);
      } catch (e) {
        row.append(el("span", { class: "dq-note dq-bad", role: "alert" }, String(e.message || e)));
      } finally {
        button.disabled = false;
      }
    });
    row.append(button);
  }
  return el("section", { class: "dq-card" }, heading(section), row);
}

function drawRecord(section) {
  return el("section", { class: "dq-card" }, heading(section),
    el("details", {}, el("summary", {}, section.summary), el("pre", { class: "dq-record", tabindex: "0", "aria-label": section.summary }, section.text)));
}

export const drawers = { command: drawCommand, record: drawRecord, downloads: drawDownloads, empty: drawEmpty, headline: drawHeadline, table: drawTable };
