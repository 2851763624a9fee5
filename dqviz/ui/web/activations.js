// The Activations page: a map of all inputs and steps, a bar that chooses one, and panels that show it.
// One request per choice; the newest choice wins. The address always names what is shown.
import { siteMap } from "./sitemap.js";
import { panelCards } from "./panels.js";
import { drawers as tables } from "./tables.js";
import { loadPlotly } from "./plots.js";
import { clock, commandParts, copy, el, options } from "./tools.js";

// What a link may name, in its order; defaults are left out of the address.
const NAMED = ["study", "capture", "statistic", "rows", "branch", "stage", "site", "step", "bits", "format", "scale", "cover", "order", "axis", "surface", "map"];
const DEFAULTS = { rows: "all", stage: "input", branch: "conditional", bits: 4, format: "sym", scale: "row", cover: "100", order: "channel", axis: "linear", surface: "flat", map: "heatmap" };
const OF_MAP = new Set(["statistic", "rows", "branch", "stage", "map"]); // what changes the map, not only the panels
const KEPT = 160; // answers that are kept, so that going back asks nothing
const PLAY_MS = 450;

export function activations({ element, props, server }) {
  const root = element.querySelector(".dq-activations");
  let chosen = {}; // the selection, as the server last confirmed it, with what was asked for since
  let drawn = null; // parts of the page once there is something to show
  const kept = new Map();

  async function ask(query, want) {
    const key = JSON.stringify([query, want]);
    if (kept.has(key)) return kept.get(key);
    const answer = JSON.parse(await server.activations({ ...query, want }));
    if (!answer.error && !answer.notes?.length && !want.includes("page")) {
      kept.set(key, answer);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return answer;
  }

  // Requests one after another: while one is under way, only the newest of the others waits.
  let busy = false;
  let waiting = null;
  async function refresh(want) {
    waiting = { want: new Set([...(waiting?.want ?? []), ...want]), done: waiting?.done ?? [] };
    const finished = new Promise((resolve) => waiting.done.push(resolve));
    if (!busy) {
      busy = true;
      while (waiting) {
        const { want: parts, done } = waiting;
        waiting = null;
        try {
          const answer = await ask(query(), ["page", "map", "panels"].filter((p) => parts.has(p)));
          if (waiting) for (const part of parts) if (part !== "panels") waiting.want.add(part);
          if (!waiting || parts.has("page")) await show(answer);
        } catch (e) {
          say([`The server did not answer: ${e.message || e}`]);
        }
        done.forEach((resolve) => resolve());
      }
      busy = false;
    }
    return finished;
  }

  const query = () => Object.fromEntries(NAMED.filter((k) => chosen[k] !== undefined && chosen[k] !== "").map((k) => [k, chosen[k]]));

  function choose(changes) {
    Object.assign(chosen, changes);
    const map = Object.keys(changes).some((k) => OF_MAP.has(k)) || chosen.map === "table";
    drawn?.bar.show(chosen);
    drawn?.map.mark(chosen);
    return refresh(map ? ["map", "panels"] : ["panels"]);
  }

  // Another study or capture: keep how things are drawn, forget what was chosen of the other.
  const open = (study, capture) => {
    for (const k of ["site", "step", "rows", "stage"]) delete chosen[k];
    Object.assign(chosen, { study, capture });
    return refresh(["page", "map", "panels"]);
  };

  async function show(answer) {
    if (answer.error) return say([answer.error]);
    if (answer.empty) return empty(answer);
    const asked = { ...chosen };
    chosen = { ...answer.selection, study: answer.study, capture: answer.capture };
    // A choice made while the answer was on its way stays chosen; its own answer follows.
    if (waiting) for (const k of NAMED) if (asked[k] !== undefined) chosen[k] = asked[k];
    if (answer.controls) build(answer);
    say(answer.notes);
    if (answer.overview) drawn.map.draw(answer.overview, chosen);
    drawn.map.mark(chosen);
    drawn.bar.show(chosen, answer.about);
    keepAddress(chosen, drawn.first);
    if (answer.panels) await drawn.panels.show(answer.panels, chosen);
    root.dataset.shown = `${chosen.site}@${chosen.step}`;
  }

  function say(texts) {
    const anew = el("p", { class: "dq-note" }, el("a", { href: location.pathname }, "Open this page without the choices of the link"));
    if (!drawn) root.replaceChildren(...texts.map((t) => el("p", { class: "dq-note dq-bad", role: "alert" }, t)), anew);
    else drawn.notes.replaceChildren(...(texts || []).map((t) => el("p", { class: "dq-note dq-warn" }, t)));
  }

  function build(answer) {
    const { controls, studies } = answer;
    const link = el("button", { type: "button", class: "dq-small" }, "Copy link to this view");
    link.addEventListener("click", () => copy(location.href, link));
    const head = tables.headline(answer.headline);
    head.querySelector(".dq-head").append(el("div", { class: "dq-fields" }, sources(studies, answer, open), link));
    const notes = el("div", { class: "dq-notes", role: "status" });
    const map = siteMap({ controls, choose });
    const bar = selectionBar({ controls, choose, kept: (q) => ask({ ...query(), ...q }, ["panels"]) });
    const panels = panelCards({ controls, choose });
    root.replaceChildren(head, notes, el("div", { class: "dq-desk" }, map.node, el("div", { class: "dq-about" }, bar.node, panels.node)));
    drawn = { notes, map, bar, panels, first: { study: Object.keys(studies)[0], capture: studies[answer.study]?.[0] } };
  }

  // Nothing to show: of a study without a capture, or at all. Another study can still be chosen.
  async function empty({ empty: section, studies, study }) {
    drawn = null;
    const models = study ? [] : JSON.parse(props.models_json || "[]"); // a study is of one model
    const node = tables.empty(section);
    const code = el("code", {}, commandParts(section.command));
    const copyButton = el("button", { type: "button", class: "dq-small" }, "Copy");
    copyButton.addEventListener("click", () => copy(code.textContent, copyButton));
    const line = el("div", { class: "dq-emptyline" }, el("pre", { tabindex: "0", "aria-label": "Command" }, code), copyButton);
    const select = el("select", { "aria-label": "Model to capture", class: "dq-select" }, models.map((m) => el("option", { value: m.key }, m.title)));
    const start = el("button", { type: "button", class: "dq-primary" }, "Capture now");
    const status = el("p", { class: "dq-lede", role: "status" });
    select.addEventListener("change", () => { code.replaceChildren(...commandParts(section.command.replace(/capture \S+/, () => `capture ${select.value}`))); });
    start.addEventListener("click", () => capture(study ? { study } : { model: select.value }, start, status));
    node.append(el("div", { class: "dq-emptyline" }, models.length ? select : "", models.length || study ? start : ""), status, el("p", { class: "dq-sub" }, "or on the command line:"), line);
    const others = sources(studies, { study: study || "", capture: "" }, open).filter(Boolean);
    root.replaceChildren(others.length ? el("div", { class: "dq-fields" }, others) : "", node);
    root.dataset.shown = "empty";
  }

  // A capture is a job: it goes on without this page.
  async function capture(what, button, status) {
    button.disabled = true;
    const begun = JSON.parse(await server.capture_start(what));
    if (begun.error) {
      status.textContent = begun.error;
      button.disabled = false;
      return;
    }
    while (root.contains(status)) {
      const job = JSON.parse(await server.capture_state({ job: begun.job }));
      if (job.error || ["failed", "cancelled"].includes(job.state)) {
        status.textContent = job.error || `Capture ${job.state}: ${job.message}`;
        button.disabled = false;
        return;
      }
      if (job.state === "done") return refresh(["page", "map", "panels"]);
      const share = job.total ? ` ${Math.floor((100 * job.done) / job.total)} %` : "";
      status.textContent = `${job.state === "queued" ? "Waiting for its turn" : job.stage || "Capturing"}${share}${job.seconds_left ? `, ${clock(job.seconds_left)} left` : ""}. You may leave; it goes on.`;
      await new Promise((resolve) => setTimeout(resolve, 800));
    }
  }

  const asked = new URL(location.href).searchParams;
  chosen = Object.fromEntries(NAMED.filter((k) => asked.has(k)).map((k) => [k, asked.get(k)]));
  loadPlotly().catch(() => {});
  refresh(["page", "map", "panels"]);
  return {};
}

// Studies and captures to look at; none where there is nothing to choose.
function sources(studies, answer, open) {
  const names = Object.keys(studies);
  if (!names.includes(answer.study)) names.unshift(answer.study);
  const captures = studies[answer.study] || [answer.capture];
  const pick = (label, values, value, change) => {
    if (values.length < 2) return "";
    const select = el("select", { class: "dq-select" }, values.map((v) => el("option", { value: v }, v)));
    select.value = value;
    select.addEventListener("change", () => change(select.value));
    return el("label", { class: "dq-field" }, el("span", {}, label), select);
  };
  return [pick("Study", names, answer.study, (v) => open(v, undefined)), pick("Capture", captures, answer.capture, (v) => open(answer.study, v))];
}

function keepAddress(chosen, first) {
  const url = new URL(location.href);
  for (const k of NAMED) {
    const value = chosen[k];
    const plain = value === undefined || value === "" || String(value) === String(DEFAULTS[k]) || value === first[k];
    plain && !["study", "site", "step"].includes(k) ? url.searchParams.delete(k) : url.searchParams.set(k, value);
  }
  if (url.href !== location.href) history.replaceState(null, "", url);
}

// The bar that stays in view: which input, which step, and play.
function selectionBar({ controls, choose, kept }) {
  const times = controls.timesteps;
  const names = controls.site.map(([name]) => name);
  const site = options(el("select", { class: "dq-select dq-site", id: "dq-site", "aria-label": "Input" }), controls.site);
  const slider = el("input", { type: "range", id: "dq-stepper", min: 0, max: times.length - 1, "aria-label": "Step" });
  const place = el("output", { class: "dq-mono dq-at", for: "dq-stepper" });
  const facts = el("p", { class: "dq-sub" });
  const button = (text, label, f) => el("button", { type: "button", class: "dq-small dq-stepbutton", "aria-label": label, title: label, on: { click: f } }, text);
  const play = button("▶", "Play the steps", () => (playing ? stop() : start()));
  play.setAttribute("aria-pressed", "false");
  let playing = false;
  let now = { step: 0 };
  const go = (step) => choose({ step: Math.min(Math.max(step, 0), times.length - 1) });
  const other = (by) => choose({ site: names[Math.min(Math.max(names.indexOf(now.site) + by, 0), names.length - 1)] });
  async function start() {
    playing = true;
    play.textContent = "❚❚";
    play.setAttribute("aria-pressed", "true");
    play.setAttribute("aria-label", "Pause");
    if (now.step >= times.length - 1) now.step = -1;
    while (playing && now.step < times.length - 1 && node.isConnected) {
      const pause = new Promise((resolve) => setTimeout(resolve, PLAY_MS));
      await go(Number(now.step) + 1);
      if (now.step < times.length - 1) kept({ step: Number(now.step) + 1 }).catch(() => {});
      await pause;
    }
    stop();
  }
  function stop() {
    playing = false;
    play.textContent = "▶";
    play.setAttribute("aria-pressed", "false");
    play.setAttribute("aria-label", "Play the steps");
  }
  site.addEventListener("change", () => choose({ site: site.value }));
  slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
  // Arrow keys move the step wherever nothing else takes them.
  document.addEventListener("keydown", (e) => {
    if (!node.isConnected || e.target !== document.body || e.altKey || e.ctrlKey || e.metaKey) return;
    const to = { ArrowLeft: now.step - 1, ArrowRight: now.step + 1, Home: 0, End: times.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    stop();
    go(to);
  });
  const node = el("section", { class: "dq-card dq-bar2", "aria-label": "Chosen input and step" },
    el("div", { class: "dq-barline" },
      el("label", { class: "dq-field dq-wide" }, el("span", {}, "Input"), site),
      el("div", { class: "dq-pair" }, button("‹", "Input before", () => other(-1)), button("›", "Next input", () => other(1))),
      el("div", { class: "dq-stepper" }, play, button("−", "One step back", () => { stop(); go(now.step - 1); }), slider, button("+", "One step on", () => { stop(); go(now.step + 1); }), place)),
    facts);
  function show(chosen, about) {
    now = { ...chosen, step: Number(chosen.step) };
    site.value = chosen.site;
    slider.value = String(now.step);
    const said = `step ${now.step} of ${times.length - 1}, timestep ${times[now.step]}`;
    place.textContent = `step ${now.step} · t ${times[now.step]}`;
    slider.setAttribute("aria-valuetext", said);
    if (about) facts.replaceChildren(el("span", { class: "dq-mono" }, about.sites.join(", ")), " · ", about.facts, about.note ? el("strong", {}, ` ${about.note}`) : "");
  }
  return { node, show };
}
