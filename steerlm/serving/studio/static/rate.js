// SPDX-License-Identifier: Apache-2.0
// The form in which a person rates one answer, attribute by attribute.

import { el } from "./dom.js";
import { nameField } from "./person.js";
import { postJson } from "./server.js";
import { dialNames } from "./state.js";

/** A fold with the form. `given()` returns {messages, answer} at the time of sending. */
export function ratingForm({ schema, descriptions, title, given, say }) {
  const selects = new Map(dialNames(schema).map((name) => [name, valueSelect(schema)]));
  const person = nameField();
  const note = el("p", { role: "status" });
  const form = el(
    "form",
    { onsubmit: (event) => { event.preventDefault(); send(); } },
    el("p", { class: "hint" }, "Rate what you can judge; leave the others open."),
    el(
      "div",
      { class: "rows" },
      ...[...selects].map(([name, select]) =>
        el("label", {}, name, select, el("span", { class: "description" }, descriptions[name] ?? "")),
      ),
      person.element,
    ),
    el("button", { type: "submit", class: "main" }, "Save rating"),
    note,
  );

  async function send() {
    const chosen = [...selects].filter(([, select]) => select.value !== "");
    if (!chosen.length) {
      note.textContent = "Choose a value for at least one attribute.";
      return;
    }
    const labels = Object.fromEntries(chosen.map(([name, select]) => [name, Number(select.value)]));
    try {
      await postJson("v1/studio/ratings", { by: person.name(), labels, ...given() });
      note.textContent = "Saved. A new rating of the same answer replaces this one.";
      say(`The rating of ${title} is saved.`);
    } catch (error) {
      note.textContent = `Not saved: ${error.message}`;
    }
  }

  return el("details", {}, el("summary", {}, `Rate the answer of ${title}`), form);
}

function valueSelect(schema) {
  const values = Array.from({ length: schema.high - schema.low + 1 }, (_, index) => schema.low + index);
  return el(
    "select",
    {},
    el("option", { value: "" }, "open"),
    ...values.map((value) => el("option", { value }, String(value))),
  );
}
