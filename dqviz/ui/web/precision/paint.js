// The matrix on its canvas. Fill: what rounding costs; text: the bits of the plan. Drawn anew as a whole.
const SHADES = 256;

export function painter({ data, plan, grid, canvas, outer }) {
  const shades = shadesOf(data.colours);

  // `cursor` is {row, column}, or null where the matrix has no focus. Returns the range of the colours.
  return (selected, cursor) => {
    const ratio = window.devicePixelRatio || 1;
    const { rows, columns, tall } = grid;
    const last = columns.at(-1);
    const [width, height] = [last ? last.x + last.width : 0, rows.length * tall];
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const style = getComputedStyle(outer);
    const ink = style.getPropertyValue("--dq-ink").trim();
    const empty = style.getPropertyValue("--dq-sunken").trim();
    const mono = style.getPropertyValue("--font-mono") || "monospace";
    const range = grid.range();
    const hatches = [hatch(g, "rgba(255,255,255,.42)"), hatch(g, "rgba(0,0,0,.34)")];
    g.textAlign = "center";
    g.textBaseline = "middle";
    rows.forEach((row, r) => {
      const top = r * tall;
      columns.forEach((c, k) => {
        const { value, floor } = grid.shown(r, k);
        const shade = value === null || !range ? null : shades[place(value, range)];
        const box = [c.x + 0.5, top + 0.5, c.width - 1, tall - 1];
        g.fillStyle = shade?.css ?? empty;
        g.fillRect(...box);
        if (floor) {
          g.fillStyle = hatches[shade?.dark === false ? 1 : 0];
          g.fillRect(...box);
        }
        const cells = grid.cellsOf(r, k);
        g.font = `${row.site === undefined ? "italic " : "600 "}${c.width < 34 ? 10.5 : 12}px ${mono}`;
        const text = grid.bitsOf(cells, c.width);
        if (floor) { // letters on stripes need a ground
          const wide = g.measureText(text).width + 6;
          g.fillStyle = shade?.css ?? empty;
          g.fillRect(c.x + (c.width - wide) / 2, top + 3, wide, tall - 6);
        }
        g.fillStyle = !shade ? ink : shade.dark ? "#fff" : "#000";
        g.fillText(text, c.x + c.width / 2, top + tall / 2 + 0.5);
        const chosen = cells.every((cell) => selected.has(cell));
        if (chosen) outline(g, c.x, top, c.width, tall, ink, []);
        if (cells.every((cell) => plan.pinned(cell))) {
          const inset = chosen ? 3.5 : 1; // inside the outline
          const [right, above] = [c.x + c.width - inset, top + inset];
          g.fillStyle = !shade ? ink : shade.dark ? "#fff" : "#000";
          g.beginPath();
          g.moveTo(right - 7, above);
          g.lineTo(right, above);
          g.lineTo(right, above + 7);
          g.fill();
        }
      });
    });
    if (cursor && rows.length) {
      const c = columns[cursor.column];
      outline(g, c.x, cursor.row * tall, c.width, tall, ink, [3, 2]);
    }
    return range;
  };
}

// Which shade a value has, on a logarithmic scale.
export const place = (value, { low, high }) => (value > low ? Math.min(SHADES - 1, Math.round(((SHADES - 1) * Math.log(value / low)) / Math.log(high / low))) : 0);

export function shadesOf(colours) {
  const parts = colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return Array.from({ length: SHADES }, (_, i) => {
    const x = (i / (SHADES - 1)) * (parts.length - 1);
    const k = Math.min(Math.floor(x), parts.length - 2);
    const rgb = parts[k].map((v, j) => Math.round(v + (parts[k + 1][j] - v) * (x - k)));
    const light = rgb.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return { css: `rgb(${rgb.join(" ")})`, dark: 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] < 0.18 };
  });
}

function hatch(g, colour) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const t = tile.getContext("2d");
  t.strokeStyle = colour;
  t.lineWidth = 1.4;
  t.beginPath();
  for (const x of [-6, 0, 6]) {
    t.moveTo(x, 6);
    t.lineTo(x + 6, 0);
  }
  t.stroke();
  return g.createPattern(tile, "repeat");
}

function outline(g, x, y, width, height, ink, dash) {
  g.save();
  g.setLineDash(dash);
  g.lineWidth = 2;
  g.strokeStyle = dash.length ? ink : "#fff";
  g.strokeRect(x + 2.5, y + 2.5, width - 5, height - 5);
  if (!dash.length) {
    g.strokeStyle = "#c2185b";
    g.strokeRect(x + 1, y + 1, width - 2, height - 2);
  }
  g.restore();
}
