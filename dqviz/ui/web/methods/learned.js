// Views of a learning: choices, figures, sentences, a table. While it goes on they are filled anew, and what is drawn
// stays: a figure moves on, an open table stays open.
import { exportButtons } from "../exports.js";
import { drawPlot, narrow, redraws, svgOf, withoutLegend } from "../plots.js";
import { drawers as tables } from "../tables.js";
import { badge, choice, commandParts, copy, el, heading, options } from "../tools.js";

function drawLearned(first, context) {
  const card = el("section", { class: "dq-card dq-learned" });
  const plots = new Map(); // part -> what draws it
  let section = first;

  function holderOf(figure) {
    if (!plots.has(figure.file)) {
      const holder = el("div", { class: "dq-plot", role: "img" });
      const drawer = { holder, figure, attached: false };
      drawer.draw = () => requestAnimationFrame(() => drawPlot(holder, { ...drawer.figure, height: heightOf(drawer.figure) }).then(() => attach(drawer)).catch((e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e)))));
      redraws.add({ node: holder, draw: drawer.draw });
      plots.set(figure.file, drawer);
    }
    const drawer = plots.get(figure.file);
    drawer.figure = figure;
    drawer.holder.setAttribute("aria-label", figure.alt);
    drawer.holder.style.minHeight = `${heightOf(figure)}px`;
    return drawer;
  }

  function attach(drawer) {
    if (drawer.attached || !drawer.holder.on) return;
    drawer.attached = true;
    drawer.holder.dataset.clicks = "heard";
    drawer.holder.on("plotly_click", (e) => {
      const { click } = drawer.figure;
      if (!click) return;
      const at = e.points[0].pointIndex ?? e.points[0].pointNumber;
      const value = Array.isArray(at) ? click.cells[at[0]]?.[at[1]] : click.cells[e.points[0].data.meta ?? at];
      if (value) context.choose({ [click.key]: value });
    });
  }

  function pickOf({ key, label, options: entries, value, list }) {
    const take = (chosen) => context.choose({ [key]: chosen }, key === "run" ? ["page"] : undefined);
    if (!list) return el("div", { class: "dq-field" }, el("span", {}, label), choice(label, entries, value, take));
    const select = options(el("select", { class: "dq-select", "aria-label": label }), entries);
    select.value = value;
    select.addEventListener("change", () => take(select.value));
    return el("label", { class: "dq-field" }, el("span", {}, label), select);
  }

  function figureOf(figure) {
    const { holder } = holderOf(figure);
    const alone = section.figures.length === 1;
    const shown = withoutLegend(figure);
    const buttons = exportButtons(shown, () => svgOf(figure));
    const head = alone ? "" : el("div", { class: "dq-head" }, el("div", {}, el("h3", {}, figure.title), figure.lede ? el("p", { class: "dq-sub" }, figure.lede) : ""), el("div", { class: "dq-tools" }, buttons));
    return el("div", { class: "dq-innerplot" }, head, holder);
  }

  function tableOf(table, open) {
    const inner = tables.table(table);
    inner.className = "dq-inner";
    const scroll = inner.querySelector(".dq-scroll");
    scroll.classList.add("dq-tall");
    const hint = el("p", { class: "dq-sub", hidden: true }, "More columns to the right: scroll sideways.");
    scroll.before(hint);
    const details = el("details", { open }, el("summary", {}, table.title), inner);
    const look = () => { hint.hidden = scroll.scrollWidth <= scroll.clientWidth; };
    details.addEventListener("toggle", look);
    requestAnimationFrame(look);
    return details;
  }

  function commandOf({ command, link }) {
    const button = el("button", { type: "button", class: "dq-small" }, "Copy");
    button.addEventListener("click", () => copy(command, button));
    return el("div", { class: "dq-starter" },
      el("div", { class: "dq-emptyline" }, el("a", { class: "dq-primary dq-linkbutton", href: link }, "Set it up on the Compare page")),
      el("div", { class: "dq-emptyline dq-commandline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(command))), button));
  }

  function fill() {
    const open = Boolean(card.querySelector("details")?.open);
    const alone = section.figures.length === 1 ? section.figures[0] : null;
    const head = heading(section, alone ? exportButtons(withoutLegend(alone), () => svgOf(alone)) : []);
    head.querySelector("h2").append(" ", ...section.badges.map(badge));
    const facts = section.facts.map(([term, text, sub]) => el("div", {}, el("dt", {}, term), el("dd", {}, text, sub ? el("span", { class: "dq-sub" }, ` ${sub}`) : "")));
    card.replaceChildren(head);
    if (section.empty) card.append(el("p", { class: "dq-lede" }, section.empty), section.learn?.command ? commandOf(section.learn) : "");
    if (section.picks.length) card.append(el("div", { class: "dq-fields dq-viewbar" }, section.picks.map(pickOf)));
    if (facts.length) card.append(el("dl", { class: "dq-figures", "aria-live": "polite" }, facts));
    if (section.figures.length) card.append(el("div", { class: section.beside ? "dq-beside" : "dq-stackedplots" }, section.figures.map(figureOf)));
    if (section.words.length) card.append(el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w))));
    if (section.note) card.append(el("p", { class: "dq-note dq-warn" }, section.note));
    if (section.capture && context.missing?.capture) card.append(context.starter("Capture now", context.missing.capture, { ...context.chosen(), what: "capture" }));
    if (section.table) card.append(tableOf(section.table, open));
    for (const figure of section.figures) holderOf(figure).draw();
  }

  card.refill = (changed) => {
    section = changed;
    fill();
  };
  fill();
  return card;
}

// On a small screen a legend takes lines of its own.
const heightOf = (figure) => Number((narrow() && figure.narrow_height) || figure.height);

export const drawers = { learned: drawLearned };
