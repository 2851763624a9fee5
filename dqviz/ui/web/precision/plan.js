// A plan under one's hands: labels and pins of all cells, its budgets and ties, the device that latency is predicted for,
// what they add up to, and every state before.
// No document in here. Cells are numbered site by site: site * columns + column, column 0 the weight, then one for each window.

const MOST_UNDONE = 200;
const MOST_KEPT = 30; // steps back that outlive the page
const NAMES = ["avg_bits", "activation_bits", "size_mb", "latency_ratio"]; // of budgets

export function planOf(data) {
  const columns = 1 + data.windows.length;
  const count = data.sites.length * columns;
  const index = new Map(data.formats.map((f, i) => [f.label, i]));
  const bits = data.formats.map((f) => f.bits);
  let now = { labels: new Uint8Array(count), pins: new Uint8Array(count), budgets: {}, qkv: false, device: null };
  let past = [];
  let future = [];
  const watchers = [];
  const tell = (what) => watchers.forEach((f) => f(what));

  const columnOf = (cell) => cell % columns;
  const siteOf = (cell) => Math.floor(cell / columns);
  const operandOf = (cell) => (columnOf(cell) ? "activation" : "weight");

  // What the table says of a cell at a format: {value, cost, lo, hi, noise, inside_floor}; 16 bits cost nothing.
  function told(metric, cell, label) {
    const operand = operandOf(cell);
    const table = data.cells[metric][operand][label];
    if (!table) return label === "16" ? { value: 0, cost: 0, lo: 0, hi: 0, noise: 0, inside_floor: 1 } : null;
    const at = operand === "weight" ? siteOf(cell) : siteOf(cell) * data.windows.length + columnOf(cell) - 1;
    return { value: table.value[at], cost: table.cost[at], lo: table.lo[at], hi: table.hi[at], noise: table.noise[at], inside_floor: table.inside_floor[at] };
  }

  // Why a cell cannot have a format; "" where it can.
  function against(cell, label) {
    const format = data.formats[index.get(label)];
    if (!format) return "this format is not known";
    const why = format[operandOf(cell)];
    if (why) return why;
    const found = told(data.metric, cell, label);
    return !found || (found.value === null && label !== "16") ? "no number was measured" : "";
  }

  // One change of any cells is one step back. While `joined`, changes replace the last one: a slider that is dragged.
  let joining = null;
  function change(what, edit, joined = null) {
    const next = { labels: now.labels.slice(), pins: now.pins.slice(), budgets: { ...now.budgets }, qkv: now.qkv, device: now.device };
    edit(next);
    if (same(next, now)) return false;
    if (!(joined && joined === joining)) {
      past.push({ ...now, what });
      if (past.length > MOST_UNDONE) past.shift();
    }
    joining = joined;
    future = [];
    now = next;
    tell(what);
    return true;
  }

  function step(from, to) {
    const last = from.pop();
    if (!last) return "";
    to.push({ ...now, what: last.what });
    const { what, ...state } = last;
    now = state;
    joining = null;
    tell(what);
    return what;
  }

  const loss = (metric) => {
    let sum = 0;
    for (let cell = 0; cell < count; cell++) sum += Math.max(0, told(metric, cell, data.formats[now.labels[cell]].label)?.cost ?? 0);
    return sum;
  };

  const sizes = data.sites.map((s) => s.weights);
  const whole = sizes.reduce((a, b) => a + b, 0);
  const elements = data.sites.map((s) => s.elements);
  const allElements = elements.reduce((a, b) => a + b, 0);

  // What one cell takes of a budget that adds up, at a format.
  const takes = {
    avg_bits: (cell, f) => (columnOf(cell) ? 0 : (bits[f] * sizes[siteOf(cell)]) / whole),
    activation_bits: (cell, f) => (columnOf(cell) ? (bits[f] * elements[siteOf(cell)] * data.shares[columnOf(cell) - 1]) / allElements : 0),
    size_mb: (cell, f) => (columnOf(cell) ? 0 : (data.bytes[siteOf(cell)][data.formats[f].label] ?? 0) / 1e6),
  };
  const rest = { avg_bits: 0, activation_bits: 0, size_mb: data.rest_bytes / 1e6 };

  // Null stands for the device that is shown first, and for one that the table does not have.
  const held = (key) => (data.devices.slice(1).some((d) => d.key === key) ? key : null);
  const device = () => now.device ?? data.devices[0]?.key ?? null;

  // The least that the plans take where a cell may have these labels; null where no device has times for them.
  function latency(labels) {
    const found = data.devices.find((d) => d.key === device());
    if (!found) return null;
    let sum = found.rest;
    for (let s = 0; s < data.sites.length; s++) {
      const table = found.shapes[found.shape[s]];
      const inputs = data.shares.map((_, k) => labels(s * columns + k + 1));
      sum += Math.min(...labels(s * columns).map((w) => inputs.reduce((t, all, k) => t + data.shares[k] * Math.min(...all.map((a) => table[`${w},${a}`])), 0)));
    }
    return sum;
  }
  const own = (cell) => [data.formats[now.labels[cell]].label];

  function totals(metric) {
    const found = { ...rest, loss: loss(metric), latency_ratio: latency(own) };
    for (let cell = 0; cell < count; cell++) for (const name in takes) found[name] += takes[name](cell, now.labels[cell]);
    found.stored_bits = (8e6 * (found.size_mb - rest.size_mb)) / whole; // with scales and zero points
    return found;
  }

  // The least that any plan with these pins takes, and how much of what is beyond the least of all is due to pins.
  function least(name) {
    if (name === "latency_ratio") return { pinned: latency((cell) => (now.pins[cell] ? own(cell) : possible(cell))), free: latency(possible) };
    let [pinned, free] = [rest[name], rest[name]];
    for (let cell = 0; cell < count; cell++) {
      const all = possible(cell).map((label) => takes[name](cell, index.get(label)));
      const smallest = Math.min(...all);
      free += smallest;
      pinned += now.pins[cell] ? takes[name](cell, now.labels[cell]) : smallest;
    }
    return { pinned, free };
  }

  const offered = { weight: null, activation: null };
  function possible(cell) {
    const operand = operandOf(cell);
    return (offered[operand] ??= data.formats.filter((f) => !f[operand]).map((f) => f.label));
  }

  const written = (labels = now.labels) => ({
    weight: data.sites.map((_, s) => data.formats[labels[s * columns]].label),
    activation: data.windows.map((_, k) => data.sites.map((_, s) => data.formats[labels[s * columns + k + 1]].label)),
  });

  function read(plan) {
    const labels = new Uint8Array(count);
    data.sites.forEach((_, s) => {
      labels[s * columns] = index.get(plan.weight[s]);
      data.windows.forEach((_, k) => (labels[s * columns + k + 1] = index.get(plan.activation[k][s])));
    });
    return labels;
  }

  // A state from the text of one; null where that is of another table.
  function parsed({ desk, pins, qkv, what, device, ...more }) {
    const labels = unrun(desk, count);
    const pinned = pins ? unrun(pins, count) : new Uint8Array(count);
    if (!labels || !pinned || labels.some((f, cell) => f >= data.formats.length || against(cell, data.formats[f].label))) return null;
    const budgets = Object.fromEntries(NAMES.filter((n) => Number(more[n]) > 0).map((n) => [n, Number(more[n])]));
    return { labels, pins: pinned, budgets, qkv: Boolean(Number(qkv)), device: held(device), ...(what === undefined ? {} : { what }) };
  }

  const uniform = (weight, activation) => read({ weight: data.sites.map(() => weight), activation: data.windows.map(() => data.sites.map(() => activation)) });

  return {
    columns, count, columnOf, siteOf, operandOf, told, against, possible, totals, least, written, read, uniform,
    label: (cell) => data.formats[now.labels[cell]].label,
    pinned: (cell) => Boolean(now.pins[cell]),
    pins: () => [...now.pins.keys()].filter((cell) => now.pins[cell]),
    budgets: () => now.budgets,
    qkv: () => now.qkv,
    device,
    watch: (f) => watchers.push(f),
    undo: () => step(past, future),
    redo: () => step(future, past),
    undone: () => ({ back: past.at(-1)?.what, on: future.at(-1)?.what }),
    // Begin with this state: nothing lies before it.
    begin(state) {
      now = state;
      past = [];
      future = [];
      tell("");
    },
    // Set by hand is pinned: a solver leaves it.
    set: (chosen, label) => change(`${label} bits`, (next) => {
      for (const cell of chosen) {
        if (against(cell, label)) continue;
        next.labels[cell] = index.get(label);
        next.pins[cell] = 1;
      }
    }),
    pin: (chosen, on) => change(on ? "pin" : "unpin", (next) => chosen.forEach((cell) => (next.pins[cell] = on ? 1 : 0))),
    take: (labels, what, joined = null) => change(what, (next) => { next.labels = labels; }, joined),
    put: (state, what) => change(what, (next) => Object.assign(next, state)),
    bound: (name, value, joined = null) => change("budget", (next) => { value === null ? delete next.budgets[name] : (next.budgets[name] = value); }, joined),
    tie: (on, joined = null) => change("tie", (next) => { next.qkv = on; }, joined),
    predictFor: (key) => change("device", (next) => { next.device = held(key); }),
    // Cells whose format differs from another plan's.
    differs: (labels) => [...now.labels.keys()].filter((cell) => now.labels[cell] !== labels[cell]),
    state(labels, pins = [], budgets = {}, qkv = false, device = null) {
      const pinned = new Uint8Array(count);
      for (const cell of pins) pinned[cell] = 1;
      return { labels, pins: pinned, budgets: { ...budgets }, qkv, device: held(device) };
    },
    is: (state) => same(now, state),
    text: () => text(now),
    textOf: text,
    parsed,
    // Everything with the steps back and on, as text for this browser alone.
    kept: () => JSON.stringify([now, past.slice(-MOST_KEPT), future.slice(-MOST_KEPT)].map((part) => (Array.isArray(part) ? part.map(text) : text(part)))),
    // Begin where `kept` was made; false where that was another table.
    recall(kept) {
      const [own, before, after] = JSON.parse(kept);
      const all = [own, ...before, ...after].map(parsed);
      if (all.includes(null)) return false;
      now = all[0];
      past = all.slice(1, 1 + before.length);
      future = all.slice(1 + before.length);
      joining = null;
      tell("");
      return true;
    },
  };
}

const same = (a, b) => a.qkv === b.qkv && a.device === b.device && NAMES.every((n) => a.budgets[n] === b.budgets[n]) && a.labels.every((v, i) => v === b.labels[i]) && a.pins.every((v, i) => v === b.pins[i]);
// A state as a link holds it; `what` names the step after it.
const text = ({ labels, pins, budgets, qkv, device, what }) => ({ desk: runs(labels), ...(pins.some(Boolean) ? { pins: runs(pins) } : {}), ...budgets, ...(qkv ? { qkv: 1 } : {}), ...(device ? { device } : {}), ...(what === undefined ? {} : { what }) });

// Numbers below 26 as runs of letters: "aab" is "a2b".
function runs(values) {
  let text = "";
  for (let i = 0; i < values.length; ) {
    let n = 1;
    while (values[i + n] === values[i]) n++;
    text += String.fromCharCode(97 + values[i]) + (n > 1 ? n : "");
    i += n;
  }
  return text;
}

function unrun(text, count) {
  if (!/^([a-z]\d*)*$/.test(text)) return null;
  const found = [];
  for (const [, letter, times] of text.matchAll(/([a-z])(\d*)/g)) {
    if (found.length + Number(times || 1) > count) return null;
    found.push(...Array(Number(times || 1)).fill(letter.charCodeAt(0) - 97));
  }
  return found.length === count ? Uint8Array.from(found) : null;
}

// What a sum of costs is calibrated to lose: straight in logarithms, in proportion beyond the ends.
export function calibrated(curve, sum) {
  const x = Math.log(Math.max(sum, 1e-12));
  const xs = curve.cost.map(Math.log);
  const ys = curve.loss.map(Math.log);
  if (x <= xs[0]) return Math.exp(ys[0] + x - xs[0]);
  if (x >= xs.at(-1)) return Math.exp(ys.at(-1) + x - xs.at(-1));
  const i = xs.findIndex((v) => v >= x);
  return Math.exp(ys[i - 1] + ((ys[i] - ys[i - 1]) * (x - xs[i - 1])) / (xs[i] - xs[i - 1]));
}
