// A blind test: which of two pictures is the quantized one? Pairs and sides come from one seed, so
// that a link leads to the same test; answers stay in this browser.
import { copy, el, selector } from "./tools.js";

const ROUNDS = 16;
const KEPT = "dqviz-blind";

// Numbers in [0, 1) from a 32-bit seed (mulberry32).
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// The pairs of a test: which sample, and whether the quantized picture is the first.
export function pairsOf(seed, samples, rounds = ROUNDS) {
  const next = random(seed);
  const order = Array.from({ length: samples }, (_, i) => i);
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order.slice(0, rounds).map((sample) => ({ sample, first: next() < 0.5 }));
}

// Wilson's 95 % interval of a share.
export function wilson(hits, n) {
  if (!n) return [0, 1];
  const z = 1.959963984540054, share = hits / n;
  const middle = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [hits === 0 ? 0 : Math.max(0, middle - half), hits === n ? 1 : Math.min(1, middle + half)];
}

// What the answers (1, 2 or 0 for "cannot tell") let one say.
export function verdict(pairs, answers) {
  const decided = answers.map((a, i) => [a, pairs[i]]).filter(([a]) => a);
  const hits = decided.filter(([a, p]) => (a === 1) === p.first).length;
  const n = decided.length;
  const [low, high] = wilson(hits, n);
  const unsure = answers.length - n;
  const text = !n ? "You could not tell in any pair: on this evidence the difference cannot be seen."
    : low > 0.5 ? "Better than guessing: you can see the difference."
      : high < 0.5 ? "Worse than guessing: you see a difference, and took the original for the quantized one."
        : "No better than guessing: on this evidence you cannot tell them apart.";
  return { hits, n, unsure, low, high, text };
}

const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export class Blind {
  constructor(section, at) {
    this.section = section;
    this.at = at;
    const url = new URL(location.href);
    const given = Number(url.searchParams.get("seed"));
    this.seed = Number.isInteger(given) && given > 0 && given < 2 ** 32 ? given : null;
    this.root = el("section", { class: "dq-card dq-blind", id: "blind" });
    this.body = el("div", { class: "dq-blindbody" });
    this.root.append(el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, "Can you tell?"),
      el("p", { class: "dq-lede" }, "Two pictures without labels: one is the original, the other was drawn by the quantized model from the same seed."))), this.body);
    this.keys = (e) => {
      if (!this.root.isConnected) return document.removeEventListener("keydown", this.keys);
      if (!this.running() || e.ctrlKey || e.metaKey || e.altKey || /^(input|textarea|select)$/i.test(e.target.tagName) && e.target.type !== "range") return;
      if (["0", "1", "2"].includes(e.key)) { e.preventDefault(); this.answer(Number(e.key)); }
    };
    document.addEventListener("keydown", this.keys);
    if (this.seed) this.begin(this.seed);
    else this.invite();
  }

  running() {
    return Boolean(this.pairs) && this.answers.length < this.pairs.length;
  }

  // The slider moved: a test that has not begun takes its plan.
  follow(at) {
    if (at > 0 && !this.running()) { this.at = at; if (!this.pairs) this.invite(); }
  }

  invite() {
    const { stops, samples } = this.section;
    const plans = stops.slice(1).map((s) => `${s.label} (${s.share} of the memory)`);
    const start = el("button", { type: "button", class: "dq-primary" }, "Start the blind test");
    start.addEventListener("click", () => this.begin(1 + Math.floor(Math.random() * 999999)));
    this.body.replaceChildren(el("div", { class: "dq-invite" },
      el("label", { class: "dq-pickplan" }, el("span", {}, "Quantized to"), selector("Plan of the blind test", plans, this.at - 1, (i) => { this.at = i + 1; })), start,
      el("span", { class: "dq-sub" }, `${Math.min(ROUNDS, samples.length)} pairs, about a minute. Keys: 1, 2, and 0 for “cannot tell”.`)));
  }

  begin(seed) {
    this.seed = seed;
    this.pairs = pairsOf(seed, this.section.samples.length);
    this.answers = kept()[this.place()] || [];
    this.running() ? this.ask() : this.result();
  }

  place() {
    return `${this.section.key}/${this.section.stops[this.at].run}/${this.seed}`;
  }

  link() {
    const url = new URL(location.href);
    url.searchParams.set("plan", this.section.stops[this.at].run);
    url.searchParams.set("seed", String(this.seed));
    url.hash = "blind";
    return url.href;
  }

  answer(choice) {
    this.answers.push(choice);
    keep(this.place(), this.answers);
    this.running() ? this.ask() : this.result();
  }

  ask() {
    const round = this.answers.length;
    const { sample, first } = this.pairs[round];
    const [original, stop] = [this.section.stops[0], this.section.stops[this.at]];
    const urls = [original.images[sample], stop.images[sample]];
    if (first) urls.reverse();
    const buttons = [[1, "Picture 1"], [0, "Cannot tell"], [2, "Picture 2"]].map(([value, text]) => {
      const button = el("button", { type: "button", class: "dq-secondary dq-answer" }, text, el("kbd", {}, String(value)));
      button.addEventListener("click", () => this.answer(value));
      return button;
    });
    const picture = (i) => el("figure", {}, el("div", { class: "dq-frame" }, el("img", { src: urls[i], alt: `Picture ${i + 1}`, draggable: "false" })), el("figcaption", {}, el("b", {}, `Picture ${i + 1}`)));
    const held = [...this.body.querySelectorAll(".dq-answer")].indexOf(document.activeElement);
    this.body.replaceChildren(
      el("p", { class: "dq-round", "aria-live": "polite" }, el("b", {}, "Which one is quantized?"), el("span", {}, `pair ${round + 1} of ${this.pairs.length}`)),
      el("div", { class: "dq-bar", "aria-hidden": "true" }, el("span", { style: `width:${(100 * round) / this.pairs.length}%` })),
      el("div", { class: "dq-pair" }, picture(0), picture(1)),
      el("div", { class: "dq-answers", role: "group", "aria-label": "Which picture is the quantized one?" }, buttons));
    buttons[held]?.focus();
  }

  result() {
    const { hits, n, unsure, low, high, text } = verdict(this.pairs, this.answers);
    const stop = this.section.stops[this.at];
    const numbers = n ? `You named the quantized picture in ${hits} of ${n} answers: ${percent(hits / n)}, 95 % interval ${percent(low)} to ${percent(high)}. Guessing gives 50 %.` : "";
    const unsaid = unsure ? `In ${unsure} of ${this.pairs.length} pairs you could not tell; they are not in the interval.` : "";
    const again = el("button", { type: "button", class: "dq-secondary" }, "Test again");
    again.addEventListener("click", () => { this.pairs = null; this.forgetSeed(); this.invite(); });
    const share = el("button", { type: "button", class: "dq-secondary" }, "Copy link to this test");
    share.addEventListener("click", () => copy(this.link(), share));
    this.body.replaceChildren(
      el("p", { class: "dq-say", role: "status" }, text),
      el("p", { class: "dq-lede" }, [`${stop.label}, ${stop.share} of the memory.`, numbers, unsaid].filter(Boolean).join(" ")),
      n ? bar(hits / n, low, high) : "",
      el("p", { class: "dq-sub" }, "In every pair: the original on the left, the quantized picture on the right."),
      el("div", { class: "dq-reveal" }, this.pairs.map((p, i) => this.revealed(p, this.answers[i]))),
      el("div", { class: "dq-downloads" }, again, share));
  }

  revealed({ sample, first }, answer) {
    const [original, stop] = [this.section.stops[0], this.section.stops[this.at]];
    const right = (answer === 1) === first;
    const [mark, words, tone] = !answer ? ["–", "could not tell", "unsure"] : right ? ["✓", "named it", "right"] : ["✗", "took the original for it", "wrong"];
    const label = this.section.samples[sample].label;
    return el("figure", { class: `dq-${tone}` },
      el("img", { src: original.images[sample], alt: `${label}, original` }), el("img", { src: stop.images[sample], alt: `${label}, quantized` }),
      el("figcaption", { title: words }, el("span", { "aria-hidden": "true" }, mark), el("span", { class: "dq-offscreen" }, words), ` ${label}`));
  }

  forgetSeed() {
    const url = new URL(location.href);
    url.searchParams.delete("seed");
    url.hash = "";
    history.replaceState(null, "", url);
    this.seed = null;
  }
}

// The share with its interval, and where guessing is.
function bar(share, low, high) {
  const label = `Share of right answers ${percent(share)}, 95 % interval ${percent(low)} to ${percent(high)}, guessing is 50 %`;
  return el("div", { class: "dq-share", role: "img", "aria-label": label, style: `--low:${low};--high:${high};--mid:${share}` },
    el("i", { class: "dq-span" }), el("i", { class: "dq-mid" }), el("i", { class: "dq-chance" }),
    el("span", { style: "left:0" }, "0 %"), el("span", { style: "left:50%" }, "guessing"), el("span", { style: "left:100%" }, "100 %"));
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) || {};
  } catch {
    return {};
  }
}

function keep(place, answers) {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...kept(), [place]: answers }));
  } catch { /* a private window keeps nothing; the test goes on */ }
}
