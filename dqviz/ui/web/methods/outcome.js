// What was chosen in a view, as options of the method: a link into Compare, and the same as a command.
import { commandParts, copy, el } from "../tools.js";

// A word of a command line, quoted where a shell would read more than a word.
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export function commandOf(verb, { model, method, bits }, options, ...more) {
  const given = Object.entries(options).flatMap(([name, value]) => ["--option", `${name}=${written(value)}`]);
  return ["dqviz", verb, model, "--method", method, "--bits", bits, ...more, ...given].map(word).join(" ");
}

export function compareLink({ model, method, bits }, options) {
  const asked = new URLSearchParams({ model, method, bits });
  for (const [name, value] of Object.entries(options)) asked.set(`option.${name}`, written(value));
  return `./?${asked}`;
}

export function outcome(section) {
  const said = el("span", { class: "dq-mono dq-options" });
  const link = el("a", { class: "dq-primary dq-buttonlink" }, "Open in Compare");
  const code = el("code", {});
  const button = el("button", { type: "button", class: "dq-small" }, "Copy command");
  button.addEventListener("click", () => copy(code.textContent, button));
  const node = el("div", { class: "dq-outcome" },
    el("div", { class: "dq-outcomehead" }, el("span", { class: "dq-label" }, "As options"), said, link),
    el("div", { class: "dq-emptyline dq-commandline" }, el("pre", { tabindex: "0", "aria-label": "Command of this choice" }, code), button));
  function show(options) {
    const pairs = Object.entries(options).map(([name, value]) => `${name}=${written(value)}`);
    said.textContent = pairs.join("  ") || "none: as the method is by default";
    link.href = compareLink(section, options);
    code.replaceChildren(...commandParts(commandOf("compare", section, options)));
  }
  return { node, show };
}
