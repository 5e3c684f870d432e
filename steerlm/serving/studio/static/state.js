// SPDX-License-Identifier: Apache-2.0
// What the page is about, as plain data: it is shared in links and kept in the history.
//
// {system, sampling: {temperature, seed, maxTokens}, questions: [text], settings: [{attributes, answers: [answer]}]}
// An answer is {text, asked, stopped}; `answers[i]` of a setting belongs to `questions[i]`.

const VERSION = 1;
export const MAX_SETTINGS = 6;

export const newState = (schema) => ({
  system: "",
  sampling: { temperature: 0, seed: null, maxTokens: null },
  questions: [],
  settings: [newSetting(schema)],
});

export const newSetting = (schema) => ({ attributes: defaults(schema), answers: [] });

/** The attributes that have a dial, in the model's order. */
export const dialNames = (schema) => (schema ? schema.names.filter((n) => schema.trained?.includes(n) ?? true) : []);

export const defaults = (schema) =>
  Object.fromEntries(dialNames(schema).map((name) => [name, schema.defaults[name] ?? schema.high]));

export const settingName = (index) => `Setting ${String.fromCharCode(65 + index)}`;

/** The messages of a setting's conversation, up to question number `count - 1`, with its answers before that. */
export function messages(state, setting, count = state.questions.length) {
  const list = state.system ? [{ role: "system", content: state.system }] : [];
  for (let index = 0; index < count; index += 1) {
    list.push({ role: "user", content: state.questions[index] });
    const answer = setting.answers[index];
    if (index < count - 1) {
      const label = Object.keys(answer.asked).length ? { label: answer.asked } : {};
      list.push({ role: "assistant", content: answer.text, ...label });
    }
  }
  return list;
}

/** The body of a request for the answer with some attributes. */
export function requestBody(model, sampling, list, attributes) {
  const body = { model, messages: list, temperature: sampling.temperature };
  if (sampling.seed !== null) body.seed = sampling.seed;
  if (sampling.maxTokens !== null) body.max_tokens = sampling.maxTokens;
  if (Object.keys(attributes).length) body.chat_template_kwargs = { attributes };
  return body;
}

/** A state of unknown origin, brought into form for this model: {state, notes}. Throws if it is none. */
export function restored(value, schema) {
  if (value?.version !== VERSION || !Array.isArray(value.settings) || !Array.isArray(value.questions)) {
    throw new Error("it is not a state of this studio");
  }
  const notes = new Set();
  const number = (one) => (Number.isFinite(one) ? one : null);
  const attributesOf = (given) => {
    const own = defaults(schema);
    for (const [name, dial] of Object.entries(given ?? {})) {
      if (!(name in own)) notes.add(`This model has no dial ${name}.`);
      else if (Number.isInteger(dial) && dial >= schema.low && dial <= schema.high) own[name] = dial;
      else notes.add(`The value of ${name} is outside this model's range.`);
    }
    return own;
  };
  const questions = value.questions.filter((text) => typeof text === "string");
  const settings = value.settings.slice(0, MAX_SETTINGS).map((one) => ({
    attributes: attributesOf(one?.attributes),
    answers: (Array.isArray(one?.answers) ? one.answers : [])
      .slice(0, questions.length)
      .filter((answer) => typeof answer?.text === "string")
      .map((answer) => ({ text: answer.text, asked: attributesOf(answer.asked), stopped: Boolean(answer.stopped) })),
  }));
  if (!settings.length) settings.push(newSetting(schema));
  // Earlier answers are needed to go on; without them only the first question can be asked again.
  const answered = Math.min(...settings.map((one) => one.answers.length));
  const kept = questions.slice(0, answered + 1);
  for (const one of settings) one.answers = one.answers.slice(0, kept.length);
  const state = {
    system: typeof value.system === "string" ? value.system : "",
    sampling: {
      temperature: number(value.sampling?.temperature) ?? 0,
      seed: number(value.sampling?.seed),
      maxTokens: number(value.sampling?.maxTokens),
    },
    questions: kept,
    settings,
  };
  return { state, notes: [...notes] };
}

export const saved = (state) => ({ version: VERSION, ...structuredClone(state) });
