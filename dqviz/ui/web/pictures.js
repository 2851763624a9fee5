// The grid of pictures and the loupe that lays two of them over each other.
import { choice, el, heading, selector, swatch } from "./tools.js";

export const settings = { size: null, pixels: "crisp", gain: 4, show: "pictures" };
const GAINS = [1, 2, 4, 8, 16]; // of a difference
const SIZES = { s: 84, m: 128, l: 192 };
const MANY = 5; // of more runs, pictures begin small
const LONG = 40; // characters of a label that takes more room

// The amplified difference of two pictures into a canvas; its mean and largest value in each of the
// areas [x, y, w, h], by default the whole. Null for pictures of different sizes.
export function drawDifference(canvas, left, right, gain, areas = null) {
  const w = left.naturalWidth, h = left.naturalHeight;
  if (!w || w !== right.naturalWidth || h !== right.naturalHeight) return null;
  const pixels = [left, right].map((image) => {
    const scratch = el("canvas", { width: w, height: h });
    const pen = scratch.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, w, h).data;
  });
  const out = new ImageData(w, h);
  const found = (areas || [[0, 0, w, h]]).map(([x0, y0, width, height]) => {
    let sum = 0, most = 0;
    for (let y = y0; y < y0 + height; y++) {
      for (let i = 4 * (y * w + x0), end = i + 4 * width; i < end; i += 4) {
        for (let c = 0; c < 3; c++) {
          const d = Math.abs(pixels[0][i + c] - pixels[1][i + c]);
          sum += d; most = Math.max(most, d);
          out.data[i + c] = Math.min(255, d * gain);
        }
        out.data[i + 3] = 255;
      }
    }
    return { mean: sum / (width * height * 3), most };
  });
  canvas.width = w; canvas.height = h;
  canvas.getContext("2d").putImageData(out, 0, 0);
  return found;
}

export function loaded(image) {
  return image.complete && image.naturalWidth ? Promise.resolve(image)
    : new Promise((resolve) => { image.addEventListener("load", () => resolve(image), { once: true }); });
}

export class Pictures {
  constructor(section, context) {
    this.section = section;
    this.what = section.title.toLowerCase().replace(/s$/, "");
    this.context = context;
    this.images = section.images.map((list) => list.slice());
    this.shown = Math.min(section.samples.length, section.page);
    const kept = context.loupe || {}; // what the person chose, also when the page is drawn anew
    const last = section.runs.length - 1;
    this.pick = {
      sample: Math.min(kept.sample ?? 0, section.samples.length - 1),
      left: Math.min(kept.left ?? 0, last),
      right: Math.min(kept.right ?? last, last),
      cut: kept.cut,
    };
    this.root = el("section", { class: "dq-card dq-pictures" });
    this.table = el("table", { class: "dq-grid" });
    this.more = el("div", { class: "dq-more" });
    this.loupe = el("aside", { class: "dq-loupe", "aria-label": `Loupe: two ${this.what}s of the same seed` });
    this.cells = [];
  }

  start() {
    const board = el("div", { class: "dq-board" },
      el("div", { class: "dq-gridside" }, el("div", { class: "dq-scroll" }, this.table), this.more), this.loupe);
    this.root.append(heading(this.section, this.toolbar()), this.above(), board);
    this.drawGrid();
    this.drawLoupe();
    this.restyle();
    return this.root;
  }

  // What a kind of picture has between heading and grid, and below the loupe's difference.
  above() { return ""; }
  below() { return ""; }

  toolbar() {
    return [
      choice("Show", [["pictures", this.section.title], ["difference", "Difference"]], settings.show, (v) => { settings.show = v; this.refresh(); }),
      choice("Amplification of the difference", GAINS.map((g) => [g, `×${g}`]), settings.gain, (v) => { settings.gain = v; this.refresh(); this.drawDifference(); }),
      choice(`Size of ${this.what}s`, [["s", "S"], ["m", "M"], ["l", "L"]], this.size(), (v) => { settings.size = v; this.restyle(); }),
      choice("Scaling", [["crisp", "Crisp"], ["smooth", "Smooth"]], settings.pixels, (v) => { settings.pixels = v; this.restyle(); }),
    ];
  }

  size() {
    return settings.size ?? (this.section.runs.length > MANY ? "s" : "m");
  }

  restyle() {
    this.root.style.setProperty("--dq-tile", `${SIZES[this.size()]}px`);
    this.root.classList.toggle("dq-crisp", settings.pixels === "crisp");
  }

  runHead(run, index) {
    return el("th", { scope: "col" }, el("div", { class: "dq-runhead" },
      el("span", { class: "dq-runname" }, swatch(run.colour), run.name),
      el("span", { class: "dq-sub" }, run.detail || " "),
      el("span", { class: "dq-runfigure" }, run.figure || (index ? "–" : " "))));
  }

  drawGrid() {
    const { runs, samples } = this.section;
    this.cells = [];
    const body = el("tbody");
    for (let i = 0; i < this.shown; i++) {
      const row = el("tr", {}, this.rowHead(samples[i]));
      this.cells.push(runs.map((run, r) => {
        const image = el("img", { alt: "", draggable: "false" });
        const canvas = el("canvas", { "aria-hidden": "true" });
        const step = el("span", { class: "dq-step" });
        const button = el("button", { type: "button", class: "dq-tile", run: run.colour, "aria-label": this.describe(r, i) }, this.inTile(image, canvas), step);
        button.addEventListener("click", () => this.choose(r, i));
        const caption = el("span", { class: "dq-caption" }, this.section.captions[r]?.[i] || " ");
        row.append(el("td", {}, button, caption));
        return { image, canvas, step, button, caption };
      }));
      body.append(row);
    }
    this.table.replaceChildren(el("caption", { class: "dq-offscreen" }, this.section.title),
      el("thead", {}, el("tr", {}, el("td"), runs.map((r, i) => this.runHead(r, i)))), body);
    this.refresh();
    this.drawMore();
  }

  rowHead(sample) {
    const long = sample.label.length > LONG;
    return el("th", { scope: "row", class: long ? "dq-long" : null, title: long ? sample.label : null },
      el("span", { class: "dq-value" }, sample.label),
      sample.negative ? el("span", { class: "dq-sub" }, `without: ${sample.negative}`) : "",
      el("span", { class: "dq-sub" }, `seed ${sample.seed}`));
  }

  inTile(image, canvas) {
    return [image, canvas];
  }

  describe(r, i) {
    const { runs, samples, captions } = this.section;
    const number = captions[r]?.[i];
    return `${runs[r].name} ${runs[r].detail || ""}, ${samples[i].label}, seed ${samples[i].seed}${number ? `, ${number}` : ""}: open in the loupe`;
  }

  refresh() {
    const factor = settings.show === "difference" ? `, difference ×${settings.gain}` : "";
    this.table.caption.textContent = `${this.section.title}${factor}`;
    for (let i = 0; i < this.cells.length; i++) for (let r = 0; r < this.cells[i].length; r++) this.drawCell(r, i);
    this.mark();
  }

  drawCell(r, i) {
    const c = this.cells[i]?.[r];
    const source = this.images[r]?.[i];
    if (!c) return;
    c.button.classList.toggle("dq-blank", !source);
    c.button.disabled = !source;
    if (source && c.image.src !== source) c.image.src = source;
    const difference = Boolean(settings.show === "difference" && r > 0 && source && this.images[0]?.[i]);
    c.button.classList.toggle("dq-differs", difference);
    this.paint(c, difference ? this.cells[i][0] : null);
  }

  // The cell's image is set; with a reference its difference to that is shown.
  paint(c, reference) {
    if (reference) Promise.all([loaded(reference.image), loaded(c.image)]).then(() => drawDifference(c.canvas, reference.image, c.image, settings.gain));
  }

  mark() {
    this.cells.forEach((row, i) => row.forEach((c, r) => {
      const chosen = i === this.pick.sample && (r === this.pick.left || r === this.pick.right);
      c.button.classList.toggle("dq-chosen", chosen);
    }));
  }

  choose(r, i) {
    this.pick.sample = i;
    if (r === 0) this.pick.left = 0; else this.pick.right = r;
    this.keep();
    this.drawLoupe();
    this.mark();
    this.loupe.scrollIntoView({ block: "nearest" }); // beside the grid it is in view already
  }

  keep() {
    this.context.loupe = { ...this.pick };
  }

  drawMore() {
    const left = this.section.samples.length - this.shown;
    this.more.replaceChildren();
    if (left <= 0) return;
    const n = Math.min(left, this.section.page);
    const button = el("button", { type: "button", class: "dq-secondary" }, `Show ${n} more of ${left}`);
    button.addEventListener("click", async () => {
      button.disabled = true;
      await this.fetch(this.shown, n);
      this.shown += n;
      this.drawGrid();
      this.drawLoupe();
    });
    this.more.append(button);
  }

  async fetch(first, count) {
    if (this.images[0]?.[first] || !this.section.study) return;
    const more = await this.context.server.pictures({ study: this.section.study, comparison: this.section.comparison, first, count });
    (more.images || []).forEach((list, r) => list.forEach((url, k) => { if (this.images[r]) this.images[r][first + k] = url; }));
  }

  drawLoupe() {
    this.drawDifference = () => {}; // the loupe's, once more
    const { runs, samples } = this.section;
    this.loupe.hidden = runs.length < 2 || !samples.length;
    if (this.loupe.hidden) return;
    const { sample, left, right } = this.pick;
    const [a, b] = [this.whole(left, sample), this.whole(right, sample)];
    const names = runs.map((r) => `${r.name}${r.detail ? ` ${r.detail}` : ""}`);
    const pick = (key) => (v) => { this.pick[key] = v; this.keep(); this.drawLoupe(); this.mark(); };
    const bar = el("div", { class: "dq-loupebar" },
      selector("Sample", samples.slice(0, this.shown).map((s) => `${s.label} · seed ${s.seed}`), sample, pick("sample")),
      selector(`Left ${this.what}`, names, left, pick("left")),
      selector(`Right ${this.what}`, names, right, pick("right")));
    if (!a || !b) {
      this.loupe.replaceChildren(bar, el("div", { class: "dq-stage dq-blank" }, el("p", { class: "dq-lede" }, `The pair appears here when both ${this.what}s are drawn.`)));
      return;
    }
    const first = this.pane(a, `${names[left]}, ${samples[sample].label}, seed ${samples[sample].seed}`);
    const second = this.pane(b, `${names[right]}, same seed`);
    second.node.classList.add("dq-over");
    const range = el("input", { type: "range", min: 0, max: 100, value: this.pick.cut ?? 50, class: "dq-cut", "aria-label": `Divide between left and right ${this.what}` });
    const stage = el("div", { class: "dq-stage" }, first.node, second.node, el("span", { class: "dq-line", "aria-hidden": "true" }), range);
    const cut = () => { this.pick.cut = Number(range.value); stage.style.setProperty("--cut", `${range.value}%`); };
    range.addEventListener("input", cut);
    cut();
    const tags = el("div", { class: "dq-tags" },
      el("span", {}, swatch(runs[left].colour), names[left]),
      el("span", {}, names[right], swatch(runs[right].colour)));
    this.loupe.replaceChildren(bar, stage, tags, this.differencePanel(first.image, second.image), this.below());
  }

  // What is drawn to its end, for the loupe.
  whole(r, i) {
    return this.images[r]?.[i];
  }

  // What shows one picture large, and the image it comes from.
  pane(url, alt) {
    const node = el("img", { src: url, alt, draggable: "false" });
    return { node, image: loaded(node) };
  }

  differencePanel(...sides) {
    const canvas = el("canvas", { class: "dq-diff", role: "img", "aria-label": `Amplified difference of the two ${this.what}s` });
    const numbers = el("p", { class: "dq-sub", "aria-live": "polite" });
    const both = Promise.all(sides);
    this.drawDifference = () => both.then((images) => this.compare(canvas, numbers, ...images));
    this.drawDifference();
    return el("div", { class: "dq-diffpanel" }, canvas, numbers);
  }

  compare(canvas, numbers, first, second) {
    const found = drawDifference(canvas, first, second, settings.gain);
    numbers.textContent = !found ? "These pictures differ in size."
      : found[0].most === 0 ? "No difference in the 8-bit pictures."
        : `Difference ×${settings.gain}. Mean ${found[0].mean.toFixed(2)}, largest ${found[0].most} of 255.`;
  }

  // A frame of a running comparison: pictures of some samples of one run.
  live(frame) {
    const { run, first, images, step, steps } = frame;
    images.forEach((url, k) => {
      const i = first + k;
      if (!this.images[run]) return;
      this.images[run][i] = url;
      this.drawCell(run, i);
      const c = this.cells[i]?.[run];
      if (c) {
        c.step.textContent = step < steps ? `${step}/${steps}` : "";
        c.button.style.setProperty("--done", String(step / steps));
      }
    });
    if (first <= this.pick.sample && this.pick.sample < first + images.length && step >= steps && (run === this.pick.left || run === this.pick.right)) this.drawLoupe();
  }
}
