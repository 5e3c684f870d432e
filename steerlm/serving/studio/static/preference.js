// SPDX-License-Identifier: Apache-2.0
// Which of two answers to the same question is better: HelpSteer2's scale of -3 to 3.

import { el } from "./dom.js";
import { nameField } from "./person.js";
import { postJson } from "./server.js";
import { messages, settingName } from "./state.js";

const STRENGTHS = [
  [-3, "The first is much better"],
  [-2, "The first is better"],
  [-1, "The first is slightly better"],
  [0, "They are equally good"],
  [1, "The second is slightly better"],
  [2, "The second is better"],
  [3, "The second is much better"],
];

/** The form, or a sentence that says why there is none, or null where there is nothing to compare. */
export function preferenceForm({ state, say }) {
  const count = state.questions.length;
  const answered = state.settings.map((_, index) => index).filter((index) => state.settings[index].answers[count - 1]);
  if (!count || answered.length < 2) return null;
  const first = choice("First answer", answered, answered[0]);
  const second = choice("Second answer", answered, answered[1]);
  const verdict = el(
    "select",
    { required: true },
    el("option", { value: "" }, "choose …"),
    ...STRENGTHS.map(([value, words]) => el("option", { value }, words)),
  );
  const person = nameField();
  const note = el("p", { role: "status" });

  async function send() {
    const pair = [first, second].map((one) => state.settings[Number(one.select.value)]);
    const [chat, other] = pair.map((setting) => JSON.stringify(messages(state, setting, count)));
    const texts = pair.map((setting) => setting.answers[count - 1].text);
    if (texts[0] === texts[1]) note.textContent = "These two answers are equal; there is nothing to prefer.";
    else if (chat !== other) {
      note.textContent = "The two conversations differ before these answers, so the answers cannot be compared. "
        + "Use “Continue from here” at one of them, then ask both.";
    } else {
      try {
        await postJson("v1/studio/preferences", {
          by: person.name(),
          messages: messages(state, pair[0], count),
          answers: pair.map(({ answers }) => ({ text: answers[count - 1].text, asked: answers[count - 1].asked })),
          strength: Number(verdict.value),
        });
        note.textContent = "Saved. A new choice between the same answers replaces this one.";
        say("The preference is saved.");
      } catch (error) {
        note.textContent = `Not saved: ${error.message}`;
      }
    }
  }

  return el(
    "form",
    { "aria-label": "Preference", onsubmit: (event) => { event.preventDefault(); send(); } },
    el("h2", {}, "Which answer is better?"),
    el("div", { class: "rows" }, first.element, second.element, el("label", {}, "Verdict", verdict), person.element),
    el("button", { type: "submit", class: "main" }, "Save preference"),
    note,
  );
}

function choice(title, indexes, chosen) {
  const options = indexes.map((index) =>
    el("option", { value: index, selected: index === chosen }, settingName(index)),
  );
  const select = el("select", {}, ...options);
  return { select, element: el("label", {}, title, select) };
}
