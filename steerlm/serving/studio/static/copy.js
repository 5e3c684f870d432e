// SPDX-License-Identifier: Apache-2.0
// The dialog that shows texts to copy: code, links.

import { byId, el } from "./dom.js";

/** Show texts: [{title, text}], each with a button that copies it. */
export function showCopy(title, parts) {
  const dialog = byId("copy");
  byId("copy-title").textContent = title;
  byId("copy-parts").replaceChildren(...parts.map(part));
  dialog.showModal();
}

function part({ title, text, hint }) {
  const rows = Math.min(14, text.split("\n").length + 1);
  const area = el("textarea", { readonly: true, rows, "aria-label": title, spellcheck: "false" });
  area.value = text;
  const note = el("span", { role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      note.textContent = "Copied.";
    } catch {
      // Browsers open the clipboard to pages of https and of this machine only.
      area.focus();
      area.select();
      note.textContent = "The text is selected: copy it with your keyboard.";
    }
  };
  return el(
    "section",
    {},
    el("h3", {}, title),
    hint ? el("p", { class: "hint" }, hint) : null,
    area,
    el("div", { class: "buttons" }, el("button", { type: "button", onclick: copy }, `Copy ${title}`), note),
  );
}
