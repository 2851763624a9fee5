// What the matrix is made of: its rows and columns, the cells behind each drawn one, and what is told of them. No document here.
const GAP = 6; // between weights and activations

export function gridOf({ data, plan, view }) {
  const blocks = [...new Set(data.sites.map((s) => s.block))];
  const closed = new Set(data.sites.length > 48 ? blocks : []);
  const grid = {
    rows: [], // what is drawn: {block, sites, site?}
    columns: [], // {index, x, width}
    left: 150, // pixels of the names
    tall: 22, // pixels of a row
    closed: (block) => closed.has(block),
    lay, fold, foldAll, cellsOf, rectangle, shown, range, bitsOf, words,
  };

  function lay(width) {
    const sites = data.sites.map((s, i) => ({ ...s, i })).filter((s) => view.shows(s));
    grid.rows = [];
    for (const block of blocks) {
      const own = sites.filter((s) => s.block === block);
      if (!own.length) continue;
      grid.rows.push({ block, sites: own.map((s) => s.i) });
      if (!closed.has(block)) for (const s of own) grid.rows.push({ block, sites: [s.i], site: s.i });
    }
    const kinds = [...Array(plan.columns).keys()].filter((c) => view.operand === "both" || (view.operand === "weight") === (c === 0));
    grid.left = width < 560 ? 96 : 150;
    const gap = kinds.length > 1 && kinds[0] === 0 ? GAP : 0;
    const room = Math.max(width - grid.left - gap - 14, 60);
    const wide = Math.min(180, Math.max(26, Math.floor(room / kinds.length)));
    grid.columns = kinds.map((index, i) => ({ index, x: i * wide + (index && gap ? gap : 0), width: wide }));
    grid.tall = grid.rows.length > 120 ? 19 : 22;
  }

  function fold(block) {
    closed.has(block) ? closed.delete(block) : closed.add(block);
  }
  function foldAll(shut) {
    blocks.forEach((b) => (shut ? closed.add(b) : closed.delete(b)));
  }

  // Cells of a drawn cell: one, or those of a whole block.
  function cellsOf(row, column) {
    return grid.rows[row].sites.map((s) => s * plan.columns + grid.columns[column].index);
  }

  function rectangle(a, b) {
    const [r1, r2] = [Math.min(a.row, b.row), Math.max(a.row, b.row)];
    const [c1, c2] = [Math.min(a.column, b.column), Math.max(a.column, b.column)];
    const found = [];
    for (let r = r1; r <= r2; r++) {
      const heading = grid.rows[r].site === undefined && !closed.has(grid.rows[r].block);
      if (heading && r1 !== r2) continue; // passed over; its layers are rows of their own
      for (let c = c1; c <= c2; c++) found.push(...cellsOf(r, c));
    }
    return found;
  }

  const toldOf = (cell) => plan.told(view.metric, cell, view.bits === "plan" ? plan.label(cell) : view.bits);

  // What is shown of a drawn cell: the largest value of a block; inside the floor only where all are.
  function shown(row, column) {
    let [value, floor] = [null, true];
    for (const cell of cellsOf(row, column)) {
      const found = toldOf(cell);
      if (found === null || found.value === null) continue;
      value = Math.max(value ?? 0, found.value);
      floor &&= Boolean(found.inside_floor);
    }
    return { value, floor: value !== null && floor };
  }

  function range() {
    let [low, high] = [Infinity, 0];
    for (let s = 0; s < data.sites.length; s++) {
      for (const { index } of grid.columns) {
        const value = toldOf(s * plan.columns + index)?.value;
        if (value > 0) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    if (!high) return null;
    low = Math.max(low, high * 1e-5);
    return high / low > 1.05 ? { low, high } : { low: low / 2, high: high * 2 };
  }

  function bitsOf(cells, width) {
    const found = [...new Set(cells.map((cell) => plan.label(cell)))];
    if (found.length === 1) return found[0];
    const numbers = found.map(Number).filter(Boolean).sort((a, b) => a - b);
    return width >= 40 && numbers.length === found.length ? `${numbers[0]}–${numbers.at(-1)}` : "…";
  }

  function words(row, column) {
    const cells = cellsOf(row, column);
    const { value, floor } = shown(row, column);
    const { block, site } = grid.rows[row];
    const c = grid.columns[column].index;
    const where = site === undefined ? `${block}, ${cells.length} layers` : `${block}, ${data.sites[site].label}`;
    const cost = value === null ? "no number" : `${site === undefined ? "at most " : ""}${view.short(value)} at ${view.bits === "plan" ? "these bits" : `${view.bits} bits`}`;
    return [where, c ? `input in ${data.windows[c - 1]}` : "weight", `plan: ${bitsOf(cells, 99)} bits${cells.every((x) => plan.pinned(x)) ? ", pinned" : ""}`, cost, ...(floor ? ["inside the noise floor"] : [])];
  }

  return grid;
}
