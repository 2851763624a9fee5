// A report draws the same sections as the app, from what it carries.
import { view } from "dqviz/view.js";

window.carriedPlotly = async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const whole = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
  const script = document.createElement("script");
  script.textContent = await whole.text();
  document.head.append(script);
  return window.Plotly;
};

const button = document.querySelector(".dq-theme");
const darken = (dark) => {
  document.body.classList.toggle("dark", dark);
  button.setAttribute("aria-pressed", String(dark));
};
darken(matchMedia("(prefers-color-scheme: dark)").matches);
button.addEventListener("click", () => darken(!document.body.classList.contains("dark")));
view({ element: document, props: { view_json: document.getElementById("view").textContent }, server: null });
