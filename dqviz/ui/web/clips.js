// Clips: all of them step through their frames together. Each comes as one sheet of frames.
import { Pictures, drawDifference, loaded, settings } from "./pictures.js";
import { choice, el } from "./tools.js";

const SPEEDS = [["0.25", "¼×"], ["0.5", "½×"], ["1", "1×"]];
const TYPED = `select, textarea, [contenteditable], input:not(${["range", "checkbox", "radio", "button", "file"].map((t) => `[type=${t}]`)})`; // where a key is text
const KEYS = { k: "toggle", ",": "back", ".": "forth" };

class Clips extends Pictures {
  start() {
    const kept = this.context.clock || {}; // also when the page is drawn anew
    this.clip = this.section.clip;
    this.frame = Math.min(kept.frame ?? 0, this.clip.frames - 1);
    this.speed = kept.speed ?? "1";
    this.playing = false;
    this.stills = new Set(); // cells that show one frame of what is still being drawn
    this.pair = null; // the difference that the loupe shows
    this.panes = [];
    this.areas = Array.from({ length: this.clip.frames }, (_, f) => this.area(f));
    this.root.classList.add("dq-clips");
    this.root.style.setProperty("--dq-ratio", String(this.clip.width / this.clip.height));
    document.addEventListener("keydown", (this.listens = (e) => this.key(e)));
    const root = super.start();
    this.go(this.frame);
    if (kept.playing) this.play();
    return root;
  }

  area(f) {
    const { columns, width, height } = this.clip;
    return [(f % columns) * width, Math.floor(f / columns) * height, width, height];
  }

  // -- the player

  above() {
    const last = this.clip.frames - 1;
    this.button = el("button", { type: "button", class: "dq-secondary dq-play" });
    this.button.addEventListener("click", () => this.toggle());
    this.range = el("input", { type: "range", min: 0, max: last, step: 1, value: this.frame, "aria-label": "Frame" });
    this.range.addEventListener("input", () => { this.pause(); this.go(Number(this.range.value)); });
    this.count = el("span", { class: "dq-mono dq-count", "aria-hidden": "true" });
    const speed = choice("Speed", SPEEDS, this.speed, (v) => { this.speed = v; this.keep(); if (this.playing) this.play(); });
    const hint = el("p", { class: "dq-sub dq-hint" }, "Keys: K plays, comma and full stop step.");
    this.label();
    return el("div", { class: "dq-player", role: "group", "aria-label": "Player of all clips" }, this.button, this.range, this.count, speed, hint);
  }

  label() {
    const word = this.playing ? "Pause" : "Play";
    this.button.setAttribute("aria-label", word);
    this.button.replaceChildren(el("span", { "aria-hidden": "true" }, this.playing ? "❚❚" : "▶"), el("b", {}, word));
  }

  key(event) {
    if (!this.root.isConnected) return document.removeEventListener("keydown", this.listens); // a page drawn anew has its own
    const what = KEYS[event.key.toLowerCase()];
    if (!what || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TYPED)) return;
    event.preventDefault();
    if (what === "toggle") return this.toggle();
    this.pause();
    const { frames } = this.clip;
    this.go((this.frame + (what === "forth" ? 1 : frames - 1)) % frames);
  }

  toggle() {
    this.playing ? this.pause() : this.play();
  }

  play() {
    this.playing = true;
    const begun = performance.now(), first = this.frame, run = (this.run = {});
    const tick = (now) => {
      if (this.run !== run || !this.playing) return;
      const late = Math.max(0, now - begun) / 1000;
      const f = (first + Math.floor(late * this.clip.fps * Number(this.speed))) % this.clip.frames;
      if (f !== this.frame) this.go(f);
      if (late < 1 || this.root.isConnected) requestAnimationFrame(tick); // a page drawn anew has its own
    };
    requestAnimationFrame(tick);
    this.label();
    this.keep();
  }

  pause() {
    this.playing = false;
    this.label();
    this.keep();
  }

  go(f) {
    this.frame = f;
    this.range.value = String(f);
    this.range.setAttribute("aria-valuetext", `frame ${f + 1} of ${this.clip.frames}`);
    this.count.textContent = `${f + 1} / ${this.clip.frames}`;
    this.context.clock = { ...this.context.clock, frame: f };
    for (const row of this.cells) for (const c of row) this.show(c.canvas, c.sheet, c.still);
    for (const pane of this.panes) this.show(pane.canvas, pane.sheet, false);
    this.showPair();
  }

  keep() {
    super.keep();
    this.context.clock = { frame: this.frame, speed: this.speed, playing: this.playing };
  }

  // Draw the present frame of a sheet; what is still being drawn has one frame only.
  show(canvas, sheet, still) {
    if (!sheet) return;
    const [x, y, w, h] = still ? [0, 0, sheet.naturalWidth, sheet.naturalHeight] : this.area(this.frame);
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    canvas.getContext("2d").drawImage(sheet, x, y, w, h, 0, 0, w, h);
  }

  // -- the grid

  inTile(image, canvas) {
    return canvas;
  }

  drawCell(r, i) {
    const c = this.cells[i]?.[r];
    if (c) c.still = this.stills.has(`${r},${i}`);
    super.drawCell(r, i);
  }

  paint(c, reference) {
    const source = c.image.src;
    if (!source) return;
    const all = [c.image, reference?.image].filter(Boolean).map(loaded);
    Promise.all(all).then(() => {
      if (c.image.src !== source) return;
      c.sheet = c.image;
      if (reference && !c.still && !reference.still) {
        const difference = el("canvas");
        if (drawDifference(difference, reference.image, c.image, settings.gain, this.areas)) c.sheet = difference;
      }
      this.show(c.canvas, c.sheet, c.still);
    });
  }

  live(frame) {
    frame.images.forEach((_, k) => this.stills.add(`${frame.run},${frame.first + k}`));
    super.live(frame);
  }

  // -- the loupe

  drawLoupe() {
    this.pair = null;
    this.panes = [];
    super.drawLoupe();
  }

  whole(r, i) {
    return this.stills.has(`${r},${i}`) ? null : super.whole(r, i);
  }

  pane(url, alt) {
    const image = el("img", { src: url });
    const canvas = el("canvas", { role: "img", "aria-label": alt });
    const pane = { canvas, sheet: null };
    this.panes.push(pane);
    const ready = loaded(image).then(() => {
      pane.sheet = image;
      this.show(canvas, image, false);
      return image;
    });
    return { node: canvas, image: ready };
  }

  compare(canvas, numbers, first, second) {
    const sheet = el("canvas");
    const found = drawDifference(sheet, first, second, settings.gain, this.areas);
    this.pair = { canvas, numbers, sheet, found };
    if (!found) numbers.textContent = "These clips differ in size.";
    this.drawBars();
    this.showPair();
  }

  showPair() {
    if (!this.pair?.found) return;
    const { canvas, numbers, sheet, found } = this.pair;
    this.show(canvas, sheet, false);
    const here = found[this.frame];
    const whole = found.reduce((sum, f) => sum + f.mean, 0) / found.length;
    numbers.textContent = found.every((f) => f.most === 0) ? "No difference in the 8-bit clips."
      : `Difference ×${settings.gain}. Frame ${this.frame + 1}: mean ${here.mean.toFixed(2)}, largest ${here.most} of 255; mean of the clip ${whole.toFixed(2)}.`;
    numbers.setAttribute("aria-live", this.playing ? "off" : "polite");
    [...this.bars.children].forEach((bar, f) => bar.classList.toggle("dq-now", f === this.frame));
  }

  below() {
    this.bars = el("div", { class: "dq-bars", "aria-hidden": "true" });
    this.bars.addEventListener("click", (e) => {
      const box = this.bars.getBoundingClientRect();
      const f = Math.floor(((e.clientX - box.left) / box.width) * this.clip.frames);
      this.pause();
      this.go(Math.min(Math.max(f, 0), this.clip.frames - 1));
    });
    return el("div", { class: "dq-barpanel" }, el("span", { class: "dq-sub" }, "Mean difference of each frame"), this.bars);
  }

  drawBars() {
    const means = (this.pair.found || []).map((f) => f.mean);
    const most = Math.max(...means, 1e-9);
    this.bars.replaceChildren(...means.map((mean) => el("span", { style: `--high: ${(100 * mean) / most}%` })));
  }
}

function drawPictures(section, context) {
  context.pictures = new (section.clip ? Clips : Pictures)(section, context);
  return context.pictures.start();
}

export const drawers = { pictures: drawPictures };
