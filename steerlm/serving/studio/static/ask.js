// SPDX-License-Identifier: Apache-2.0
// The view that asks: prompt, sampling, the settings side by side, and the choice between their answers.

import { byId } from "./dom.js";
import { remember } from "./history.js";
import { preferenceForm } from "./preference.js";
import { settingCard } from "./setting.js";
import { MAX_SETTINGS, newState, settingName } from "./state.js";

/** Connect the view. Returns `state()`, what is on the page now, and `open(state, id)`. */
export function askView({ app, share, copy }) {
  let state = newState(app.schema);
  let id = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let cards = [];
  let aborter = null;
  const movedMeanwhile = new Set();

  const sampling = { temperature: byId("temperature"), seed: byId("seed"), maxTokens: byId("max-tokens") };

  function read() {
    const number = (input, otherwise) => (input.value === "" ? otherwise : Number(input.value));
    state.system = byId("system").value;
    state.sampling = {
      temperature: number(sampling.temperature, 0),
      seed: number(sampling.seed, null),
      maxTokens: number(sampling.maxTokens, null),
    };
    return state;
  }

  function show() {
    cards = state.settings.map((_, index) => settingCard({ app, state, index, actions }));
    byId("settings").replaceChildren(...cards.map((card) => card.element));
    update();
  }

  /** What depends on whether there are answers and whether some are on their way. */
  function update() {
    const busy = aborter !== null;
    byId("send").disabled = busy;
    byId("again").disabled = busy || !state.questions.length;
    byId("stop").disabled = !busy;
    byId("new").disabled = busy;
    byId("add").disabled = busy || state.settings.length >= MAX_SETTINGS;
    const form = app.about.ratings && app.schema && !busy ? preferenceForm({ state, say: app.say }) : null;
    byId("preference").replaceChildren(...(form ? [form] : []));
  }

  /** Ask the settings at these indexes for the answer to the last question. */
  async function ask(indexes) {
    read();
    app.problem("");
    aborter = new AbortController();
    update();
    app.say("Answering …");
    const done = await Promise.all(indexes.map((index) => cards[index].ask(aborter.signal)));
    aborter = null;
    const answered = indexes.filter((_, at) => done[at]);
    if (answered.length) {
      const last = state.questions.length - 1;
      const said = answered.map((index) => `${settingName(index)}: ${state.settings[index].answers[last].text}`);
      app.say(said.join(" "));
      remember(id, app.info.id, state);
    } else if (state.settings.every((setting) => !setting.answers[state.questions.length - 1])) {
      app.say("There is no answer.");
    }
    update();
    const moved = [...movedMeanwhile].filter((index) => index < state.settings.length);
    movedMeanwhile.clear();
    if (moved.length) ask(moved);
    return answered.length > 0;
  }

  const everyone = () => state.settings.map((_, index) => index);

  async function send() {
    const question = byId("prompt").value.trim();
    const open = state.settings.findIndex((setting) => setting.answers.length < state.questions.length);
    if (!question) {
      app.problem("Write a prompt first.");
      byId("prompt").focus();
      return;
    }
    // A question that nobody answered is replaced; one that some answered has to be asked again first.
    if (open >= 0 && state.settings.some((setting) => setting.answers.length === state.questions.length)) {
      app.problem(`${settingName(open)} has no answer to the last question yet. Ask again first.`);
      byId("again").focus();
      return;
    }
    if (open >= 0) state.questions.pop();
    state.questions.push(question);
    if (await ask(everyone())) byId("prompt").value = "";
  }

  const actions = {
    copy: (index) => {
      read();
      copy(index);
    },
    remove: (index) => {
      if (aborter) return;
      state.settings.splice(index, 1);
      show();
      byId("add").focus();
    },
    moved: (index) => {
      if (!byId("live").checked || !state.questions.length) return;
      if (aborter) movedMeanwhile.add(index);
      else ask([index]);
    },
    continueFrom: (index) => {
      if (aborter) return;
      for (const setting of state.settings) setting.answers = structuredClone(state.settings[index].answers);
      show();
      byId("prompt").focus();
      app.say(`All settings go on from the conversation of ${settingName(index)}.`);
    },
  };

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!aborter) send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
  byId("again").addEventListener("click", () => ask(everyone()));
  byId("stop").addEventListener("click", () => {
    movedMeanwhile.clear();
    aborter?.abort();
  });
  byId("add").addEventListener("click", () => {
    state.settings.push(structuredClone(state.settings.at(-1)));
    show();
    app.say(`${settingName(state.settings.length - 1)} is added with the same dials.`);
  });
  byId("new").addEventListener("click", () => {
    const settings = state.settings.map(({ attributes }) => ({ attributes, answers: [] }));
    open({ ...read(), questions: [], settings }, null);
    byId("prompt").focus();
  });
  byId("share").addEventListener("click", () => {
    read();
    share();
  });

  function open(other, otherId) {
    movedMeanwhile.clear();
    aborter?.abort();
    state = other;
    id = otherId ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
    byId("system").value = state.system;
    sampling.temperature.value = state.sampling.temperature;
    sampling.seed.value = state.sampling.seed ?? "";
    sampling.maxTokens.value = state.sampling.maxTokens ?? "";
    const last = state.questions.at(-1);
    const unanswered = last !== undefined && state.settings.every((one) => one.answers.length < state.questions.length);
    byId("prompt").value = unanswered ? state.questions.pop() : "";
    show();
  }

  show();
  return { state: read, open };
}
