// SPDX-License-Identifier: Apache-2.0
// Asked against obtained: what the reward model says of an answer, as numbers and bars.

import { el, svg } from "./dom.js";
import { postJson } from "./server.js";

/** Scores of the last message of each chat: {attributes, low, high, scores}. */
export const obtainedOf = (chats, signal) => postJson("v1/studio/scores", { chats }, signal);

/** A table of one answer; every number is a text, the bars repeat them for the eye. */
export function obtainedTable(asked, scored, title) {
  const rows = scored.attributes.map((name, index) => {
    const value = scored.scores[0][index];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", { class: "number" }, asked[name] === undefined ? "–" : String(asked[name])),
      el("td", { class: "number" }, value.toFixed(1)),
      el("td", {}, bar(asked[name], value, scored.low, scored.high)),
    );
  });
  const head = ["attribute", "asked", "obtained"].map((text) => el("th", { scope: "col" }, text));
  return el(
    "table",
    { class: "obtained" },
    el("caption", {}, `Asked (line) and obtained (bar) by the answer of ${title}, from ${scored.low} to ${scored.high}`),
    el("thead", {}, el("tr", {}, ...head, el("td", {}))),
    el("tbody", {}, ...rows),
  );
}

function bar(asked, value, low, high) {
  const place = (number) => (100 * (Math.min(Math.max(number, low), high) - low)) / (high - low);
  return svg(
    "svg",
    { class: "bar", viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 6, width: 100, height: 4 }),
    svg("rect", { class: "got", x: 0, y: 3, width: place(value), height: 10 }),
    asked === undefined ? null : svg("line", { class: "asked", x1: place(asked), x2: place(asked), y1: 0, y2: 16 }),
  );
}
