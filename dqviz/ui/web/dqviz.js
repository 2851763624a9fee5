// Draws the pages of DQ-Viz inside gr.HTML components.
// Every text from a model, a study or a person is set as text (textContent), never as markup.
window.dqviz = (() => {
  "use strict";

  // ---- small tools ------------------------------------------------------------------------

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
      else if (name === "run") node.style.setProperty("--run", `var(--run-${Number(value)})`);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== ""));
    return node;
  }

  function parsed(text, fallback) {
    try {
      return text ? JSON.parse(text) : fallback;
    } catch {
      return fallback;
    }
  }

  function save(blob, name) {
    const link = el("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function copy(text, button) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const area = el("textarea", { class: "dq-offscreen", "aria-hidden": "true" });
      area.value = text;
      document.body.append(area);
      area.select();
      button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
      area.remove();
    }
    setTimeout(() => (button.textContent = before), 1600);
  }

  function choice(label, options, value, change) {
    const group = el("div", { class: "dq-choice", role: "group", "aria-label": label });
    for (const [key, text] of options) {
      const button = el("button", { type: "button", "aria-pressed": String(key === value) }, text);
      button.addEventListener("click", () => {
        for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
        change(key);
      });
      group.append(button);
    }
    return group;
  }

  function selector(label, options, value, change) {
    const select = el("select", { "aria-label": label });
    options.forEach((text, i) => select.append(el("option", { value: String(i) }, text)));
    select.value = String(value);
    select.addEventListener("change", () => change(Number(select.value)));
    return select;
  }

  const swatch = (run) => el("span", { class: "dq-swatch", run, "aria-hidden": "true" });
  const badge = (b) => el("span", { class: `dq-badge dq-${b.tone || "plain"}`, title: b.title }, b.text);

  function heading(section, ...tools) {
    return el("div", { class: "dq-head" },
      el("div", {}, el("h2", {}, section.title), section.lede ? el("p", { class: "dq-lede" }, section.lede) : ""),
      tools.length ? el("div", { class: "dq-tools" }, tools) : "");
  }

  function csvButton(section) {
    if (!section.csv) return "";
    const button = el("button", { type: "button", class: "dq-small", title: "Download this as CSV" }, "CSV");
    button.addEventListener("click", () => save(new Blob([section.csv], { type: "text/csv" }), `${section.file}.csv`));
    return button;
  }

  // ---- plots ------------------------------------------------------------------------------

  let plotly = null;
  function loadPlotly() {
    return (plotly ??= new Promise((resolve, reject) => {
      const script = el("script", { src: "vendor/plotly.min.js" });
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js did not load"));
      document.head.append(script);
    }));
  }

  // "var(--name)" anywhere in a figure becomes the colour that the page has now.
  function resolved(value, style) {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() || value : value;
    }
    if (Array.isArray(value)) return value.map((v) => resolved(v, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolved(v, style)]));
    }
    return value;
  }

  const narrow = () => window.matchMedia("(max-width: 640px)").matches;

  function drawPlot(holder, section) {
    if (!holder.isConnected) return Promise.resolve();
    return loadPlotly().then((P) => {
      if (!holder.isConnected) return null;
      const style = getComputedStyle(holder);
      const figure = resolved(section.figure, style);
      const ink = style.getPropertyValue("--dq-ink").trim();
      const line = style.getPropertyValue("--dq-line").trim();
      const axes = {};
      for (const name of Object.keys(figure.layout)) {
        if (/^[xy]axis\d*$/.test(name)) axes[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, ...figure.layout[name] };
      }
      const small = narrow() ? { ...(section.narrow || {}) } : {};
      const layout = {
        ...figure.layout, ...axes, ...small, height: section.height,
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: style.fontFamily, size: 12, color: ink },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: ink },
        hoverlabel: { font: { family: style.fontFamily } },
      };
      return P.react(holder, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false, showSendToCloud: false });
    });
  }

  function drawPlotSection(section) {
    const holder = el("div", { class: "dq-plot", role: "img", "aria-label": section.alt || section.title, style: `min-height:${Number(section.height)}px` });
    const svg = el("button", { type: "button", class: "dq-small", title: "Download this as SVG" }, "SVG");
    svg.addEventListener("click", () => loadPlotly().then((P) => P.downloadImage(holder, {
      format: "svg", filename: section.file, width: 960, height: Math.max(320, section.height) })));
    const root = el("section", { class: "dq-card" }, heading(section, csvButton(section), svg), holder);
    if (section.readout) root.append(readout(section, holder));
    requestAnimationFrame(() => drawPlot(holder, section).catch((e) => holder.replaceChildren(el("p", { class: "dq-lede" }, String(e.message || e)))));
    redraws.add({ node: holder, draw: () => drawPlot(holder, section) });
    return root;
  }

  // A plot's numbers at one position: chosen by click in the plot, or by the slider (keyboard).
  function readout(section, holder) {
    const { label, positions, columns, rows } = section.readout;
    const slider = el("input", { type: "range", min: 0, max: positions.length - 1, value: positions.length - 1, "aria-label": label });
    const table = el("table", { class: "dq-table dq-compact" });
    const place = el("output", { class: "dq-mono" });
    const show = () => {
      const at = Number(slider.value);
      place.textContent = positions[at];
      slider.setAttribute("aria-valuetext", positions[at]);
      table.replaceChildren(
        el("thead", {}, el("tr", {}, columns.map((c, i) => el("th", { scope: "col", class: i ? "dq-num" : null }, c)))),
        el("tbody", {}, rows.map((r) => el("tr", {}, el("th", { scope: "row" }, swatch(r.run), r.name),
          r.values[at].map((v) => el("td", { class: "dq-num" }, v))))));
    };
    slider.addEventListener("input", show);
    const attach = () => holder.on?.("plotly_click", (e) => {
      const at = e.points[0].customdata;
      if (Number.isInteger(at)) { slider.value = String(at); show(); }
    });
    const wait = setInterval(() => { if (holder.on) { clearInterval(wait); attach(); } else if (!holder.isConnected) clearInterval(wait); }, 200);
    show();
    return el("div", { class: "dq-readout" }, el("label", {}, label, slider, place), el("div", { class: "dq-scroll" }, table));
  }

  const redraws = new Set();
  new MutationObserver(() => {
    for (const entry of redraws) entry.node.isConnected ? entry.draw() : redraws.delete(entry);
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  // ---- tables, text -----------------------------------------------------------------------

  function cell(c, tag, extra = {}) {
    const node = el(tag, { ...extra, title: c.title });
    if (c.run !== undefined && c.run !== null) node.append(swatch(c.run));
    if (c.badge) node.append(badge(c.badge));
    if (c.text) node.append(el("span", { class: "dq-value" }, c.text));
    if (c.sub) node.append(el("span", { class: "dq-sub" }, c.sub));
    return node;
  }

  function drawTable(section) {
    const table = el("table", { class: "dq-table" }, el("caption", { class: "dq-offscreen" }, section.title));
    table.append(el("thead", {}, el("tr", {}, section.columns.map((c, i) =>
      el("th", { scope: "col", class: c.words ? "dq-words" : i ? "dq-num" : null, title: c.hint }, c.label, c.unit ? el("span", { class: "dq-unit" }, ` ${c.unit}`) : "")))));
    table.append(el("tbody", {}, section.rows.map((r) => el("tr", { class: r.mark ? `dq-row-${r.mark}` : null }, r.cells.map((c, i) =>
      i ? cell(c, "td", { class: c.words ? "dq-words" : "dq-num" }) : cell(c, "th", { scope: "row" }))))));
    const root = el("section", { class: "dq-card" }, heading(section, csvButton(section)),
      el("div", { class: "dq-scroll", tabindex: "0", role: "region", "aria-label": section.title }, table));
    if (section.note) root.append(el("p", { class: "dq-lede" }, section.note));
    for (const d of section.details || []) {
      root.append(el("details", {}, el("summary", {}, d.summary), el("ul", { class: "dq-list" }, d.lines.map((l) => el("li", {}, l)))));
    }
    return root;
  }

  function drawHeadline(section) {
    return el("section", { class: "dq-headline" },
      el("div", { class: "dq-head" },
        el("div", {}, el("h2", {}, section.title, " ", (section.badges || []).map(badge)),
          el("p", { class: "dq-facts" }, section.facts.map((f) => el("span", {}, f))))),
      section.claims.length ? el("ul", { class: "dq-claims" }, section.claims.map((c) =>
        el("li", { class: `dq-claim dq-${c.tone}` }, el("span", { class: "dq-claim-text" }, c.text), c.sub ? el("span", { class: "dq-sub" }, c.sub) : ""))) : "",
      (section.notes || []).map((n) => el("p", { class: `dq-note dq-${n.tone}` }, n.text)));
  }

  function drawEmpty(section) {
    const ghost = el("div", { class: "dq-ghost", "aria-hidden": "true" });
    for (let i = 0; i < 12; i++) ghost.append(el("span", { style: `--i:${i}` }));
    return el("section", { class: "dq-empty" }, ghost, el("h2", {}, section.title), el("p", {}, section.text),
      el("ol", {}, section.steps.map((s) => el("li", {}, el("strong", {}, s.title), " ", s.text))));
  }

  function drawCommand(section) {
    const button = el("button", { type: "button", class: "dq-small" }, "Copy");
    button.addEventListener("click", () => copy(section.text, button));
    return el("section", { class: "dq-card dq-command" }, heading(section, button),
      el("pre", { tabindex: "0", "aria-label": "Command" }, el("code", {}, section.text)));
  }

  function drawDownloads(section, context) {
    const row = el("div", { class: "dq-downloads" });
    for (const item of section.items) {
      const button = el("button", { type: "button", class: "dq-secondary" }, item.label);
      button.addEventListener("click", async () => {
        button.disabled = true;
        try {
          const file = await context.server.study_file({ study: section.study, file: item.file });
          if (file.error) throw new Error(file.error);
          const bytes = Uint8Array.from(atob(file.base64), (c) => c.charCodeAt(0));
          save(new Blob([bytes], { type: file.type }), file.name);
        } catch (e) {
          row.append(el("span", { class: "dq-note dq-bad", role: "alert" }, String(e.message || e)));
        } finally {
          button.disabled = false;
        }
      });
      row.append(button);
    }
    return el("section", { class: "dq-card" }, heading(section), row);
  }

  // ---- pictures: grid and loupe -----------------------------------------------------------

  const settings = { size: "m", pixels: "crisp", gain: 4, show: "pictures" };
  const SIZES = { s: 72, m: 128, l: 192 };

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
        choice("Picture size", [["s", "S"], ["m", "M"], ["l", "L"]], settings.size, (v) => { settings.size = v; this.restyle(); }),
        choice("Scaling", [["crisp", "Crisp"], ["smooth", "Smooth"]], settings.pixels, (v) => { settings.pixels = v; this.restyle(); }),
      ];
    }

    restyle() {
      this.root.style.setProperty("--dq-tile", `${SIZES[settings.size]}px`);
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

  // ---- components: what gr.HTML mounts ----------------------------------------------------

  const drawers = { headline: drawHeadline, empty: drawEmpty, plot: drawPlotSection, table: drawTable, command: drawCommand, downloads: drawDownloads };

  function view({ element, props, server }) {
    const root = element.querySelector(".dq-view");
    const context = { server, loupe: null, pictures: null };
    let drawn = null;
    function draw() {
      if (props.view_json === drawn) return;
      const open = new Set([...root.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
      drawn = props.view_json;
      context.pictures = null;
      const page = parsed(drawn, { sections: [] });
      root.replaceChildren(...page.sections.map((section) => {
        if (section.kind !== "pictures") return drawers[section.kind](section, context);
        context.pictures = new Pictures(section, context);
        return context.pictures.root;
      }));
      for (const d of root.querySelectorAll("details")) d.open = open.has(d.querySelector("summary").textContent);
      if (page.address !== undefined) keepAddress(page.address);

    }
    let last = null;
    function live() {
      if (props.live_json === last) return;
      last = props.live_json;
      const frame = parsed(last, null);
      if (frame) context.pictures?.live(frame);
    }
    draw();
    live();
    return { view_json: draw, live_json: live };
  }

  function keepAddress(study) {
    const url = new URL(location.href);
    study ? url.searchParams.set("study", study) : url.searchParams.delete("study");
    history.replaceState(null, "", url);
  }

  function clock(seconds) {
    const s = Math.max(0, Math.round(seconds));
    return s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  }

  function status({ element, props }) {
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

  function runlist({ element, props, trigger }) {
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

  function command({ element, props }) {
    const root = element.querySelector(".dq-inline");
    const code = el("code");
    const button = el("button", { type: "button", class: "dq-small" }, "Copy");
    button.addEventListener("click", () => copy(code.textContent, button));
    root.append(el("span", { class: "dq-label" }, "As a command"), el("pre", { tabindex: "0", "aria-label": "This form as a command" }, code), button);
    const draw = () => { code.textContent = props.text || ""; };
    draw();
    return { text: draw };
  }

  // ---- the frame around all pages ---------------------------------------------------------

  function frame({ element }) {
    const button = element.querySelector(".dq-theme");
    const show = () => {
      const dark = document.body.classList.contains("dark");
      button.setAttribute("aria-pressed", String(dark));
      button.setAttribute("title", dark ? "Switch to light" : "Switch to dark");
    };
    const kept = localStorage.getItem("dqviz-theme");
    if (kept) document.body.classList.toggle("dark", kept === "dark");
    button.addEventListener("click", () => {
      const dark = document.body.classList.toggle("dark");
      localStorage.setItem("dqviz-theme", dark ? "dark" : "light");
      show();
    });
    new MutationObserver(show).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    show();
    document.addEventListener("keydown", (e) => {
      const press = (id) => {
        const target = document.getElementById(id);
        if (!target || target.disabled || !target.offsetParent) return;
        e.preventDefault();
        target.click();
      };
      if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { document.activeElement?.blur(); press("dq-run"); }
      if (e.key === "Escape" && !e.target.closest?.("[role=listbox], [role=combobox], select, input[type=text]")) press("dq-cancel");
    });
    return {};
  }

  return { view, status, runlist, command, frame };
})();
