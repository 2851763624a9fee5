// The Runs page: jobs with progress and what may be done with them, studies, two of them side by side.
// It asks the server every second while a job is active and the page is visible, and not otherwise.
import { drawers as tables } from "./tables.js";
import { badge, clock, copy, el, heading } from "./tools.js";

const EVERY = 1000;
const ACTIONS = {
  cancel: ["Cancel"],
  resume: ["Resume"],
  delete: ["Delete", "Delete for good", "The job and its log go; what it made stays in its study."],
};

const link = (href, text, cls = "dq-link") => el("a", { class: cls, href }, text);
const when = (iso) => (iso ? new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "");
const study = (page, name) => `./${page}?study=${encodeURIComponent(name)}`;
const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const some = (n, one, many) => (n ? `${n} ${n === 1 ? one : many}` : "");

export function runs({ element, server }) {
  const root = element.querySelector(".dq-view");
  const said = el("div", { class: "dq-offscreen", role: "status" });
  const trouble = el("div", { role: "alert" });
  const jobs = el("section", { class: "dq-card", "aria-label": "Jobs" });
  const studies = el("section", { class: "dq-card", "aria-label": "Studies" });
  const beside = el("div", { class: "dq-beside" });
  root.append(said, trouble, jobs, studies, beside);

  const logs = new Map(); // job id -> text of its open log
  let states = null; // job id -> state, as last shown
  let timer = null;
  let asking = false;

  async function ask(name, query = {}) {
    const answer = await server[`runs_${name}`](query);
    if (answer?.error) throw new Error(answer.error);
    return answer;
  }

  function complain(error) {
    trouble.replaceChildren(error ? el("p", { class: "dq-note dq-bad" }, String(error.message || error)) : "");
  }

  // Show what is under the pointer or has the keyboard's focus again after a redraw.
  function keepingFocus(node, draw) {
    const key = node.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    draw();
    if (key) [...node.querySelectorAll("[data-key]")].find((n) => n.dataset.key === key)?.focus();
  }

  function press(label, key, act) {
    const button = el("button", { type: "button", class: "dq-small", "data-key": key }, label);
    let busy = false; // instead of `disabled`, which would take the keyboard's focus away
    button.addEventListener("click", async () => {
      if (busy) return;
      busy = true;
      try {
        complain(null);
        await act(button);
      } catch (e) {
        complain(e);
      } finally {
        busy = false;
      }
    });
    return button;
  }

  // What cannot be undone asks once more, in its place; Escape or "Keep" goes back.
  function pressTwice(label, sure, explanation, key, act) {
    const holder = el("span", { class: "dq-sure" });
    const first = press(label, key, () => {
      const really = press(sure, `${key}!`, act);
      really.classList.add("dq-danger");
      const keep = el("button", { type: "button", class: "dq-small" }, "Keep");
      const back = () => { holder.replaceChildren(first); first.focus(); };
      keep.addEventListener("click", back);
      holder.addEventListener("keydown", (e) => { if (e.key === "Escape") back(); });
      holder.replaceChildren(el("span", { class: "dq-sub" }, explanation), really, keep);
      really.focus();
    });
    holder.append(first);
    return holder;
  }

  function nothing(empty) {
    return el("div", { class: "dq-nothing" }, el("h3", {}, empty.title), el("p", {}, empty.text), el("p", {}, link(empty.link.href, empty.link.text)));
  }

  // -- jobs

  function drawJob(job) {
    const percent = job.total ? Math.min(100, Math.floor((100 * job.done) / job.total)) : null;
    const facts = [
      job.what,
      job.active && percent !== null ? `${percent} %` : "",
      job.active && job.left !== null ? `${clock(job.left)} left` : "",
      job.ended ? `ended ${when(job.ended)}` : job.started ? `started ${when(job.started)}` : `asked for ${when(job.created)}`,
      job.attempts > 1 ? `attempt ${job.attempts}` : "",
    ].filter(Boolean);
    const tools = el("div", { class: "dq-tools" });
    if (job.watch) tools.append(link(job.watch, "Watch", "dq-small dq-link"));
    if (job.open) tools.append(link(job.open, "Open", "dq-small dq-link"));
    for (const action of job.actions) {
      const [label, sure, explanation] = ACTIONS[action];
      const act = async () => showJobs(await ask("job", { id: job.id, action }));
      tools.append(sure ? pressTwice(label, sure, explanation, `${action} ${job.id}`, act) : press(label, `${action} ${job.id}`, act));
    }
    tools.append(press(logs.has(job.id) ? "Hide log" : "Log", `log ${job.id}`, () => toggleLog(job.id)));
    if (job.command) tools.append(press("Copy as command", `command ${job.id}`, (button) => copy(job.command, button)));
    const row = el("li", { class: "dq-job", "data-state": job.state, "data-id": job.id },
      el("div", { class: "dq-jobhead" }, el("h3", {}, job.title), badge({ text: job.state, tone: job.tone })),
      el("p", { class: "dq-sub" }, facts.join(" · ")));
    if (job.active) {
      const bar = el("div", { class: percent === null ? "dq-bar dq-waiting" : "dq-bar", role: "progressbar", "aria-label": job.title, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": percent }, el("span"));
      bar.firstChild.style.width = `${percent ?? (job.state === "waiting" ? 0 : 100)}%`;
      row.append(bar);
    }
    if (job.message) row.append(el("p", { class: `dq-note ${job.state === "failed" ? "dq-bad" : ""}` }, job.message));
    row.append(tools);
    if (logs.has(job.id)) row.append(el("pre", { class: "dq-log", tabindex: "0", "aria-label": `Log of ${job.title}` }, logs.get(job.id)));
    return row;
  }

  function showJobs(section) {
    const open = jobs.querySelector(".dq-sure .dq-danger");
    const now = new Map(section.jobs.map((j) => [j.id, j.state]));
    const ended = section.jobs.filter((j) => !j.active && states && states.has(j.id) && states.get(j.id) !== j.state);
    if (ended.length) {
      said.textContent = ended.map((j) => `${j.title}: ${j.state}`).join(". ");
      showStudies();
    }
    const changed = !states || now.size !== states.size || [...now].some(([id, state]) => states.get(id) !== state);
    states = now;
    const active = section.jobs.some((j) => j.active);
    if (!open || changed) {
      keepingFocus(jobs, () => jobs.replaceChildren(heading(section),
        section.jobs.length ? el("ul", { class: "dq-joblist" }, section.jobs.map(drawJob)) : nothing(section.empty)));
    }
    schedule(active);
  }

  async function toggleLog(id) {
    if (logs.has(id)) logs.delete(id);
    else logs.set(id, (await ask("log", { id })).text);
    showJobs(await ask("jobs"));
  }

  function schedule(active) {
    clearTimeout(timer);
    timer = null;
    if (active && document.visibilityState === "visible" && root.isConnected) timer = setTimeout(refresh, EVERY);
  }

  async function refresh() {
    if (asking || !root.isConnected) return;
    asking = true;
    try {
      const section = await ask("jobs");
      for (const id of logs.keys()) if (section.jobs.some((j) => j.id === id && j.active)) logs.set(id, (await ask("log", { id })).text);
      complain(null);
      showJobs(section);
    } catch (e) {
      complain(e.message ? e : new Error("The server does not answer; this page asks again."));
      timer = setTimeout(refresh, 3 * EVERY);
    } finally {
      asking = false;
    }
  }

  // -- studies

  async function showStudies(section) {
    try {
      section ??= await ask("studies");
    } catch (e) {
      complain(e);
      return;
    }
    const list = el("ul", { class: "dq-joblist" }, section.studies.map((s) => {
      const facts = [s.model, some(s.comparisons, "comparison", "comparisons"), some(s.captures, "capture", "captures"), size(s.bytes), s.updated ? `changed ${when(s.updated)}` : ""].filter(Boolean);
      const tools = el("div", { class: "dq-tools" });
      if (s.comparisons) tools.append(link(study("", s.name), "Open in Compare", "dq-small dq-link"));
      if (s.captures) tools.append(link(study("activations", s.name), "Open in Activations", "dq-small dq-link"));
      if (!s.problem) tools.append(press("Duplicate", `duplicate ${s.name}`, async () => showStudies(await ask("study", { study: s.name, action: "duplicate" }))));
      if (s.deletable) tools.append(pressTwice("Delete", "Delete for good", `${some(s.runs, "run", "runs") || "Everything"} and ${size(s.bytes)} go.`, `delete ${s.name}`,
        async () => showStudies(await ask("study", { study: s.name, action: "delete" }))));
      return el("li", { class: "dq-job", "data-study": s.name },
        el("div", { class: "dq-jobhead" }, el("h3", {}, s.name), s.recorded ? badge({ text: "recorded", tone: "recorded", title: "Came with dqviz; read only. A run into it goes into a copy." }) : ""),
        el("p", { class: "dq-sub" }, facts.join(" · ")),
        s.problem ? el("p", { class: "dq-note dq-bad" }, s.problem) : "", tools);
    }));
    keepingFocus(studies, () => studies.replaceChildren(heading(section), section.studies.length ? list : nothing(section.empty), chooser(section.choices)));
  }

  function chooser(choices) {
    if (choices.length < 2) return "";
    const pick = (label, at) => {
      const select = el("select", { class: "dq-select", "aria-label": label });
      const made = el("p", { class: "dq-sub" });
      const say = () => { made.textContent = choices[Number(select.value)].runs; };
      choices.forEach((c, i) => select.append(el("option", { value: String(i) }, c.label)));
      select.value = String(at);
      select.addEventListener("change", say);
      say();
      return [select, el("div", { class: "dq-picked" }, select, made)];
    };
    const [first, one] = pick("First comparison", 1), [second, other] = pick("Second comparison", 0);
    const button = press("Compare the two", "beside", async () => {
      const [a, b] = [first, second].map((s) => choices[Number(s.value)]);
      const found = await ask("beside", { first: a, second: b });
      beside.replaceChildren(...found.sections.map((section) => tables[section.kind](section, {})));
      beside.scrollIntoView({ block: "nearest" });
    });
    return el("div", { class: "dq-chooser" }, el("h3", {}, "Two side by side"),
      el("div", { class: "dq-chooserow" }, one, other, button));
  }

  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible" && root.isConnected) refresh(); });
  refresh();
  showStudies();
  return {};
}
