/** A card for each photo. */

import { bytes, milliseconds, percent } from "./format.js";
import { describe } from "./reasons.js";

/** @typedef {import("./queue.js").Photo} Photo */

const STATES = { waiting: "Waiting", sending: "Classifying…", cancelled: "Cancelled", done: "", failed: "" };

/**
 * @param {string} id of a template
 * @returns {DocumentFragment}
 */
const instance = (id) => {
  const template = /** @type {HTMLTemplateElement} */ (document.getElementById(id));
  return /** @type {DocumentFragment} */ (template.content.cloneNode(true));
};

/**
 * @param {ParentNode} parent
 * @param {string} selector of an element that is there
 * @returns {HTMLElement}
 */
const part = (parent, selector) => /** @type {HTMLElement} */ (parent.querySelector(selector));

/**
 * @param {string} tag
 * @param {string} text
 * @param {string} [className]
 */
function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

/**
 * @param {Photo} photo
 * @returns {HTMLElement}
 */
export function createCard(photo) {
  const card = part(instance("card"), "li");
  part(card, "h3").textContent = photo.file.name;
  part(card, "h3").title = photo.file.name;
  return card;
}

/**
 * Show the present state of a photo.
 *
 * @param {HTMLElement} card
 * @param {Photo} photo
 * @param {() => void} retry
 */
export function updateCard(card, photo, retry) {
  card.dataset.state = photo.state;
  part(card, ".state").textContent = STATES[photo.state];
  part(card, ".meta").textContent = meta(photo).join(" · ");
  card.querySelectorAll(".labels, .none, details, .problem").forEach((old) => old.remove());
  if (photo.state === "done") part(card, ".body").append(labels(photo));
  if (photo.failure) part(card, ".body").append(problem(photo.failure, retry));
}

/** @param {Photo} photo */
function meta({ file, state, change, sentBytes, totalMs }) {
  const size = change ? `${bytes(file.size)} → ${bytes(sentBytes)} (${change})` : bytes(file.size);
  return state === "done" ? [size, milliseconds(totalMs)] : [size];
}

/** @param {Photo} photo */
function labels({ result, totalMs }) {
  const { predictions, times_ms: times } = /** @type {import("./api.js").Result} */ (result);
  const fragment = instance("labels");
  part(fragment, ".none").hidden = predictions.length > 0;
  part(fragment, ".labels").append(
    ...predictions.map(({ label, score }) => {
      const row = document.createElement("li");
      const bar = element("span", "", "score-bar");
      bar.style.setProperty("--share", String(score));
      row.append(element("span", label, "label"), element("span", percent(score), "score"), bar);
      return row;
    }),
  );
  part(fragment, "tbody").append(
    ...predictions.map(({ label, index }) => {
      const row = document.createElement("tr");
      row.append(element("td", label), element("td", String(index)));
      return row;
    }),
  );
  if (times) part(fragment, ".times").append(...steps(times, totalMs));
  return fragment;
}

/**
 * @param {import("./api.js").StepTimes} times
 * @param {number} totalMs
 */
function steps({ preprocess, classify, postprocess }, totalMs) {
  const rest = Math.max(0, totalMs - preprocess - classify - postprocess);
  const named = /** @type {[string, number][]} */ ([
    ["Preprocess", preprocess],
    ["Classify", classify],
    ["Postprocess", postprocess],
    ["Network and queues", rest],
  ]);
  return named.map(([name, ms]) => {
    const row = document.createElement("div");
    const bar = element("span", "", "time-bar");
    bar.style.setProperty("--share", String(ms / totalMs));
    const value = element("dd", milliseconds(ms));
    value.append(bar);
    row.append(element("dt", name), value);
    return row;
  });
}

/**
 * @param {import("./api.js").Failure} failure
 * @param {() => void} retry
 */
function problem(failure, retry) {
  const { what, remedy } = describe(failure);
  const fragment = instance("problem");
  part(fragment, ".what").textContent = what;
  part(fragment, ".remedy").textContent = remedy;
  part(fragment, ".technical").textContent = failure.reason;
  part(fragment, "button").addEventListener("click", retry);
  return fragment;
}
