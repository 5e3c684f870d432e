// SPDX-License-Identifier: Apache-2.0
// Conversations that this browser has seen; they never leave it.

import { el } from "./dom.js";
import { saved } from "./state.js";

const HISTORY = "steerlm.studio.history";
const MOST = 50;

/** Keep a conversation under its id; the oldest go when there are too many or the browser has no room. */
export function remember(id, model, state) {
  let entries = [{ id, model, at: new Date().toISOString(), state: saved(state) }, ...all().filter((e) => e.id !== id)];
  entries = entries.slice(0, MOST);
  while (entries.length) {
    try {
      localStorage.setItem(HISTORY, JSON.stringify(entries));
      return;
    } catch {
      entries.pop();
    }
  }
}

/** Fill the view. `open` gets the state of the entry that the person chooses. */
export function showHistory(view, open) {
  const again = (entries) => {
    store(entries);
    showHistory(view, open);
    view.querySelector("h2").focus();
  };
  const entries = all();
  const items = entries.map((entry) => {
    const question = entry.state.questions.at(-1) ?? "";
    return el(
      "li",
      {},
      el("span", { class: "text" }, question),
      el("span", { class: "hint" }, `${entry.model}, ${new Date(entry.at).toLocaleString()}`),
      el("button", { type: "button", onclick: () => open(entry), "aria-label": `Open: ${question}` }, "Open"),
      el(
        "button",
        {
          type: "button",
          onclick: () => again(entries.filter((one) => one !== entry)),
          "aria-label": `Delete: ${question}`,
        },
        "Delete",
      ),
    );
  });
  view.replaceChildren(...[
    el("h2", { tabindex: -1 }, "History"),
    el("p", { class: "hint" }, `The newest ${MOST} conversations, kept in this browser only.`),
    items.length ? el("ul", { class: "entries" }, ...items) : el("p", {}, "There is nothing yet."),
    items.length ? el("button", { type: "button", onclick: () => again([]) }, "Clear the history") : "",
  ]);
}

function all() {
  try {
    const entries = JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
    return Array.isArray(entries) ? entries.filter((entry) => Array.isArray(entry?.state?.questions)) : [];
  } catch {
    return [];
  }
}

function store(entries) {
  try {
    if (entries.length) localStorage.setItem(HISTORY, JSON.stringify(entries));
    else localStorage.removeItem(HISTORY);
  } catch {
    // the browser keeps nothing
  }
}
