// SPDX-License-Identifier: Apache-2.0
// Requests to this server, and what went wrong in words for a person. Addresses are relative: any prefix works.

import { events } from "./events.js";

const KEY = "steerlm.studio.key";
const SECONDS = { 429: 1, 503: 5 };

/** A request that failed. `status`: of HTTP; 0 without an answer. `wait`: seconds until another try makes sense. */
export class RequestError extends Error {
  constructor(message, status = 0, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** The key of the API for as long as the tab is open. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** The address of the server, as clients elsewhere call it. */
export const address = () => new URL(".", window.location.href).href.replace(/\/$/, "");

export const getJson = async (path) => (await send(path)).json();

export const postJson = async (path, body, signal) => (await send(path, body, signal)).json();

/** The reply to `request`, which is sent again up to `tries` times while the server is busy. */
export async function patiently(request, signal, tries = 5) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 429 || attempt === tries) throw error;
      await pause(error.wait * attempt, signal);
    }
  }
}

/** Streams the answer to a chat; calls `onPiece` with each new piece. Returns what the server says of the answer. */
export async function streamChat(body, signal, onPiece) {
  const response = await send("v1/chat/completions", { ...body, stream: true }, signal);
  const said = { finish: null, attributes: null };
  let complete = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        complete = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new RequestError(`The answer broke off: ${chunk.error.message}`, chunk.error.code);
      said.attributes = chunk.steerlm?.attributes ?? said.attributes;
      const choice = chunk.choices[0];
      if (choice?.delta?.content) onPiece(choice.delta.content);
      said.finish = choice?.finish_reason ?? said.finish;
    }
  } catch (error) {
    if (error instanceof RequestError || error.name === "AbortError") throw error;
    throw new RequestError("The connection to the server was lost before the answer was complete.");
  }
  if (!complete) throw new RequestError("The server closed the connection before the answer was complete.");
  return said;
}

async function send(path, body, signal) {
  const headers = {};
  if (apiKey.get()) headers.authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer. Check that it is running and that you are connected to it.");
  }
  if (response.ok) return response;
  const wait = Number(response.headers.get("retry-after")) || SECONDS[response.status] || 0;
  throw new RequestError(await words(response, wait), response.status, wait);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function words(response, wait) {
  const { status } = response;
  let message = `HTTP ${status}`;
  try {
    const { error } = await response.json();
    message = error?.message ?? error ?? message;
  } catch {
    // no JSON: a gateway's own page
  }
  if (status === 401 || status === 403) {
    const wrong = apiKey.get() ? "The server does not take this API key." : "The server asks for an API key.";
    return `${wrong} Enter yours under “API key” at the top.`;
  }
  if (status === 429) return `The server is busy, or your limit is reached. Try again in ${wait} seconds. (${message})`;
  if (status === 503) return `The server cannot answer now. Try again in ${wait} seconds. (${message})`;
  if (status === 502 || status === 504) return `A server behind this one cannot be reached. Try again soon. (${message})`;
  return status >= 500 ? `The server failed: ${message}` : message;
}
