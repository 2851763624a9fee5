// The tour: one slider from quality to size with its pictures, and a blind test.
import { Blind } from "./blind.js";
import { badge, choice, el } from "./tools.js";

class Tour {
  constructor(section) {
    this.section = section;
    this.sample = 0;
    this.zoom = { by: 1, x: 0, y: 0 };
    const wanted = section.stops.findIndex((s) => s.run === new URL(location.href).searchParams.get("plan"));
    this.at = wanted >= 0 ? wanted : Math.min(1, section.stops.length - 1);
    this.say = el("p", { class: "dq-say", "aria-live": "polite" });
    this.facts = el("dl", { class: "dq-saved" });
    this.more = el("p", { class: "dq-sub" });
    this.pair = el("div", { class: "dq-pair", tabindex: "0", role: "group", "aria-label": "Original and chosen plan side by side; + and − zoom, arrow keys move" });
    this.strip = el("div", { class: "dq-strip", role: "group", "aria-label": "Pictures of the chosen plan" });
    this.root = el("section", { class: "dq-card dq-tour" },
      el("div", { class: "dq-head" }, el("div", {}, el("h2", {}, section.title, " ", section.badges.map(badge)), el("p", { class: "dq-lede" }, section.origin))),
      this.slider(),
      el("div", { class: "dq-tourboard" },
        el("div", { class: "dq-words" }, this.say, this.facts, this.more),
        el("div", { class: "dq-look" }, this.pair, this.tools())),
      this.strip,
      section.notes.map((note) => el("p", { class: "dq-lede dq-foot" }, note)));
    this.panning();
    this.draw();
  }

  slider() {
    const { stops } = this.section;
    const last = stops.length - 1;
    this.range = el("input", { type: "range", min: 0, max: last, step: 1, value: this.at, "aria-label": "From best quality to smallest size" });
    this.range.addEventListener("input", () => this.go(Number(this.range.value)));
    this.ticks = stops.map((stop, i) => {
      const tick = el("button", { type: "button", class: "dq-tick", tabindex: "-1", style: `--at:${last ? i / last : 0}` }, el("b", {}, stop.label), el("span", {}, stop.share));
      tick.addEventListener("click", () => { this.range.value = String(i); this.go(i); this.range.focus(); });
      return tick;
    });
    return el("div", { class: "dq-slide" },
      el("div", { class: "dq-ends", "aria-hidden": "true" }, el("span", {}, "Best quality"), el("span", {}, "Smallest size")),
      this.range, el("div", { class: "dq-ticks" }, this.ticks));
  }

  tools() {
    const zoom = el("input", { type: "range", min: 0, max: 3, step: 0.25, value: 0, "aria-label": "Zoom of both pictures" });
    this.zoomed = el("output", { class: "dq-mono" }, "1×");
    this.zoomInput = zoom;
    zoom.addEventListener("input", () => this.magnify(2 ** Number(zoom.value)));
    return el("div", { class: "dq-looktools" },
      el("label", {}, el("span", {}, "Zoom"), zoom, this.zoomed),
      choice("Scaling", [["crisp", "Crisp"], ["smooth", "Smooth"]], "smooth", (v) => this.root.classList.toggle("dq-crisp", v === "crisp")));
  }

  go(to) {
    this.at = to;
    const url = new URL(location.href);
    url.searchParams.set("plan", this.section.stops[to].run);
    history.replaceState(null, "", url);
    this.draw();
    this.onplan?.(to);
  }

  draw() {
    const { stops, samples } = this.section;
    const [original, stop] = [stops[0], stops[this.at]];
    this.range.setAttribute("aria-valuetext", `${stop.label}, ${stop.share} of the memory`);
    this.ticks.forEach((tick, i) => tick.classList.toggle("dq-here", i === this.at));
    this.say.textContent = stop.sentence;
    this.facts.replaceChildren(...[["saved", stop.saved || "0 MB"], ["of the memory", stop.share], ["on disk", stop.megabytes]]
      .map(([what, value]) => el("div", {}, el("dt", {}, what), el("dd", {}, value))));
    const known = stop.sentence.includes(stop.recognised) ? "" : stop.recognised; // said already
    this.more.textContent = [stop.detail, known].filter(Boolean).join(": ");
    const figure = (s, what, note) => el("figure", {},
      el("div", { class: "dq-frame" }, el("img", { src: s.images[this.sample], alt: `${what}: ${samples[this.sample].label}`, draggable: "false" })),
      el("figcaption", {}, el("b", {}, what), el("span", {}, note)));
    this.pair.replaceChildren(figure(original, "Original", original.megabytes),
      figure(stop, this.at ? stop.label : "The same", this.at ? [stop.megabytes, stop.captions[this.sample]].filter(Boolean).join(" · ") : "nothing changed yet"));
    this.place();
    if (this.strip.childElementCount !== samples.length) this.drawStrip();
    [...this.strip.children].forEach((thumb, i) => {
      thumb.querySelector("img").src = stop.images[i] || "";
      thumb.setAttribute("aria-pressed", String(i === this.sample));
    });
  }

  drawStrip() {
    this.strip.replaceChildren(...this.section.samples.map((sample, i) => {
      const thumb = el("button", { type: "button", class: "dq-thumb", title: `${sample.label}, seed ${sample.seed}`, "aria-label": `${sample.label}, seed ${sample.seed}` }, el("img", { alt: "", draggable: "false" }));
      thumb.addEventListener("click", () => { this.sample = i; this.draw(); });
      return thumb;
    }));
  }

  magnify(by) {
    this.zoom.by = Math.min(8, Math.max(1, by));
    this.zoomInput.value = String(Math.log2(this.zoom.by));
    this.place();
  }

  // Both pictures show the same part: x and y are shares of the picture, from its middle.
  place() {
    const { zoom } = this;
    const reach = (1 - 1 / zoom.by) / 2;
    zoom.x = Math.min(reach, Math.max(-reach, zoom.x));
    zoom.y = Math.min(reach, Math.max(-reach, zoom.y));
    this.pair.style.setProperty("--zoom", String(zoom.by));
    this.pair.style.setProperty("--x", `${-100 * zoom.x}%`);
    this.pair.style.setProperty("--y", `${-100 * zoom.y}%`);
    this.pair.classList.toggle("dq-pans", zoom.by > 1);
    this.zoomed.textContent = `${Number(zoom.by.toFixed(1))}×`;
  }

  panning() {
    let from = null;
    const move = (dx, dy) => { this.zoom.x += dx; this.zoom.y += dy; this.place(); };
    this.pair.addEventListener("pointerdown", (e) => {
      if (this.zoom.by === 1) return;
      from = [e.clientX, e.clientY];
      this.pair.setPointerCapture(e.pointerId);
    });
    this.pair.addEventListener("pointermove", (e) => {
      if (!from) return;
      const scale = this.zoom.by * this.pair.querySelector(".dq-frame").clientWidth;
      move((from[0] - e.clientX) / scale, (from[1] - e.clientY) / scale);
      from = [e.clientX, e.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) this.pair.addEventListener(end, () => { from = null; });
    this.pair.addEventListener("dblclick", () => this.magnify(this.zoom.by > 1 ? 1 : 4));
    const step = { ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] };
    this.pair.addEventListener("keydown", (e) => {
      if (e.key === "+" || e.key === "=") this.magnify(this.zoom.by * 2);
      else if (e.key === "-") this.magnify(this.zoom.by / 2);
      else if (step[e.key] && this.zoom.by > 1) move(...step[e.key]);
      else return;
      e.preventDefault();
    });
  }
}

function drawTour(section) {
  const tour = new Tour(section);
  const blind = new Blind(section, tour.at || 1);
  tour.onplan = (at) => blind.follow(at);
  return el("div", { class: "dq-tourpage" }, tour.root, blind.root);
}

export const drawers = { tour: drawTour };
