// Parts of a form: progress strip, list of runs, the form as a command.
import { clock, copy, el, parsed, swatch } from "./tools.js";

export function status({ element, props }) {
  const root = element.querySelector(".dq-status");
  const bar = el("div", { class: "dq-bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, el("span"));
  const what = el("span", { class: "dq-what" });
  const when = el("span", { class: "dq-when dq-mono" });
  const message = el("div", { class: "dq-message" });
  const said = el("span", { class: "dq-offscreen", role: "status" });
  root.append(el("div", { class: "dq-progress" }, el("div", { class: "dq-line1" }, what, when), bar), message, said);
  function draw() {
    const s = parsed(props.status_json, { state: "idle" });
    root.dataset.state = s.state;
    root.dataset.job = s.job || "";
    keepJob(s);
    const percent = s.total ? Math.min(100, Math.floor((100 * s.done) / s.total)) : null;
    what.textContent = s.text || "";
    when.textContent = [percent === null ? "" : `${percent} %`, s.left === null || s.left === undefined ? "" : `${clock(s.left)} left`].filter(Boolean).join(" · ");
    bar.classList.toggle("dq-waiting", percent === null);
    bar.firstChild.style.width = `${percent ?? 100}%`;
    percent === null ? bar.removeAttribute("aria-valuenow") : bar.setAttribute("aria-valuenow", String(percent));
    message.replaceChildren();
    if (s.message) message.append(el("p", { role: s.state === "failed" ? "alert" : null }, el("strong", {}, s.title ? `${s.title} ` : ""), s.message));
    const spoken = s.state === "running" ? (s.text || "").replace(/ · step.*/, "") : s.message || s.text || "";
    if (said.textContent !== spoken) said.textContent = spoken;
  }
  draw();
  return { status_json: draw };
}

// While a job is followed the address names it, so that a reload follows it again.
function keepJob(status) {
  if (!status.job) return;
  const url = new URL(location.href);
  ["waiting", "running", "cancelling"].includes(status.state) ? url.searchParams.set("job", status.job) : url.searchParams.delete("job");
  history.replaceState(null, "", url);
}

export function runlist({ element, props, trigger }) {
  const root = element.querySelector(".dq-runlist");
  const most = () => props.most || 6;
  const names = () => parsed(props.methods_json, []);
  const presets = () => parsed(props.presets_json, []);
  const rows = () => (Array.isArray(props.value) ? props.value : []);
  const listId = `dq-widths-${Math.random().toString(36).slice(2)}`;
  function set(next, redraw = true) {
    props.value = next;
    trigger("change", {});
    if (redraw) draw();
  }
  function row(entry, i) {
    const method = el("select", { "aria-label": `Method of run ${i + 1}` });
    for (const m of names()) method.append(el("option", { value: m.key, title: m.summary }, m.title));
    method.value = entry.method;
    method.addEventListener("change", () => set(rows().map((r, k) => (k === i ? { ...r, method: method.value } : r)), false));
    const bits = el("input", { type: "text", value: entry.bits, list: listId, "aria-label": `Bits of run ${i + 1}`, spellcheck: "false", autocomplete: "off", maxlength: "12" });
    bits.addEventListener("change", () => set(rows().map((r, k) => (k === i ? { ...r, bits: bits.value.trim().toLowerCase() } : r)), false));
    bits.addEventListener("focus", () => bits.select());
    const remove = el("button", { type: "button", class: "dq-icon", "aria-label": `Remove run ${i + 1}`, title: "Remove", disabled: rows().length < 2 }, "×");
    remove.addEventListener("click", () => set(rows().filter((_, k) => k !== i)));
    return el("div", { class: "dq-runrow", run: i + 1 }, swatch(i + 1), method, bits, remove);
  }
  function draw() {
    const list = el("datalist", { id: listId }, presets().map((p) => el("option", { value: p })));
    const add = el("button", { type: "button", class: "dq-small", disabled: rows().length >= most() }, "+ Add run");
    add.addEventListener("click", () => {
      const last = rows()[rows().length - 1] || { method: names()[0]?.key, bits: "w4a8" };
      const unused = names().find((m) => !rows().some((r) => r.method === m.key && r.bits === last.bits));
      set([...rows(), { method: (unused || names()[0]).key, bits: last.bits }]);
    });
    const chips = el("div", { class: "dq-chips", role: "group", "aria-label": "Bits of all runs" },
      presets().slice(0, 4).map((p) => {
        const chip = el("button", { type: "button", class: "dq-chip", "aria-pressed": String(rows().length > 0 && rows().every((r) => r.bits === p)) }, p.toUpperCase());
        chip.addEventListener("click", () => set(rows().map((r) => ({ ...r, bits: p }))));
        return chip;
      }));
    const focus = document.activeElement?.getAttribute("aria-label");
    root.replaceChildren(el("div", { class: "dq-runhead2" }, el("span", { class: "dq-label" }, props.label || "Runs"), chips),
      el("div", { class: "dq-runrow" }, swatch(0), el("span", { class: "dq-fixed" }, "Full precision"), el("span", { class: "dq-sub" }, "always drawn")),
      ...rows().map(row), el("div", { class: "dq-addrow" }, add), list);
    if (focus) [...root.querySelectorAll("[aria-label]")].find((n) => n.getAttribute("aria-label") === focus)?.focus();
  }
  draw();
  return { value: draw, methods_json: draw, presets_json: draw };
}

export function command({ element, props }) {
  const root = element.querySelector(".dq-inline");
  const code = el("code");
  const button = el("button", { type: "button", class: "dq-small" }, "Copy");
  button.addEventListener("click", () => copy(code.textContent, button));
  root.append(el("span", { class: "dq-label" }, "As a command"), el("pre", { tabindex: "0", "aria-label": "This form as a command" }, code), button);
  const draw = () => { code.textContent = props.text || ""; };
  draw();
  return { text: draw };
}
