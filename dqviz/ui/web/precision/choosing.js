// Choosing cells by mouse, finger and keyboard. A finger taps one cell; held, it takes the cell as Ctrl does and draws a
// rectangle from there, while a finger that moves at once scrolls.
const HOLD = 450; // ms
const STILL = 8; // pixels that a finger may move while it is held

export function choosing({ grid, node, canvas, selected, draw, onSelect, onInspect, onKey, tip, fold, speak }) {
  let at = { row: 1, column: 0 }; // the cursor
  let anchor = null;
  let focused = false;

  function choose(cells, how = "only") {
    const all = how === "toggle" && cells.every((cell) => selected.has(cell));
    if (how === "only") selected.clear();
    cells.forEach((cell) => (all ? selected.delete(cell) : selected.add(cell)));
    draw();
    onSelect([...selected]);
  }
  const all = () => {
    choose(grid.rows.flatMap((r, i) => (r.site !== undefined || grid.closed(r.block) ? grid.columns.flatMap((_, c) => grid.cellsOf(i, c)) : [])));
    onInspect([...selected]);
  };

  // The cell under the cursor, or everything chosen where it is part of that.
  function say() {
    const cells = grid.cellsOf(at.row, at.column);
    const chosen = cells.every((cell) => selected.has(cell));
    onInspect(chosen ? [...selected] : cells);
    speak(`${grid.words(at.row, at.column).join(", ")}${chosen ? ", selected" : ""}`);
  }

  // -- pointers

  const hit = (e) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [e.clientX - box.left, e.clientY - box.top];
    const column = grid.columns.findIndex((c) => x >= c.x && x < c.x + c.width);
    const row = Math.floor(y / grid.tall);
    return row < 0 || row >= grid.rows.length || column < 0 ? null : { row, column };
  };
  const adds = (e) => e.ctrlKey || e.metaKey;

  let from = null; // where the pointer went down
  function stop() {
    clearTimeout(from?.timer);
    from = null;
    delete node.dataset.held;
  }
  function held() {
    from.held = true;
    node.dataset.held = "";
    at = anchor = { row: from.row, column: from.column };
    choose(grid.rectangle(from, from), "toggle");
    say();
  }
  canvas.addEventListener("pointerdown", (e) => {
    const found = hit(e);
    if (!found || e.button !== 0 || !e.isPrimary) return;
    const mouse = e.pointerType === "mouse";
    from = { ...found, x: e.clientX, y: e.clientY, before: new Set(selected), dragged: false, draws: mouse, held: false };
    if (mouse) canvas.setPointerCapture(e.pointerId);
    else from.timer = setTimeout(held, HOLD);
  });
  canvas.addEventListener("pointermove", (e) => {
    const found = hit(e);
    tip(e, from ? null : found);
    if (from && !from.draws && !from.held && Math.hypot(e.clientX - from.x, e.clientY - from.y) > STILL) return stop();
    if (!from || !found || !(from.draws || from.held) || (found.row === from.row && found.column === from.column && !from.dragged)) return;
    from.dragged = true;
    selected.clear();
    if (adds(e) || from.held) from.before.forEach((cell) => selected.add(cell));
    at = found;
    choose(grid.rectangle(from, found), "add");
  });
  canvas.addEventListener("pointerup", (e) => {
    const found = hit(e);
    const began = from;
    stop();
    if (!began) return;
    node.focus({ preventScroll: true });
    if (began.held && !began.dragged) return;
    if (began.dragged) {
      anchor = { row: began.row, column: began.column };
      return say();
    }
    if (!found) return;
    at = found;
    if (e.shiftKey && anchor) choose(grid.rectangle(anchor, found), adds(e) ? "add" : "only");
    else {
      anchor = found;
      choose(grid.rectangle(found, found), adds(e) ? "toggle" : "only");
    }
    say();
  });
  canvas.addEventListener("pointercancel", stop);
  canvas.addEventListener("pointerleave", () => tip(null, null));
  canvas.addEventListener("touchmove", (e) => { if (from?.held) e.preventDefault(); }, { passive: false }); // else it scrolls
  canvas.addEventListener("contextmenu", (e) => { if (from && !from.draws) e.preventDefault(); });

  // -- keys

  function move(to, e) {
    at = { row: Math.min(Math.max(to.row, 0), grid.rows.length - 1), column: Math.min(Math.max(to.column, 0), grid.columns.length - 1) };
    if (e.shiftKey && anchor) choose(grid.rectangle(anchor, at));
    else {
      anchor = at;
      draw();
    }
    inView();
    say();
  }

  function inView() {
    const [top, left] = [at.row * grid.tall, grid.columns[at.column].x];
    const head = node.querySelector(".dq-mx-head").offsetHeight;
    if (top < node.scrollTop) node.scrollTop = top;
    if (top + grid.tall + head > node.scrollTop + node.clientHeight) node.scrollTop = top + grid.tall + head - node.clientHeight;
    if (left < node.scrollLeft) node.scrollLeft = left;
    const right = left + grid.columns[at.column].width + grid.left;
    if (right > node.scrollLeft + node.clientWidth) node.scrollLeft = right - node.clientWidth;
  }

  node.addEventListener("focus", () => { focused = true; draw(); });
  node.addEventListener("blur", () => { focused = false; draw(); });
  node.addEventListener("keydown", (e) => {
    if (e.target !== node || e.altKey || !grid.rows.length) return;
    const wide = grid.columns.length;
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-8, 0], PageDown: [8, 0], Home: [0, -wide], End: [0, wide] }[e.key];
    const row = grid.rows[at.row];
    if (by) move({ row: at.row + by[0], column: at.column + by[1] }, e);
    else if (e.key === " ") { anchor = at; choose(grid.rectangle(at, at), "toggle"); say(); }
    else if (e.key === "Enter" && !adds(e)) {
      if (row.site === undefined && e.shiftKey) fold(row.block);
      else { anchor = at; choose(grid.rectangle(at, at)); say(); }
    } else if (e.key === "Escape") choose([]);
    else if (adds(e) && e.key.toLowerCase() === "a") all();
    else if (adds(e) || !onKey(e.key)) return;
    e.preventDefault();
    e.stopPropagation();
  });

  return {
    choose, all,
    tell: () => focused && say(), // after the plan has changed under the cursor
    cursor: () => (focused ? at : null),
    // After rows or columns have changed.
    laid() {
      anchor = null; // its row may be another one's by now
      at = { row: Math.max(0, Math.min(at.row, grid.rows.length - 1)), column: Math.min(at.column, grid.columns.length - 1) };
    },
  };
}
