// SPDX-License-Identifier: Apache-2.0
// The state in a link: after the #, which no browser sends to a server.

import { saved } from "./state.js";

const LONGEST = 16000;

/** A link to the state; {href, withAnswers}. Too long a link would break in mails, so it then leaves answers out. */
export function linkTo(state) {
  const whole = saved(state);
  const href = address(whole);
  if (href.length <= LONGEST) return { href, withAnswers: true };
  const last = whole.questions.at(-1);
  whole.questions = last === undefined ? [] : [last];
  for (const setting of whole.settings) setting.answers = [];
  return { href: address(whole), withAnswers: false };
}

/** The value in the page's address; null if there is none. Throws if it is damaged. */
export function valueInAddress() {
  const text = window.location.hash.slice(1);
  if (!text.startsWith("s=")) return null;
  const bytes = Uint8Array.from(atob(text.slice(2).replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

function address(value) {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const url = new URL(window.location.href);
  url.hash = `s=${text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
  return url.href;
}
