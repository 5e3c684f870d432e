// SPDX-License-Identifier: Apache-2.0
// The start: asks the server what it serves, restores a shared state, and connects the parts of the page.

import { byId } from "./dom.js";
import { asCurl, asPython } from "./code.js";
import { askView } from "./ask.js";
import { showCopy } from "./copy.js";
import { showHistory } from "./history.js";
import { linkTo, valueInAddress } from "./link.js";
import { address, apiKey, getJson } from "./server.js";
import { messages, newState, requestBody, restored, settingName } from "./state.js";
import { sweepView } from "./sweep.js";
import { makeTabs } from "./tabs.js";

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

const say = (text) => (byId("status").textContent = text);

function askForKey() {
  byId("key").open = true;
  byId("key-value").focus();
}

/** What is served: {info, about, schema, descriptions, presets}. */
async function served() {
  const [info, about, models] = await Promise.all(["v1/model", "v1/studio", "v1/models"].map(getJson));
  const presets = models.data
    .filter((entry) => entry.parent === info.id && entry.attributes)
    .map(({ id, attributes, description }) => ({ name: id.slice(info.id.length + 1), attributes, description }));
  return { info, about, schema: info.attributes, descriptions: about.descriptions, presets };
}

function copyOf(app, state, index) {
  const setting = state.settings[index];
  const question = byId("prompt").value.trim() || "Hello";
  const count = state.questions.length;
  const whole = count ? state : { ...state, questions: [question] };
  const list = messages(whole, setting, count || 1);
  const body = requestBody(app.info.id, state.sampling, list, setting.attributes);
  const withKey = Boolean(apiKey.get());
  const hint = withKey ? "The key is read from the environment variable STEERLM_API_KEY." : "";
  showCopy(`${settingName(index)} as code`, [
    { title: "curl", text: asCurl(address(), body, withKey), hint },
    { title: "Python", text: asPython(address(), body, withKey), hint: "Needs: pip install openai" },
  ]);
}

function start(app) {
  problem("");
  byId("model").textContent = app.schema
    ? `Model ${app.info.id}: ${Object.keys(newState(app.schema).settings[0].attributes).length} dials`
    : `Model ${app.info.id}: a base model, which has no dials`;
  byId("tab-sweep").hidden = !app.schema;
  let ask = null;
  const share = () => {
    const { href, withAnswers } = linkTo(ask.state());
    const hint = withAnswers
      ? "The link has prompt, dials and answers; it opens on this server only."
      : "The conversation is too long for a link: this one has the last prompt and the dials, without answers.";
    showCopy("Share link", [{ title: "link", text: href, hint }]);
  };
  const open = (value, id) => {
    try {
      const { state, notes } = restored(value, app.schema);
      problem(notes.join(" "));
      ask.open(state, id);
    } catch (error) {
      problem(`The saved state cannot be opened: ${error.message}.`);
    }
  };
  ask = askView({ app, share, copy: (index) => copyOf(app, ask.state(), index) });
  const sweep = app.schema ? sweepView({ app, view: byId("view-sweep"), state: ask.state }) : null;
  const tabs = makeTabs(byId("tabs"), (id) => {
    if (id === "view-sweep") sweep.refresh();
    if (id === "view-history") {
      showHistory(byId("view-history"), (entry) => {
        open(entry.state, entry.id);
        tabs.show("view-ask");
        byId("prompt").focus();
      });
    }
  });
  const openAddress = () => {
    try {
      const value = valueInAddress();
      if (value) open(value, null);
    } catch {
      problem("The link is damaged; ask for a new one.");
    }
  };
  window.addEventListener("hashchange", openAddress);
  openAddress();
}

let started = false;

async function connect() {
  try {
    const app = { ...(await served()), say, problem, askForKey };
    started = true;
    start(app);
  } catch (error) {
    problem(error.message);
    byId("model").textContent = "The model is not known yet.";
    if (error.status === 401) askForKey();
  }
}

byId("key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey.set(byId("key-value").value.trim());
  byId("key-value").value = "";
  byId("key").open = false;
  say("The key is set.");
  byId("prompt").focus();
  if (!started) connect();
});

connect();
