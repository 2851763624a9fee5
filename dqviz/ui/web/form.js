// Parts of a form: progress strip, list of runs, the form as a command.
import { clock, commandParts, copy, el, parsed, swatch } from "./tools.js";

const EVERY = 300; // milliseconds between two questions about the job that is followed
const ACTIVE = ["waiting", "running", "cancelling"];

export function status({ element, props, trigger }) {
  const root = element.querySelector(".dq-status");
  const bar = el("div", { class: "dq-bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, el("span"));
  const what = el("span", { class: "dq-what" });
  const when = el("span", { class: "dq-when dq-mono" });
  const message = el("div", { class: "dq-message" });
  const said = el("span", { class: "dq-offscreen", role: "status" });
  root.append(el("div", { class: "dq-progress" }, el("div", { class: "dq-line1" }, what, when), bar), message, said);
  let ended = ""; // the last job that was followed to its end
  let timer = null;
  const over = () => !props.follow || props.follow === ended;
  function ask() {
    if (over()) timer = clearInterval(timer);
    else if (!document.hidden) trigger("tick", {}); // at most one is on its way
  }
  function follow() {
    if (timer || over()) return;
    timer = setInterval(ask, EVERY);
    ask();
  }
  function draw() {
    const told = parsed(props.status_json, { state: "idle" }), refused = parsed(props.refused_json, null);
    const active = ACTIVE.includes(told.state);
    const s = refused && !active ? refused : told, spoken = refused || told;
    if (told.job && !active) ended = told.job;
    root.dataset.state = s.state;
    root.dataset.job = s.job || "";
    keepJob(told.job, active);
    const percent = s.total ? Math.min(100, Math.floor((100 * s.done) / s.total)) : null;
    what.textContent = s.text || "";
    when.textContent = [percent === null ? "" : `${percent} %`, s.left === null || s.left === undefined ? "" : `${clock(s.left)} left`].filter(Boolean).join(" · ");
    bar.classList.toggle("dq-waiting", percent === null);
    bar.firstChild.style.width = `${percent ?? 100}%`;
    percent === null ? bar.removeAttribute("aria-valuenow") : bar.setAttribute("aria-valuenow", String(percent));
    message.replaceChildren();
    if (spoken.message) message.append(el("p", { role: spoken.state === "failed" ? "alert" : null }, el("strong", {}, spoken.title ? `${spoken.title} ` : ""), spoken.message));
    const heard = spoken.state === "running" ? (spoken.text || "").replace(/ · step.*/, "") : spoken.message || spoken.text || "";
    if (said.textContent !== heard) said.textContent = heard;
  }
  draw();
  follow();
  return { status_json: draw, refused_json: draw, follow };
}

// While a job is followed the address names it, so that a reload follows it again.
function keepJob(job, active) {
  if (!job) return;
  const url = new URL(location.href);
  active ? url.searchParams.set("job", job) : url.searchParams.delete("job");
  history.replaceState(null, "", url);
}

export function runlist({ element, props, trigger }) {
  const root = element.querySelector(".dq-runlist");
  const most = () => props.most || 6;
  const names = () => parsed(props.methods_json, []);
  const presets = () => parsed(props.presets_json, []);
  const rows = () => (Array.isArray(props.value) ? props.value : []);
  const id = `dq-runs-${Math.random().toString(36).slice(2)}`;
  const card = (key) => names().find((m) => m.key === key) || { bits: [], refused: {} };
  const refused = (key, bits) => card(key).unsuited || card(key).refused[bits] || "";
  let kept = new Map(); // row -> bits of all runs that it did not take
  let own = ""; // the value as it was set here
  let marks = []; // what each row and chip shows of the rest of the form; redrawn in place, so that a click under way still lands
  function set(next, whole = true, left = []) {
    kept = new Map(left);
    own = JSON.stringify(next);
    props.value = next;
    trigger("change", {});
    whole ? draw() : marks.forEach((mark) => mark());
  }
  function row(entry, i) {
    const mine = () => rows()[i] || entry;
    const change = (next) => set(rows().map((r, k) => (k === i ? { ...r, ...next } : r)), false);
    const method = el("select", { "aria-label": `Method of run ${i + 1}` }, names().map((m) => el("option", { value: m.key, disabled: Boolean(m.unsuited), title: m.unsuited || m.summary }, m.title)));
    // A method that cannot make the bits that stand there brings its own.
    method.addEventListener("change", () => change({ method: method.value, bits: refused(method.value, mine().bits) ? card(method.value).bits[0] : mine().bits }));
    const bits = el("input", { type: "text", list: `${id}-${i}`, "aria-label": `Bits of run ${i + 1}`, "aria-describedby": `${id}-why-${i}`, spellcheck: "false", autocomplete: "off", maxlength: "12" });
    bits.addEventListener("change", () => change({ bits: bits.value.trim().toLowerCase() }));
    bits.addEventListener("focus", () => bits.select());
    const widths = el("datalist", { id: `${id}-${i}` });
    const why = el("p", { class: "dq-why", id: `${id}-why-${i}` });
    const remove = el("button", { type: "button", class: "dq-icon", "aria-label": `Remove run ${i + 1}`, title: "Remove", disabled: rows().length < 2 }, "×");
    remove.addEventListener("click", () => set(rows().filter((_, k) => k !== i)));
    const mark = () => {
      const { method: key, bits: text } = mine();
      method.value = key;
      bits.value = text;
      for (const [k, m] of names().entries()) {
        const other = m.key === key ? "" : m.unsuited || (m.refused[text] ? m.bits.join(", ") : ""); // the chosen one's reason stands below
        method.options[k].textContent = other ? `${m.title} · ${other}` : m.title;
      }
      widths.replaceChildren(...[...new Set([...presets(), ...card(key).bits])].map((p) => el("option", { value: p, disabled: Boolean(refused(key, p)) })));
      const wrong = refused(key, text), asked = kept.get(i);
      why.textContent = wrong || (asked ? `not ${asked}: ${refused(key, asked)}` : "");
      why.hidden = !why.textContent;
      bits.setAttribute("aria-invalid", String(Boolean(wrong)));
    };
    mark();
    marks.push(mark);
    return el("div", { class: "dq-runrow", run: i + 1 }, swatch(i + 1), method, bits, remove, widths, why);
  }
  function chip(preset) {
    const button = el("button", { type: "button", class: "dq-chip" }, preset.toUpperCase());
    button.addEventListener("click", () => {
      const left = rows().flatMap((r, i) => (refused(r.method, preset) ? [[i, preset]] : []));
      set(rows().map((r) => (refused(r.method, preset) ? r : { ...r, bits: preset })), false, left);
    });
    const mark = () => {
      const able = rows().filter((r) => !refused(r.method, preset)).length;
      button.classList.toggle("dq-partly", able < rows().length); // a click says why, in the rows
      button.title = able < rows().length ? `${rows().length - able} of ${rows().length} runs cannot` : "";
      button.setAttribute("aria-pressed", String(rows().length > 0 && rows().every((r) => r.bits === preset)));
    };
    mark();
    marks.push(mark);
    return button;
  }
  function draw() {
    marks = [];
    const add = el("button", { type: "button", class: "dq-small", disabled: rows().length >= most() }, "+ Add run");
    add.addEventListener("click", () => {
      const bits = rows()[rows().length - 1]?.bits || "w4a8";
      const able = names().filter((m) => !refused(m.key, bits));
      const unused = able.find((m) => !rows().some((r) => r.method === m.key && r.bits === bits));
      set([...rows(), { method: (unused || able[0] || names()[0]).key, bits }]);
    });
    const chips = el("div", { class: "dq-chips", role: "group", "aria-label": "Bits of all runs" }, presets().slice(0, 4).map(chip));
    const focus = document.activeElement?.getAttribute("aria-label");
    root.replaceChildren(el("div", { class: "dq-runhead2" }, el("span", { class: "dq-label" }, props.label || "Runs"), chips),
      el("div", { class: "dq-runrow" }, swatch(0), el("span", { class: "dq-fixed" }, "Full precision"), el("span", { class: "dq-sub" }, "always drawn")),
      ...rows().map(row), el("div", { class: "dq-addrow" }, add));
    if (focus) [...root.querySelectorAll("[aria-label]")].find((n) => n.getAttribute("aria-label") === focus)?.focus();
  }
  draw();
  const given = () => {
    if (JSON.stringify(rows()) !== own) kept = new Map();
    draw();
  };
  return { value: given, methods_json: draw, presets_json: draw };
}

export function fit({ element, props }) {
  const root = element.querySelector(".dq-fitcard");
  root.setAttribute("role", "status");
  let last = "";
  const draw = () => {
    const card = parsed(props.card_json, {});
    const wanted = card.state && card.of === props.text ? props.card_json : ""; // what is of another form is gone
    if (wanted === last) return;
    last = wanted;
    root.replaceChildren();
    if (!wanted) return;
    const rows = card.rows.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]);
    root.append(el("div", { class: `dq-fit dq-fit-${card.state}` }, el("p", {}, card.verdict), rows.length ? el("dl", {}, ...rows) : null, card.note ? el("p", { class: "dq-sub" }, card.note) : null));
    root.scrollIntoView({ block: "nearest" });
  };
  draw();
  return { card_json: draw, text: draw };
}

export function command({ element, props }) {
  const root = element.querySelector(".dq-inline");
  const code = el("code");
  const button = el("button", { type: "button", class: "dq-small" }, "Copy");
  button.addEventListener("click", () => copy(code.textContent, button));
  root.append(el("span", { class: "dq-label" }, "As a command"), el("pre", { tabindex: "0", "aria-label": "This form as a command" }, code), button);
  const draw = () => { code.replaceChildren(...commandParts(props.text || "")); };
  draw();
  return { text: draw };
}
