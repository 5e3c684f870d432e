// SPDX-License-Identifier: Apache-2.0
// Who rates: a name that is asked once and remembered in this browser. With an API key its name is kept anyway.

import { el } from "./dom.js";
import { apiKey } from "./server.js";

const NAME = "steerlm.studio.name";

/** A field for the name; `name()` returns it and remembers it, or undefined if it is left open. */
export function nameField() {
  const required = !apiKey.get();
  const input = el("input", { autocomplete: "name", maxlength: 200, required, value: remembered() });
  input.addEventListener("focus", () => (input.value ||= remembered()));
  const name = () => {
    const text = input.value.trim();
    try {
      localStorage.setItem(NAME, text);
    } catch {
      // the browser keeps nothing; the name is asked again
    }
    return text || undefined;
  };
  const hint = required ? "" : "may stay open: the name of your API key is kept";
  return { element: el("label", {}, "Your name", input, el("span", { class: "description" }, hint)), name };
}

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}
