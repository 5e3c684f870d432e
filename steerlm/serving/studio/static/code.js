// SPDX-License-Identifier: Apache-2.0
// A request as other programs send it: curl and the openai client of Python.

const KEY = "STEERLM_API_KEY";

/** A command line; `withKey`: whether the server wants a key, which is read from the environment. */
export function asCurl(address, body, withKey) {
  const lines = [`curl ${shell(`${address}/v1/chat/completions`)}`, "-H 'content-type: application/json'"];
  if (withKey) lines.push(`-H "authorization: Bearer $${KEY}"`);
  lines.push(`-d ${shell(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

/** A program; what OpenAI's protocol does not know goes into extra_body. */
export function asPython(address, body, withKey) {
  const { chat_template_kwargs: steering, ...fields } = body;
  // A label of an earlier answer is a field that the client passes on as it is.
  const argument = ([name, value]) => `    ${name}=${python(value)},`;
  const given = Object.entries(fields).map(argument);
  if (steering) given.push(argument(["extra_body", { chat_template_kwargs: steering }]));
  const key = withKey ? `os.environ["${KEY}"]` : '"unused"';
  return [
    ...(withKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(`${address}/v1`)}, api_key=${key})`,
    "reply = client.chat.completions.create(",
    ...given,
    ")",
    "print(reply.choices[0].message.content)",
    "",
  ].join("\n");
}

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// Texts, numbers, lists and mappings are written alike in JSON and Python.
const python = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
