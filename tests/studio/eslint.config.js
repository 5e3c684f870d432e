// SPDX-License-Identifier: Apache-2.0
// Rules for the studio's modules: eslint's recommended ones, with the names that a browser has.

const js = require("@eslint/js");

const names = [
  "AbortController", "Blob", "TextDecoder", "TextDecoderStream", "TextEncoder", "URL", "atob", "btoa", "console", "crypto",
  "document", "clearTimeout", "fetch", "localStorage", "navigator", "sessionStorage", "setTimeout", "structuredClone", "window",
];

module.exports = [
  js.configs.recommended,
  {
    languageOptions: { sourceType: "module", globals: Object.fromEntries(names.map((name) => [name, "readonly"])) },
    rules: { eqeqeq: "error", "no-var": "error", "prefer-const": "error", "no-eval": "error", "no-implied-eval": "error" },
  },
];
