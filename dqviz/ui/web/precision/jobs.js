// A job of this page, while it is looked at: it goes on without the page.
import { clock, el } from "../tools.js";
import { answerOf } from "./asking.js";

const EVERY = 800; // ms between two looks

export function jobStatus(server) {
  const text = el("p", { class: "dq-lede", role: "status" });
  const bar = el("span", {});
  const cancel = el("button", { type: "button", class: "dq-small" }, "Cancel");
  const progress = el("div", { class: "dq-mx-job", hidden: true }, el("div", { class: "dq-bar", "aria-hidden": "true" }, bar), cancel);
  const node = el("div", {}, text, progress);
  let job = null;
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    const told = await answerOf(server, "precision_cancel", { job });
    if (told.error) {
      text.textContent = told.error;
      cancel.disabled = false;
    }
  });

  // Resolves with the job's last state, or null when it was not done.
  async function follow(id) {
    job = id;
    progress.hidden = false;
    cancel.disabled = false;
    const ended = (words) => {
      progress.hidden = true;
      text.textContent = words;
    };
    while (node.isConnected) {
      const found = await answerOf(server, "precision_state", { job });
      if (found.silent) {
        text.textContent = "The server does not answer; the job goes on without this page. Asking again.";
        await new Promise((resolve) => setTimeout(resolve, EVERY));
        continue;
      }
      if (found.error || ["failed", "cancelled"].includes(found.state)) {
        ended(found.error || `${found.state === "failed" ? "Failed" : "Cancelled"}: ${found.message}`);
        return null;
      }
      if (found.state === "done") {
        ended("");
        return found;
      }
      const share = found.total ? found.done / found.total : 0;
      bar.style.width = `${100 * share}%`;
      text.textContent = `${found.state === "queued" ? "Waiting for its turn" : found.stage || "Starting"}${share ? `, ${Math.floor(100 * share)} %` : ""}${found.seconds_left ? `, ${clock(found.seconds_left)} left` : ""}. You may leave; it goes on.`;
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
    return null;
  }
  return { node, follow, say: (words) => { text.textContent = words; } };
}
