// The grid of pictures and the loupe that lays two of them over each other.
import { choice, el, heading, selector, swatch } from "./tools.js";

const settings = { size: null, pixels: "crisp", gain: 4, show: "pictures" };
const SIZES = { s: 84, m: 128, l: 192 };
const MANY = 5; // of more runs, pictures begin small

function drawDifference(canvas, left, right, gain) {
  const w = left.naturalWidth, h = left.naturalHeight;
  if (!w || w !== right.naturalWidth || h !== right.naturalHeight) return null;
  const pixels = [left, right].map((image) => {
    const scratch = el("canvas", { width: w, height: h });
    const pen = scratch.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, w, h).data;
  });
  const out = new ImageData(w, h);
  let sum = 0, most = 0;
  for (let i = 0; i < out.data.length; i += 4) {
    for (let c = 0; c < 3; c++) {
      const d = Math.abs(pixels[0][i + c] - pixels[1][i + c]);
      sum += d; most = Math.max(most, d);
      out.data[i + c] = Math.min(255, d * gain);
    }
    out.data[i + 3] = 255;
  }
  canvas.width = w; canvas.height = h;
  canvas.getContext("2d").putImageData(out, 0, 0);
  return { mean: sum / (w * h * 3), most };
}

function loaded(image) {
  return image.complete && image.naturalWidth ? Promise.resolve(image)
    : new Promise((resolve) => { image.addEventListener("load", () => resolve(image), { once: true }); });
}

class Pictures {
  constructor(section, context) {
    this.section = section;
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
    this.loupe = el("aside", { class: "dq-loupe", "aria-label": "Loupe: two pictures of the same seed" });
    const board = el("div", { class: "dq-board" },
      el("div", { class: "dq-gridside" }, el("div", { class: "dq-scroll" }, this.table), this.more), this.loupe);
    this.root.append(heading(section, this.toolbar()), board);
    this.cells = [];
    this.drawGrid();
    this.drawLoupe();
    this.restyle();
  }

  toolbar() {
    return [
      choice("Show", [["pictures", "Pictures"], ["difference", "Difference"]], settings.show, (v) => { settings.show = v; this.refresh(); }),
      choice("Picture size", [["s", "S"], ["m", "M"], ["l", "L"]], this.size(), (v) => { settings.size = v; this.restyle(); }),
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
      const row = el("tr", {}, el("th", { scope: "row" }, el("span", { class: "dq-value" }, samples[i].label), el("span", { class: "dq-sub" }, `seed ${samples[i].seed}`)));
      this.cells.push(runs.map((run, r) => {
        const image = el("img", { alt: "", draggable: "false" });
        const canvas = el("canvas", { "aria-hidden": "true" });
        const step = el("span", { class: "dq-step" });
        const button = el("button", { type: "button", class: "dq-tile", run: run.colour, "aria-label": this.describe(r, i) }, image, canvas, step);
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

  describe(r, i) {
    const { runs, samples, captions } = this.section;
    const number = captions[r]?.[i];
    return `${runs[r].name} ${runs[r].detail || ""}, ${samples[i].label}, seed ${samples[i].seed}${number ? `, ${number}` : ""}: open in the loupe`;
  }

  refresh() {
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
    const difference = settings.show === "difference" && r > 0 && source && this.images[0]?.[i];
    c.button.classList.toggle("dq-differs", Boolean(difference));
    if (difference) {
      const reference = this.cells[i][0].image;
      Promise.all([loaded(reference), loaded(c.image)]).then(() => drawDifference(c.canvas, reference, c.image, settings.gain));
    }
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
    const { runs, samples } = this.section;
    this.loupe.hidden = runs.length < 2 || !samples.length;
    if (this.loupe.hidden) return;
    const { sample, left, right } = this.pick;
    const [a, b] = [this.images[left]?.[sample], this.images[right]?.[sample]];
    const names = runs.map((r) => `${r.name}${r.detail ? ` ${r.detail}` : ""}`);
    const pick = (key) => (v) => { this.pick[key] = v; this.keep(); this.drawLoupe(); this.mark(); };
    const bar = el("div", { class: "dq-loupebar" },
      selector("Sample", samples.slice(0, this.shown).map((s) => `${s.label} · seed ${s.seed}`), sample, pick("sample")),
      selector("Left picture", names, left, pick("left")),
      selector("Right picture", names, right, pick("right")));
    if (!a || !b) {
      this.loupe.replaceChildren(bar, el("div", { class: "dq-stage dq-blank" }, el("p", { class: "dq-lede" }, "The pair appears here when both pictures are drawn.")));
      return;
    }
    const first = el("img", { src: a, alt: `${names[left]}, ${samples[sample].label}, seed ${samples[sample].seed}`, draggable: "false" });
    const second = el("img", { src: b, class: "dq-over", alt: `${names[right]}, same seed`, draggable: "false" });
    const range = el("input", { type: "range", min: 0, max: 100, value: this.pick.cut ?? 50, class: "dq-cut", "aria-label": "Divide between left and right picture" });
    const stage = el("div", { class: "dq-stage" }, first, second, el("span", { class: "dq-line", "aria-hidden": "true" }), range);
    const cut = () => { this.pick.cut = Number(range.value); stage.style.setProperty("--cut", `${range.value}%`); };
    range.addEventListener("input", cut);
    cut();
    const tags = el("div", { class: "dq-tags" },
      el("span", {}, swatch(runs[left].colour), names[left]),
      el("span", {}, names[right], swatch(runs[right].colour)));
    this.loupe.replaceChildren(bar, stage, tags, this.differencePanel(first, second));
  }

  differencePanel(first, second) {
    const canvas = el("canvas", { class: "dq-diff", role: "img", "aria-label": "Amplified difference of the two pictures" });
    const gain = el("input", { type: "range", min: 0, max: 6, step: 1, value: Math.log2(settings.gain), "aria-label": "Amplification of the difference" });
    const numbers = el("p", { class: "dq-sub", "aria-live": "polite" });
    const draw = () => {
      const found = drawDifference(canvas, first, second, settings.gain);
      canvas.setAttribute("data-gain", String(settings.gain));
      numbers.textContent = !found ? "These pictures differ in size."
        : found.most === 0 ? "No difference in the 8-bit pictures."
          : `Difference ×${settings.gain}. Mean ${found.mean.toFixed(2)}, largest ${found.most} of 255.`;
    };
    gain.addEventListener("input", () => { settings.gain = 2 ** Number(gain.value); draw(); if (settings.show === "difference") this.refresh(); });
    Promise.all([loaded(first), loaded(second)]).then(draw);
    return el("div", { class: "dq-diffpanel" }, canvas, el("label", { class: "dq-gain" }, el("span", {}, "Amplify"), gain), numbers);
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

function drawPictures(section, context) {
  context.pictures = new Pictures(section, context);
  return context.pictures.root;
}

export const drawers = { pictures: drawPictures };
