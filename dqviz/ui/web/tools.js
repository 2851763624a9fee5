// Small tools of all pages. Texts from models, studies and people are set as text, never as markup.

export function el(tag, attributes = {}, ...children) {
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

export function parsed(text, fallback) {
  try {
    return text ? JSON.parse(text) : fallback;
  } catch {
    return fallback;
  }
}

export function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export async function copy(text, button) {
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

// A command for reading: a line breaks before an option, and inside one only where it is longer than a line.
export function commandParts(text) {
  return text.startsWith("#") ? [text] : text.split(/ (?=--)/).flatMap((part, i) => [i ? " " : "", el("span", { class: "dq-part" }, part)]);
}

export function choice(label, options, value, change) {
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

export function selector(label, options, value, change) {
  const select = el("select", { "aria-label": label });
  options.forEach((text, i) => select.append(el("option", { value: String(i) }, text)));
  select.value = String(value);
  select.addEventListener("change", () => change(Number(select.value)));
  return select;
}

// Fill a drop-down: [value, label, heading], where equal headings make a group.
export function options(select, entries) {
  const groups = new Map();
  for (const [value, label, heading] of entries) {
    if (!groups.has(heading)) groups.set(heading, []);
    groups.get(heading).push(el("option", { value }, label));
  }
  select.replaceChildren(...[...groups].flatMap(([heading, list]) => (heading ? [el("optgroup", { label: heading }, list)] : list)));
  return select;
}

export const swatch = (run) => el("span", { class: "dq-swatch", run, "aria-hidden": "true" });
export const badge = (b) => el("span", { class: `dq-badge dq-${b.tone || "plain"}`, title: b.title }, b.text);

export function heading(section, ...tools) {
  return el("div", { class: "dq-head" },
    el("div", {}, el("h2", {}, section.title), section.lede ? el("p", { class: "dq-lede" }, section.lede) : ""),
    tools.length ? el("div", { class: "dq-tools" }, tools) : "");
}

export function clock(seconds) {
  const s = Math.max(0, Math.round(seconds));
  return s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
}
