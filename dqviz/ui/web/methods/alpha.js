// Alpha: a map of all inputs, the curves of one, and a click that sets alpha for an input, its kind or all.
import { drawers as plots } from "../plots.js";
import { drawers as tables } from "../tables.js";
import { badge, choice, el, heading } from "../tools.js";
import { outcome } from "./outcome.js";

function drawAlpha(section, context) {
  const { alphas, scopes, rows } = section;
  let { settings } = section; // as asked for last; the answer draws the section anew
  let scope = scopes.find((s) => s.key === section.scope) ?? scopes[0];
  const written = (list) => list.map((s) => `${s.name}:${s.alpha}`).join(";");
  const past = context.alphaPast; // what undo goes back to; outlives a redraw

  function put(next, more = {}) {
    past.push(written(settings));
    settings = next;
    return context.choose({ alphas: written(next), ...more }, "site" in more ? undefined : ["alpha"]);
  }
  // What a name covers is set anew as a whole: settings of single inputs inside it go.
  function set(alpha, covered, more) {
    const rest = covered.name === "*" ? [] : settings.filter((s) => s.name !== covered.name && !covered.covers.includes(s.name));
    return put([...rest, { name: covered.name, alpha }], more);
  }
  const at = (name) => (name === section.site || scope.key !== "input" ? scope : { ...scope, name, covers: [name] });

  const map = inner(section.map);
  const curve = inner(section.curve);
  whenDrawn(map, (holder) => {
    frame(holder, section.row, section.set_to === null ? -1 : alphas.indexOf(section.set_to));
    holder.on("plotly_click", (e) => {
      const cell = e.points.find((p) => p.data.type === "heatmap") ?? e.points[0];
      const [row, column] = Array.isArray(cell.pointIndex) ? cell.pointIndex : [cell.pointIndex, alphas.indexOf(Number(cell.x))];
      const name = rows[row];
      if (!name || !(column in alphas)) return;
      // Of another kind of input only that input or all can be meant.
      if (name !== section.site && scope.key === "kind" && !scope.covers.includes(name)) return void context.choose({ site: name });
      set(alphas[column], at(name), { site: name });
    });
  });
  whenDrawn(curve, (holder) => {
    const place = (e) => {
      const { xaxis: x, yaxis: y } = holder._fullLayout;
      const box = holder.getBoundingClientRect();
      const [px, py] = [e.clientX - box.left - x._offset, e.clientY - box.top - y._offset];
      if (px < 0 || py < 0 || px > x._length || py > y._length) return null;
      return alphas.reduce((best, a) => (Math.abs(a - x.p2l(px)) < Math.abs(best - x.p2l(px)) ? a : best));
    };
    holder.style.cursor = "pointer";
    holder.addEventListener("click", (e) => {
      const alpha = place(e);
      if (alpha !== null) set(alpha, scope);
    });
  });

  const button = (text, label, f, disabled = false) => el("button", { type: "button", class: "dq-small", "aria-label": label, title: label, disabled, on: { click: f } }, text);
  const value = el("select", { class: "dq-select", "aria-label": "Alpha" }, alphas.map((a) => el("option", { value: a }, a.toFixed(1))));
  value.value = String(section.set_to ?? alphas[4]);
  const bar = el("div", { class: "dq-fields dq-viewbar" },
    el("div", { class: "dq-field" }, el("span", {}, "A click sets alpha for"), choice("A click sets alpha for", scopes.map((s) => [s.key, s.label]), scope.key, (key) => {
      scope = scopes.find((s) => s.key === key);
      context.keep({ scope: key });
    })),
    el("div", { class: "dq-field" }, el("span", {}, "or by hand"), el("div", { class: "dq-pair" }, value, button("Set", "Set alpha", () => set(Number(value.value), scope)))),
    el("div", { class: "dq-field" }, el("span", {}, "Map of"), choice("Map of", section.shown_names, section.shown, (key) => context.choose({ curve: key }, ["alpha"]))),
    el("div", { class: "dq-field" }, el("span", {}, "Weight and activation apart"), choice("Weight and activation apart", [["on", "shown"], ["off", "hidden"]], section.split ? "on" : "off", (key) => context.choose({ split: key }, ["alpha"]))));
  const chips = settings.map((s) => el("li", { class: "dq-set" }, el("span", {}, s.label), el("strong", { class: "dq-mono" }, String(s.alpha)),
    el("button", { type: "button", class: "dq-icon", "aria-label": `No alpha of its own for ${s.label}`, title: "Remove", on: { click: () => put(settings.filter((o) => o.name !== s.name)) } }, "×")));
  const edits = el("div", { class: "dq-edits" },
    button("Undo", "Undo the last setting of alpha", () => past.length && context.choose({ alphas: past.pop() }, ["alpha"]), !past.length),
    button("Search all again", "Search alpha of all inputs again", () => put([]), !settings.length));
  const result = outcome(section);
  result.show(section.options);
  const full = tables.table(section.table);
  full.className = "dq-inner";
  full.querySelector(".dq-scroll")?.classList.add("dq-tall");
  const card = el("section", { class: "dq-card" }, heading(section), bar,
    el("div", { class: "dq-alphas" }, map, curve),
    el("div", { role: "status" }, el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w)))),
    el("div", { class: "dq-settings" }, el("span", { class: "dq-label" }, "Set"), el("ul", { class: "dq-sets" }, chips.length ? chips : el("li", { class: "dq-sub" }, "nothing: alpha is searched for every input")), edits),
    result.node,
    el("details", {}, el("summary", {}, section.table.title), full));
  card.querySelector("h2").append(" ", ...section.badges.map(badge));
  return card;
}

// A figure of its own inside a card.
export function inner(section) {
  const node = plots.plot(section);
  node.className = "dq-innerplot";
  const title = node.querySelector("h2");
  title.replaceWith(el("h3", {}, section.title));
  return node;
}

// Calls f with the plot's element once plotly.js has drawn it; a card that is replaced before is left alone.
export function whenDrawn(node, f) {
  const holder = node.querySelector(".dq-plot");
  let shown = false;
  const wait = (frames) => {
    if (holder._fullLayout?.yaxis?._length) return f(holder);
    shown ||= holder.isConnected;
    if (shown ? holder.isConnected : frames < 120) requestAnimationFrame(() => wait(frames + 1));
  };
  wait(0);
}

// A frame around the chosen row, and around its cell where alpha is set.
function frame(holder, row, column) {
  const mark = (x0, x1, width) => ({ type: "rect", xref: "x", yref: "y", x0, x1, y0: row - 0.5, y1: row + 0.5, line: { color: getComputedStyle(holder).getPropertyValue("--dq-ink").trim(), width } });
  const last = holder._fullLayout.xaxis.range[1] - 0.5;
  const shapes = [mark(-0.5, last + 0.5, 1.5), ...(column < 0 ? [] : [mark(column - 0.5, column + 0.5, 3)])];
  window.Plotly.relayout(holder, { shapes });
}

export const drawers = { alpha: drawAlpha };
