// A page: its sections, each drawn by the drawer of its kind: (section, context) -> node.
// A module that draws sections exports `drawers`, kind -> drawer, and is added to the list here.
import { drawers as pictures } from "./clips.js";
import { drawers as plots } from "./plots.js";
import { drawers as tables } from "./tables.js";
import { drawers as tour } from "./tour.js";
import { parsed } from "./tools.js";

const drawers = { ...pictures, ...plots, ...tables, ...tour };

export function view({ element, props, server }) {
  const root = element.querySelector(".dq-view");
  const context = { server, loupe: null, clock: null, pictures: null }; // what drawers share; loupe and clock outlive a redraw
  let drawn = null;
  function draw() {
    if (props.view_json === drawn) return;
    const open = new Set([...root.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
    drawn = props.view_json;
    context.pictures = null;
    const page = parsed(drawn, { sections: [] });
    root.replaceChildren(...page.sections.map((section) => drawers[section.kind](section, context)));
    for (const d of root.querySelectorAll("details")) d.open = open.has(d.querySelector("summary").textContent);
    if (page.address !== undefined) keepAddress(page.address, page.sections.find((s) => s.comparison)?.comparison);
  }
  let last = null;
  function live() {
    if (props.live_json === last) return;
    last = props.live_json;
    for (const frame of parsed(last, null) || []) context.pictures?.live(frame);
  }
  draw();
  live();
  return { view_json: draw, live_json: live };
}

// The study that is shown; a comparison stays named as long as it is the one shown.
function keepAddress(study, comparison) {
  const url = new URL(location.href);
  study ? url.searchParams.set("study", study) : url.searchParams.delete("study");
  if (url.searchParams.get("comparison") !== String(comparison)) url.searchParams.delete("comparison");
  history.replaceState(null, "", url);
}
