// SPDX-License-Identifier: Apache-2.0
// The dials of one setting: a slider per attribute, and the presets that set several at once.

import { el, newId } from "./dom.js";
import { defaults, dialNames } from "./state.js";

/** A group of sliders. `onMove` is called when the person has moved one and let go. */
export function dialGroup({ schema, descriptions, presets, attributes, title, onMove }) {
  const group = el("fieldset", { class: "dials" }, el("legend", { class: "hidden" }, `Dials of ${title}`));
  const sliders = new Map();
  for (const name of dialNames(schema)) {
    const slider = dial(name, schema, descriptions[name], attributes, onMove);
    sliders.set(name, slider);
    group.append(slider.element);
  }
  const apply = (values) => {
    for (const [name, value] of Object.entries(values)) sliders.get(name)?.show(value);
    onMove();
  };
  const buttons = el("div", { class: "buttons" });
  if (presets.length) buttons.append(presetChoice(presets, title, (values) => apply({ ...defaults(schema), ...values })));
  if (sliders.size) {
    buttons.append(el("button", { type: "button", onclick: () => apply(defaults(schema)) }, "Defaults"));
  }
  return el("div", {}, group, buttons);
}

function dial(name, schema, description, attributes, onMove) {
  const id = newId();
  const about = `${id}-about`;
  const output = el("output", { for: id }, String(attributes[name]));
  const input = el("input", {
    id,
    type: "range",
    min: schema.low,
    max: schema.high,
    step: 1,
    value: attributes[name],
    "aria-describedby": about,
    oninput: () => {
      attributes[name] = Number(input.value);
      output.textContent = input.value;
    },
    onchange: onMove,
  });
  const preset = schema.defaults[name] ?? schema.high;
  const range = `${schema.low} to ${schema.high}, normally ${preset}.`;
  const element = el(
    "div",
    { class: "dial" },
    el("div", { class: "dial-head" }, el("label", { for: id }, name), output),
    input,
    el("p", { class: "description", id: about }, description ? `${description} ${range}` : range),
  );
  const show = (value) => {
    input.value = value;
    attributes[name] = Number(input.value);
    output.textContent = input.value;
  };
  return { element, show };
}

function presetChoice(presets, title, apply) {
  const select = el(
    "select",
    { "aria-label": `Preset for ${title}`, onchange: () => select.value !== "" && apply(presets[select.value].attributes) },
    el("option", { value: "" }, "Preset …"),
    ...presets.map(({ name, description }, index) =>
      el("option", { value: index }, description ? `${name}: ${description}` : name),
    ),
  );
  return select;
}
