// The Methods page: which method of which study, one input and window of it, and a section per view.
// One request per choice; the newest choice wins. The address always names what is shown.
// A view's module exports `drawers`, kind -> (section, context) -> node, and is added to the list here.
import { drawers as alpha } from "./methods/alpha.js";
import { drawers as incoherence } from "./methods/incoherence.js";
import { drawers as learned } from "./methods/learned.js";
import { drawers as rotation } from "./methods/rotation.js";
import { drawers as sharing } from "./methods/sharing.js";
import { drawers as windows } from "./methods/windows.js";
import { loadPlotly } from "./plots.js";
import { drawers as tables } from "./tables.js";
import { choice, clock, commandParts, copy, el, options } from "./tools.js";

const drawers = { ...alpha, ...incoherence, ...learned, ...rotation, ...sharing, ...windows };
const LIVE = 1500; // ms between two looks at what is being learned
const NAMED = ["study", "method", "bits", "site", "window"];

export function methods({ element, server }) {
  const root = element.querySelector(".dq-methods");
  let chosen = {}; // what the address names, as the server last confirmed it, with what was chosen since
  let drawn = null;
  let keys = NAMED;

  // Requests one after another: while one is under way, only the newest of the others waits.
  let busy = false;
  let waiting = null;
  async function refresh(want) {
    waiting = new Set([...(waiting ?? []), ...want]);
    if (busy) return;
    busy = true;
    while (waiting) {
      const parts = waiting;
      waiting = null;
      try {
        const answer = JSON.parse(await server.methods({ ...chosen, want: [...parts] }));
        if (waiting) parts.forEach((part) => waiting.add(part));
        else show(answer, parts);
      } catch (e) {
        say([`The server did not answer: ${e.message || e}`]);
        if (live) looking = setTimeout(() => refresh(want), 4 * LIVE);
      }
    }
    busy = false;
  }

  // What drawers may do: choose (the server answers), or only keep something in the address.
  const context = {
    chosen: () => ({ ...chosen }),
    choose(changes, want) {
      Object.assign(chosen, changes);
      keepAddress();
      return refresh(want ?? Object.keys(drawn?.sections ?? {}));
    },
    keep(changes) {
      Object.assign(chosen, changes);
      keepAddress();
    },
  };

  // Another study, method or bits: forget what was chosen of the other.
  const open = (changes) => {
    chosen = { study: chosen.study, method: chosen.method, bits: chosen.bits, ...changes };
    if ("study" in changes || "method" in changes) delete chosen.bits;
    refresh(["page"]);
  };

  function show(answer, parts) {
    if (answer.error) return say([answer.error]);
    if (answer.empty) return empty(answer);
    chosen = { study: answer.study, method: answer.method, bits: answer.bits, ...answer.selection };
    if (answer.controls) build(answer);
    say(answer.notes);
    keepAddress();
    drawn.bar.show(chosen);
    for (const section of answer.sections) place(section);
    look(answer);
    root.dataset.shown = `${chosen.method}:${chosen.site}@${chosen.window}`;
  }

  // While something is being learned, look again and again; views that have come, or an end, make the page anew.
  let looking = 0;
  let live = false;
  function look(answer) {
    clearTimeout(looking);
    const [ended, others] = [live && !answer.live, answer.views.join() !== Object.keys(drawn.sections).join()];
    live = answer.live;
    root.dataset.live = String(live);
    if (ended || others) return refresh(["page"]);
    if (live) looking = setTimeout(() => (document.hidden ? look(answer) : refresh(answer.views)), LIVE);
  }

  // A section takes the place of the one before it; what had the focus keeps it.
  function place(section) {
    const text = JSON.stringify(section);
    const held = drawn.sections[section.key];
    if (!held || held.text === text) return;
    const focus = held.node.contains(document.activeElement) ? named(document.activeElement) : null;
    let { node } = held;
    if (node.refill && section.kind === held.kind) node.refill(section);
    else {
      node = drawers[section.kind] ? drawers[section.kind](section, context) : hint(section);
      node.id = `dq-${section.key}`;
      node.dataset.view = section.key;
      held.node.replaceWith(node);
    }
    drawn.sections[section.key] = { node, text, kind: section.kind };
    if (focus) [...node.querySelectorAll("[aria-label], button")].find((n) => named(n) === focus)?.focus();
  }
  const named = (node) => node.getAttribute("aria-label") ?? node.textContent;

  function say(texts) {
    const anew = el("p", { class: "dq-note" }, el("a", { href: location.pathname }, "Open this page without the choices of the link"));
    if (!drawn) root.replaceChildren(...texts.map((t) => el("p", { class: "dq-note dq-bad", role: "alert" }, t)), anew);
    else drawn.notes.replaceChildren(...(texts || []).map((t) => el("p", { class: "dq-note dq-warn" }, t)));
  }

  function build(answer) {
    const { controls } = answer;
    context.missing = answer.missing;
    context.alphaPast = [];
    keys = [...NAMED, ...controls.keys];
    const link = el("button", { type: "button", class: "dq-small" }, "Copy link to this view");
    link.addEventListener("click", () => copy(location.href, link));
    const head = tables.headline(answer.headline);
    head.querySelector(".dq-head").append(el("div", { class: "dq-fields" },
      pick("Study", controls.study.map((s) => [s, s]), answer.study, (study) => open({ study })),
      pick("Bits", controls.bits.map((b) => [b, b]), answer.bits, (bits) => open({ bits })), link));
    const tabs = choice("Method", controls.method, answer.method, (method) => open({ method }));
    tabs.classList.add("dq-tabs");
    const notes = el("div", { class: "dq-notes", role: "status" });
    const bar = selectionBar({ controls, context });
    const sections = {};
    const body = el("div", { class: "dq-views" });
    for (const section of answer.sections) {
      const node = el("section", { class: "dq-card" });
      sections[section.key] = { node, text: "" };
      body.append(node);
    }
    root.replaceChildren(head, tabs, notes, controls.site.length ? bar.node : "", body, unmeasured(answer));
    drawn = { notes, bar, sections };
  }

  // What a study lacks: what it would show, the command, and a button that starts it.
  function unmeasured({ missing, study, method, bits }) {
    if (missing.problem || !missing.probes.length) return el("p", { class: "dq-sub" }, missing.problem || "");
    return el("section", { class: "dq-card dq-unmeasured", "data-view": "missing" },
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Not measured yet"),
        el("p", { class: "dq-lede" }, `This study holds no probe of these for ${method} at ${bits}. One job measures all of them, beside a calibration with the model's own steps, which is recorded where the study has none.${missing.copy ? ` They go into ${missing.copy}, your own copy of this recorded study.` : ""}`))),
      el("ul", { class: "dq-says" }, missing.probes.map((p) => el("li", {}, el("strong", {}, `${p.title}. `), p.summary))),
      starter("Measure now", missing.command, { what: "probe", study, method, bits }));
  }

  // A button that starts a job, its progress, and the same as a command; a job under way is followed.
  function starter(label, command, query) {
    const button = el("button", { type: "button", class: "dq-primary" }, label);
    const cancel = el("button", { type: "button", class: "dq-small", hidden: true }, "Cancel");
    const status = el("p", { class: "dq-lede", role: "status" });
    const parts = { button, cancel, status };
    button.addEventListener("click", async () => {
      button.disabled = true;
      const begun = JSON.parse(await server.methods_start(query));
      if (!begun.error) return follow(begun.job, parts);
      status.textContent = begun.error;
      button.disabled = false;
    });
    const running = context.missing?.jobs?.[query.what];
    if (running) requestAnimationFrame(() => follow(running, parts));
    return el("div", { class: "dq-starter" }, el("div", { class: "dq-emptyline" }, button, cancel, status), commandLine(command));
  }
  context.starter = starter;

  async function follow(job, { button, cancel, status }) {
    button.disabled = true;
    cancel.hidden = false;
    cancel.onclick = () => { cancel.disabled = true; server.methods_cancel({ job }); };
    while (root.contains(status)) {
      const now = JSON.parse(await server.methods_state({ job }));
      if (now.state === "done") {
        if (now.study && now.study !== chosen.study) chosen = { study: now.study, method: chosen.method, bits: chosen.bits };
        return refresh(["page"]);
      }
      if (now.error || ["failed", "cancelled"].includes(now.state)) {
        status.textContent = now.error || (now.state === "failed" ? `It failed: ${now.message}` : "Cancelled. What was finished is kept; it goes on from there.");
        cancel.hidden = true;
        button.disabled = cancel.disabled = false;
        return;
      }
      const share = now.total ? ` ${Math.floor((100 * now.done) / now.total)} %` : "";
      status.textContent = cancel.disabled ? "Cancelling…" : `${now.state === "queued" ? "Waiting for its turn" : now.stage || "Measuring"}${share && `:${share}`}${now.seconds_left ? `, ${clock(now.seconds_left)} left` : ""}. You may leave; it goes on.`;
      await new Promise((resolve) => setTimeout(resolve, 800));
    }
  }

  function empty({ models }) {
    drawn = null;
    const model = options(el("select", { "aria-label": "Model", class: "dq-select" }), models.map((m) => [m, m]));
    const node = tables.empty({ title: "See why a method does what it does", text: "Probes of a method measure, beside its calibration, what its choices are made of.",
      steps: [{ title: "Look", text: "Incoherence over the steps, before and after each transform." }, { title: "Choose", text: "Alpha, rotation, windows and sharing, each with the error that it leaves." }, { title: "Compare", text: "Take the choice into a comparison, or along as a command." }] });
    const holder = el("div", {});
    const fill = () => holder.replaceChildren(starter("Measure now", `dqviz probe ${model.value} --method viditq --bits w4a8`, { what: "probe", model: model.value }));
    model.addEventListener("change", fill);
    if (models.length) fill();
    node.append(el("div", { class: "dq-emptyline" }, model), holder);
    root.replaceChildren(node);
    root.dataset.shown = "empty";
  }

  function keepAddress() {
    const url = new URL(location.href);
    for (const k of keys) {
      const value = chosen[k];
      value === undefined || value === "" || (k === "window" && !Number(value)) ? url.searchParams.delete(k) : url.searchParams.set(k, value);
    }
    if (url.href !== location.href) history.replaceState(null, "", url);
  }

  chosen = Object.fromEntries(new URL(location.href).searchParams);
  loadPlotly().catch(() => {});
  refresh(["page"]).then(() => document.getElementById(location.hash.slice(1))?.scrollIntoView());
  return {};
}

function pick(label, entries, value, change) {
  if (entries.length < 2) return "";
  const select = options(el("select", { class: "dq-select" }), entries);
  select.value = value;
  select.addEventListener("change", () => change(select.value));
  return el("label", { class: "dq-field" }, el("span", {}, label), select);
}

export function commandLine(text) {
  const button = el("button", { type: "button", class: "dq-small" }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return el("div", { class: "dq-emptyline dq-commandline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, commandParts(text))), button);
}

function hint(section) {
  return el("section", { class: "dq-card" }, el("div", { class: "dq-head" }, el("h2", {}, section.title)), el("p", { class: "dq-lede" }, section.text || ""));
}

// The bar that stays in view: which input, which window, and where the views are.
function selectionBar({ controls, context }) {
  const names = controls.site.map(([name]) => name);
  const site = options(el("select", { class: "dq-select dq-site", "aria-label": "Input" }), controls.site);
  site.addEventListener("change", () => context.choose({ site: site.value }));
  const other = (by) => context.choose({ site: names[Math.min(Math.max(names.indexOf(site.value) + by, 0), names.length - 1)] });
  const button = (text, label, f) => el("button", { type: "button", class: "dq-small dq-stepbutton", "aria-label": label, title: label, on: { click: f } }, text);
  const window_ = controls.window.length > 1 ? choice("Window of steps", controls.window, "0", (k) => context.choose({ window: Number(k) })) : null;
  const node = el("section", { class: "dq-card dq-bar2", "aria-label": "Chosen input and window" },
    el("div", { class: "dq-barline" },
      el("label", { class: "dq-field dq-wide" }, el("span", {}, "Input"), site),
      el("div", { class: "dq-pair" }, button("‹", "Input before", () => other(-1)), button("›", "Next input", () => other(1))),
      window_ ? el("div", { class: "dq-field" }, el("span", {}, "Window"), window_) : "",
      el("nav", { class: "dq-jumps", "aria-label": "Views" }, controls.views.map(([key, title]) => el("a", { href: `#dq-${key}` }, title)))));
  function show(chosen) {
    site.value = chosen.site;
    if (window_) [...window_.children].forEach((b, k) => b.setAttribute("aria-pressed", String(k === Number(chosen.window))));
  }
  return { node, show };
}
