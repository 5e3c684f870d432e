// SPDX-License-Identifier: Apache-2.0
// One dial over its whole range, the others as in a setting: the answers, and what they obtained.

import { download, toCsv } from "./csv.js";
import { curve } from "./curve.js";
import { el } from "./dom.js";
import { obtainedOf } from "./obtained.js";
import { patiently, postJson } from "./server.js";
import { dialNames, messages, requestBody, settingName } from "./state.js";

const AT_ONCE = 4;
const MOST_ANSWERS = 8;

/** The view. `state()` returns the state that is on the page now; questions before its last one are context. */
export function sweepView({ app, view, state }) {
  const prompt = el("textarea", { id: "sweep-prompt", rows: 2 });
  const dial = el("select", {}, ...dialNames(app.schema).map((name) => el("option", { value: name }, name)));
  const base = el("select", {});
  const answers = el("input", { type: "number", min: 1, max: MOST_ANSWERS, step: 1, value: 1 });
  const stop = el("button", { type: "button", disabled: true }, "Stop");
  const run = el("button", { type: "submit", class: "main" }, "Sweep");
  const result = el("div", {});
  const form = el(
    "form",
    { onsubmit: (event) => { event.preventDefault(); start(); } },
    el("label", { for: "sweep-prompt" }, "Prompt of the sweep"),
    prompt,
    el(
      "div",
      { class: "fields" },
      el("label", {}, "Dial to sweep", dial),
      el("label", {}, "Other dials as in", base),
      el("label", {}, "Answers to each value", answers),
    ),
    el("p", { class: "hint" }, "Several answers to a value differ at a temperature above 0 only (see Ask, Sampling)."),
    el("div", { class: "buttons" }, run, stop),
  );
  view.replaceChildren(el("h2", {}, "Sweep a dial"), form, result);

  /** Bring the form up to the state of the page. */
  function refresh() {
    prompt.value ||= state().questions.at(-1) ?? "";
    const chosen = base.value || "0";
    base.replaceChildren(...state().settings.map((_, index) => el("option", { value: index }, settingName(index))));
    base.value = Number(chosen) < state().settings.length ? chosen : "0";
  }

  async function start() {
    if (!prompt.value.trim()) {
      result.replaceChildren(el("p", { class: "problem", role: "alert" }, "Write a prompt first."));
      prompt.focus();
      return;
    }
    const aborter = new AbortController();
    stop.onclick = () => aborter.abort();
    stop.disabled = false;
    run.disabled = true;
    try {
      const name = dial.value;
      const rows = await sweep(name, aborter.signal);
      result.replaceChildren(...shown(name, rows));
      app.say(`The sweep of ${name} is complete.`);
    } catch (error) {
      const words = error.name === "AbortError" ? "The sweep was stopped." : error.message;
      result.replaceChildren(el("p", { class: "problem", role: "alert" }, words));
      if (error.status === 401) app.askForKey();
    } finally {
      stop.disabled = true;
      run.disabled = false;
    }
  }

  /** Ask for every value; returns [{value, texts, scored}] in order. */
  async function sweep(name, signal) {
    const { low, high } = app.schema;
    const values = Array.from({ length: high - low + 1 }, (_, index) => low + index);
    const now = state();
    const list = messages({ ...now, questions: [prompt.value] }, { answers: [] });
    const attributes = now.settings[Number(base.value)].attributes;
    const n = Math.min(Math.max(Number(answers.value) || 1, 1), MOST_ANSWERS);
    const rows = [];
    let next = 0;
    async function worker() {
      while (next < values.length) {
        const index = next++;
        const asked = { ...attributes, [name]: values[index] };
        const body = { ...requestBody(app.info.id, now.sampling, list, asked), n };
        const reply = await patiently(() => postJson("v1/chat/completions", body, signal), signal);
        const texts = reply.choices.map((choice) => choice.message.content);
        const chats = texts.map((content) => [...list, { role: "assistant", content }]);
        const scored = app.about.scores ? await patiently(() => obtainedOf(chats, signal), signal) : null;
        rows[index] = { value: values[index], asked, texts, scored };
        app.say(`${rows.filter(Boolean).length} of ${values.length} values of ${name}`);
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    return rows;
  }

  function shown(name, rows) {
    const attributes = rows[0].scored?.attributes ?? [];
    const measured = attributes.includes(name);
    const words = (texts) => mean(texts.map((text) => text.split(/\s+/).filter(Boolean).length));
    const obtained = (row, one) => mean(row.scored.scores.map((scores) => scores[attributes.indexOf(one)]));
    const points = rows.map((row) => [row.value, measured ? obtained(row, name) : words(row.texts)]);
    const { low, high } = app.schema;
    const [bottom, top] = measured
      ? [Math.min(low, ...points.map((p) => p[1])), Math.max(high, ...points.map((p) => p[1]))]
      : [0, Math.max(1, ...points.map((p) => p[1]))];
    const yTitle = measured ? `obtained ${name}` : "words in the answer";
    const chart = curve({ points, low, high, bottom, top, xTitle: `asked ${name}`, yTitle, ideal: measured });
    const columns = attributes.length ? attributes : ["words"];
    const numbers = (row) =>
      attributes.length ? attributes.map((one) => obtained(row, one).toFixed(2)) : [words(row.texts).toFixed(1)];
    const table = el(
      "table",
      {},
      el("caption", {}, attributes.length ? `What the answers obtained, by the value of ${name}` : `Answers by ${name}`),
      el("thead", {}, el("tr", {}, ...[name, ...columns.map((c) => (c === name ? `${c} obtained` : c)), "answer"]
        .map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...rows.map((row) => el(
        "tr",
        {},
        el("th", { scope: "row" }, String(row.value)),
        ...numbers(row).map((number) => el("td", { class: "number" }, number)),
        el("td", { class: "text" }, row.texts[0]),
      ))),
    );
    const save = () => download(`sweep-${name}.csv`, toCsv(csvRows(name, rows, attributes)));
    return [
      el("h3", {}, `${yTitle} over asked ${name}`),
      chart,
      el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Numbers of the sweep" }, table),
      el("div", { class: "buttons" }, el("button", { type: "button", onclick: save }, "Download CSV")),
    ];
  }

  refresh();
  return { refresh };
}

/** A row for each answer: the swept value, which answer, what it obtained, its text. */
function csvRows(name, rows, attributes) {
  const head = [`asked ${name}`, "answer number", ...attributes.map((one) => `obtained ${one}`), "answer"];
  const body = rows.flatMap((row) =>
    row.texts.map((text, index) => [row.value, index + 1, ...(row.scored?.scores[index] ?? []), text]),
  );
  return [head, ...body];
}

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
