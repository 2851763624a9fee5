// The frame around all pages: light and dark, shortcuts.

export function frame({ element }) {
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
