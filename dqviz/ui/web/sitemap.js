// The map of the Activations page: inputs over steps as colour or as a table, with what can be chosen of it.
import { drawers as plots } from "./plots.js";
import { drawers as tables } from "./tables.js";
import { badge, choice, el, options } from "./tools.js";

export function siteMap({ controls, choose }) {
  const selects = {};
  const field = (key, label) => {
    const select = options(el("select", { class: "dq-select", "data-field": key }), controls[key]);
    select.addEventListener("change", () => choose({ [key]: select.value }));
    selects[key] = select;
    return el("label", { class: "dq-field" }, el("span", {}, label), select);
  };
  const buttons = (key, label, entries) => {
    const group = choice(label, entries, null, (value) => choose({ [key]: value }));
    group.dataset.key = key;
    [...group.children].forEach((b, i) => (b.dataset.value = entries[i][0]));
    return group;
  };
  const bar = el("div", { class: "dq-fields" }, field("statistic", "Statistic"),
    buttons("map", "Show", [["heatmap", "Map"], ["table", "Table"], ["weights", "Weights"]]), field("rows", "Inputs"),
    controls.branch.length > 1 ? field("branch", "Guidance branch") : "",
    controls.stage.length > 1 ? field("stage", "Stage") : "");
  const body = el("div", {});
  const node = el("div", { class: "dq-mapholder" }, el("div", { class: "dq-card dq-mapbar" }, bar), body);
  let shown = null; // overview, the plot's element, the frame around the chosen cell

  function mark(chosen) {
    for (const [key, select] of Object.entries(selects)) select.value = chosen[key];
    for (const b of bar.querySelectorAll(".dq-choice button")) b.setAttribute("aria-pressed", String(chosen.map === b.dataset.value));
    if (!shown) return;
    const { rows, columns } = shown.overview;
    if (rows[shown.row] !== chosen.site) shown.row = rows.indexOf(chosen.site);
    shown.step = columns ? columns.indexOf(chosen.stage) : Number(chosen.step);
    for (const key of ["statistic", "branch"]) if (selects[key]) selects[key].disabled = Boolean(columns);
    place();
    for (const b of body.querySelectorAll("tbody button")) b.setAttribute("aria-pressed", String(b.dataset.name === chosen.site));
  }

  function draw(overview, chosen) {
    shown = { overview, holder: null, row: -1, step: 0 };
    if (overview.table) {
      body.replaceChildren(withButtons(tables.table(overview.table), overview));
      return;
    }
    const section = overview.map;
    const card = plots.plot(section);
    card.querySelector("h2").append(" ", ...section.badges.map(badge));
    const holder = card.querySelector(".dq-plot");
    const frame = el("div", { class: "dq-cell", hidden: true });
    const label = "Map of inputs and steps. Arrow keys choose a cell, Home and End the first and last step, Page up and down the block before and after.";
    const stage = el("div", { class: "dq-mapstage", tabindex: "0", role: "group", "aria-label": label });
    holder.replaceWith(stage);
    stage.append(holder, frame);
    stage.addEventListener("keydown", keys);
    holder.addEventListener("click", (e) => {
      const found = cellAt(holder, e);
      if (found && overview.rows[found.row]) pick(found.row, found.step);
    });
    card.append(el("ul", { class: "dq-says" }, section.words.map((w) => el("li", {}, w))));
    Object.assign(shown, { holder, frame });
    body.replaceChildren(card);
    new ResizeObserver(place).observe(stage);
    const wait = () => {
      if (!holder.isConnected) return;
      if (!holder._fullLayout?.yaxis?._length) return void requestAnimationFrame(wait);
      holder.on("plotly_afterplot", place);
      place();
    };
    wait();
    mark(chosen);
  }

  function keys(e) {
    const { rows, columns } = shown.overview;
    const last = (columns || controls.timesteps).length - 1;
    const row = Math.max(shown.row, 0);
    const block = blockStart(row);
    const moves = {
      ArrowLeft: [row, shown.step - 1], ArrowRight: [row, shown.step + 1], ArrowUp: [row - 1, shown.step], ArrowDown: [row + 1, shown.step],
      Home: [row, 0], End: [row, last], PageUp: [blockStart(Math.max(block - 1, 0)), shown.step], PageDown: [nextBlock(row), shown.step],
    };
    if (!moves[e.key]) return;
    e.preventDefault();
    const [r, s] = moves[e.key];
    if (r < 0 || r >= rows.length || s < 0 || s > last) return;
    pick(r, s);
  }

  // A column is a step, or on the map of weights a stage.
  function pick(row, column) {
    const { rows, columns } = shown.overview;
    shown.row = row;
    choose(columns ? { site: rows[row], stage: columns[column] } : { site: rows[row], step: column });
  }

  const blockOf = (row) => shown.overview.labels[row].split(" · ")[0];
  function blockStart(row) {
    while (row > 0 && blockOf(row - 1) === blockOf(row)) row--;
    return row;
  }
  function nextBlock(row) {
    const here = blockOf(row);
    const next = shown.overview.labels.findIndex((l, i) => i > row && l.split(" · ")[0] !== here);
    return next < 0 ? row : next;
  }

  // The frame around the chosen cell lies above the plot, so that choosing redraws nothing.
  function place() {
    const { holder, frame, row, step } = shown || {};
    const layout = holder?._fullLayout;
    if (!layout?.yaxis?._length || !holder.isConnected) return;
    frame.hidden = row < 0;
    if (row < 0) return;
    const { xaxis: x, yaxis: y } = layout;
    const left = x._offset + x.l2p(step - 0.5);
    const ends = [y.l2p(row - 0.5), y.l2p(row + 0.5)].sort((a, b) => a - b);
    const wide = x.l2p(1) - x.l2p(0);
    Object.assign(frame.style, { left: `${left}px`, top: `${y._offset + ends[0]}px`, width: `${wide}px`, height: `${ends[1] - ends[0]}px` });
  }

  // Rows of the table choose their input.
  function withButtons(card, overview) {
    [...card.querySelectorAll("tbody tr")].forEach((tr, i) => {
      const name = overview.rows[i];
      const button = el("button", { type: "button", class: "dq-linkish", "aria-pressed": "false" }, tr.cells[0].textContent);
      button.dataset.name = name;
      button.addEventListener("click", () => choose({ site: name }));
      tr.cells[0].replaceChildren(button);
    });
    card.querySelector(".dq-scroll").classList.add("dq-tall");
    return card;
  }
  return { node, draw, mark };
}

// Row and step under the pointer; null outside the cells.
function cellAt(holder, event) {
  const layout = holder._fullLayout;
  if (!layout) return null;
  const box = holder.getBoundingClientRect();
  const { xaxis: x, yaxis: y } = layout;
  const [px, py] = [event.clientX - box.left - x._offset, event.clientY - box.top - y._offset];
  if (px < 0 || py < 0 || px > x._length || py > y._length) return null;
  return { step: Math.round(x.p2l(px)), row: Math.round(y.p2l(py)) };
}
