// SPDX-License-Identifier: Apache-2.0
// One setting on the page: its dials, its side of the conversation, what its answers obtained, its buttons.

import { dialGroup } from "./dials.js";
import { el } from "./dom.js";
import { obtainedOf, obtainedTable } from "./obtained.js";
import { ratingForm } from "./rate.js";
import { streamChat } from "./server.js";
import { messages, requestBody, settingName } from "./state.js";

// What an answer obtained, as long as the answer is on the page: asked once.
const known = new WeakMap();

/** The card of setting number `index`. `actions`: remove, copy, continueFrom, moved; each gets the index. */
export function settingCard({ app, state, index, actions }) {
  const setting = state.settings[index];
  const title = settingName(index);
  const turns = el("ol", { class: "turns", "aria-label": `Conversation of ${title}` });
  const below = el("div", {});
  const several = state.settings.length > 1;
  const dials = dialGroup({ ...app, attributes: setting.attributes, title, onMove: () => actions.moved(index) });
  const buttons = [el("button", { type: "button", onclick: () => actions.copy(index) }, "Copy as code")];
  if (several) {
    const remove = { type: "button", onclick: () => actions.remove(index), "aria-label": `Remove ${title}` };
    buttons.push(el("button", remove, "Remove"));
  }
  const element = el(
    "article",
    { class: "card", "aria-label": title },
    el("header", {}, el("h2", {}, title), el("div", { class: "buttons" }, ...buttons)),
    app.schema ? el("details", { open: true }, el("summary", {}, "Dials"), dials) : null,
    turns,
    below,
  );

  function showTurns() {
    const items = [];
    state.questions.forEach((question, at) => {
      items.push(turn("question", "You", question));
      const answer = setting.answers[at];
      if (answer) items.push(turn("answer", answerTitle(answer), answer.text));
    });
    turns.replaceChildren(...items);
    below.replaceChildren();
  }

  /** Show what can be done with the last answer; ask the reward model about it. */
  function showBelow() {
    below.replaceChildren();
    const count = state.questions.length;
    const answer = setting.answers[count - 1];
    if (!answer) return;
    const chat = messages(state, setting, count);
    const place = el("div", { class: "wide" });
    below.append(place);
    if (app.about.scores && answer.text) showObtained(place, chat, answer);
    if (several && count) {
      const go = () => actions.continueFrom(index);
      below.append(el("button", { type: "button", onclick: go }, `Continue all from ${title}`));
    }
    if (app.about.ratings && app.schema) {
      const given = () => ({ messages: chat, answer: { text: answer.text, asked: answer.asked } });
      below.append(ratingForm({ ...app, title, given }));
    }
  }

  async function showObtained(place, chat, answer) {
    try {
      const scored = known.get(answer) ?? (await obtainedOf([[...chat, { role: "assistant", content: answer.text }]]));
      known.set(answer, scored);
      place.replaceChildren(obtainedTable(answer.asked, scored, title));
    } catch (error) {
      place.replaceChildren(el("p", { class: "problem" }, `No scores: ${error.message}`));
    }
  }

  /** Ask for the answer to the last question; returns whether there is one. */
  async function ask(signal) {
    const count = state.questions.length;
    const asked = { ...setting.attributes };
    delete setting.answers[count - 1];
    setting.answers.length = count - 1;
    showTurns();
    const text = el("div", { class: "text" });
    const item = el("li", { class: "answer", "aria-busy": "true" }, el("p", { class: "who" }, "answering …"), text);
    turns.append(item);
    const answer = { text: "", asked, stopped: false };
    try {
      const body = requestBody(app.info.id, state.sampling, messages(state, setting, count), asked);
      const said = await streamChat(body, signal, (piece) => {
        answer.text += piece;
        text.append(piece);
      });
      answer.asked = said.attributes ?? asked;
      answer.cut = said.finish === "length";
    } catch (error) {
      if (error.name !== "AbortError") {
        item.replaceWith(el("li", { class: "problem", role: "alert" }, error.message));
        if (error.status === 401) app.askForKey();
        return false;
      }
      answer.stopped = true;
    }
    setting.answers[count - 1] = answer;
    showTurns();
    showBelow();
    return true;
  }

  showTurns();
  showBelow();
  return { element, ask, title };
}

function turn(kind, who, text) {
  return el("li", { class: kind }, el("p", { class: "who" }, who), el("div", { class: "text" }, text || "(empty)"));
}

function answerTitle(answer) {
  const dials = Object.entries(answer.asked).map(([name, value]) => `${name} ${value}`);
  const end = answer.stopped ? "stopped" : answer.cut ? "cut at the longest length" : "";
  return [dials.length ? `Answer with ${dials.join(", ")}` : "Answer", end].filter(Boolean).join("; ");
}
