/** What the user chose, remembered in this browser. */

import { recall, remember } from "./storage.js";

const STORED = "jpeg-web.settings";

/** @typedef {import("./queue.js").Settings} Settings */

/** @type {Settings} */
const DEFAULTS = { k: 5, threshold: null, model: "", scale: false };

/** @returns {Settings} */
export function load() {
  return { ...DEFAULTS, ...JSON.parse(recall("localStorage", STORED) ?? "{}") };
}

/** @param {Settings} settings */
export const save = (settings) => remember("localStorage", STORED, JSON.stringify(settings));
