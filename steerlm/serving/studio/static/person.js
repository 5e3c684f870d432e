// SPDX-License-Identifier: Apache-2.0
// Who rates: a name that is asked once and remembered in this browser.

import { el } from "./dom.js";

const NAME = "steerlm.studio.name";

/** A field for the name; `name()` returns it and remembers it. */
export function nameField() {
  const input = el("input", { autocomplete: "name", maxlength: 200, required: true, value: remembered() });
  input.addEventListener("focus", () => (input.value ||= remembered()));
  const name = () => {
    const text = input.value.trim();
    try {
      localStorage.setItem(NAME, text);
    } catch {
      // the browser keeps nothing; the name is asked again
    }
    return text;
  };
  return { element: el("label", {}, "Your name", input), name };
}

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}
