/** The page: connects the queue, the server and the elements. */

import { health, models, setApiKey, stats } from "./api.js";
import { createCard, updateCard } from "./cards.js";
import { Connection } from "./connection.js";
import { FORMATS } from "./export.js";
import { bytes, counted, percent, short } from "./format.js";
import { LONGEST_SIDE, Thumbnails } from "./images.js";
import { isPhoto, listen } from "./intake.js";
import { LiveStrip } from "./live.js";
import { Queue } from "./queue.js";
import { describe } from "./reasons.js";
import { load, save } from "./settings.js";

/** @typedef {import("./queue.js").Photo} Photo */
/** @typedef {import("./api.js").Model} Model */

const STATS_PERIOD_MS = 1000;
const ANNOUNCEMENT_PERIOD_MS = 10_000;
const COPIED_MS = 1500;

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const button = (id) => /** @type {HTMLButtonElement} */ (byId(id));
/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));
/** @param {string} id */
const select = (id) => /** @type {HTMLSelectElement} */ (byId(id));

const settings = load();
const connection = new Connection();
const queue = new Queue(
  connection,
  () => ({ ...settings }),
  () => chosenModel()?.formats ?? ["jpeg"],
);
const thumbnails = new Thumbnails();
/** @type {Map<Photo, HTMLElement>} */
const cards = new Map();
/** @type {Model[]} */
let offered = [];

/** @param {string} text for screen readers, when they are done with the last one */
function announce(text) {
  byId("announcements").textContent = text;
}

/**
 * Hide an element, or show it; a hidden element hands the keyboard's focus on.
 *
 * @param {HTMLElement} element
 * @param {boolean} shown
 * @param {HTMLElement} refuge
 */
function show(element, shown, refuge) {
  const focused = element.contains(document.activeElement);
  element.hidden = !shown;
  if (focused && !shown) refuge.focus();
}

/* Photos */

/** @param {File[]} files */
function take(files) {
  if (files.length) queue.add(files);
  else announce("No photos found.");
}

/** @param {Photo} photo */
function retryOne(photo) {
  queue.send([photo]);
  cards.get(photo)?.focus(); // its button is gone
}

/** Photos whose labels come from other settings than those chosen now. */
const outdated = () =>
  queue
    .inState("done")
    .filter(
      ({ settings: used, model }) =>
        used?.k !== settings.k || used.threshold !== settings.threshold || model?.name !== settings.model,
    );

let renderRequested = false;

/** Bring what depends on all photos up to date, at most once for each frame. */
function render() {
  if (renderRequested) return;
  renderRequested = true;
  requestAnimationFrame(() => {
    renderRequested = false;
    renderTotals();
    renderConnection();
  });
}

function renderTotals() {
  const total = queue.photos.length;
  const failed = queue.inState("failed").length;
  const done = queue.inState("done").length + failed;
  const cancelled = queue.inState("cancelled").length;
  document.body.toggleAttribute("data-empty", total === 0);
  byId("results").setAttribute("aria-busy", String(queue.isBusy));
  show(byId("results"), total > 0, button("choose"));

  const parts = [queue.isBusy || cancelled ? `${done} of ${total}` : counted(total, "photo")];
  if (failed) parts.push(`${failed} failed`);
  if (cancelled) parts.push(`${cancelled} cancelled`);
  if (done && connection.state === "up") parts.push(`${short(queue.rate)} images/s`);
  byId("progress-text").textContent = parts.join(", ");
  Object.assign(byId("progress"), { max: Math.max(1, total), value: done });

  const again = outdated().length;
  show(button("cancel"), queue.isBusy, button("clear"));
  show(button("retry"), !queue.isBusy && failed + cancelled > 0, button("clear"));
  show(button("only-failed"), failed > 0 && failed < total, button("clear"));
  if (button("only-failed").hidden) showOnlyFailed(false);
  show(button("again"), !queue.isBusy && again > 0, button("clear"));
  button("retry").textContent = `Retry ${failed + cancelled}`;
  button("again").textContent = `Classify ${again} again`;
  button("copy").disabled = button("download").disabled = done === 0;
  renderSaving();
}

/** @param {boolean} only */
function showOnlyFailed(only) {
  byId("cards").toggleAttribute("data-only-failed", only);
  button("only-failed").setAttribute("aria-pressed", String(only));
}

function renderSaving() {
  const scaled = queue.photos.filter(({ change }) => change);
  const before = scaled.reduce((sum, { file }) => sum + file.size, 0);
  const after = scaled.reduce((sum, { sentBytes }) => sum + sentBytes, 0);
  byId("scale-details").textContent =
    before > after
      ? `Sent ${bytes(after)} instead of ${bytes(before)}. Scores change slightly.`
      : `To ${LONGEST_SIDE} pixels: a phone's photo shrinks to about a tenth. Scores change slightly.`;
}

let lastAnnouncement = 0;

function announceProgress() {
  if (!queue.isBusy || performance.now() - lastAnnouncement < ANNOUNCEMENT_PERIOD_MS) return;
  lastAnnouncement = performance.now();
  announce(byId("progress-text").textContent ?? "");
}

function announceResult() {
  const [photo, ...others] = queue.photos;
  if (!photo) return;
  if (others.length) {
    const failed = queue.inState("failed").length;
    announce(`${counted(queue.inState("done").length, "photo")} labelled${failed ? `, ${failed} failed` : ""}.`);
  } else if (photo.failure) {
    announce(`${photo.file.name}: ${describe(photo.failure).what}`);
  } else if (photo.result) {
    const [best] = photo.result.predictions;
    const found = best ? `${best.label}, ${percent(best.score)}` : "no label reaches the threshold";
    announce(`${photo.file.name}: ${found}.`);
  }
}

queue.addEventListener("added", (event) => {
  /** @type {Photo[]} */
  const photos = /** @type {CustomEvent} */ (event).detail;
  for (const photo of photos) {
    const card = createCard(photo);
    cards.set(photo, card);
    thumbnails.add(card, photo.file);
  }
  byId("cards").append(...photos.map((photo) => /** @type {HTMLElement} */ (cards.get(photo))));
  lastAnnouncement = performance.now();
});
queue.addEventListener("changed", (event) => {
  /** @type {Photo} */
  const photo = /** @type {CustomEvent} */ (event).detail;
  const card = cards.get(photo);
  if (card) updateCard(card, photo, () => retryOne(photo));
  render();
  announceProgress();
});
queue.addEventListener("cleared", () => {
  thumbnails.clear();
  cards.clear();
  byId("cards").replaceChildren();
  announce("Photos cleared.");
  render();
});
queue.addEventListener("drained", () => {
  announceResult();
  render();
});

button("cancel").addEventListener("click", () => queue.cancel());
button("only-failed").addEventListener("click", () => {
  showOnlyFailed(button("only-failed").getAttribute("aria-pressed") !== "true");
});
button("retry").addEventListener("click", () => queue.send(queue.inState("failed", "cancelled")));
button("again").addEventListener("click", () => queue.send(outdated()));
button("clear").addEventListener("click", () => queue.clear());

/* Pickers */

for (const [opener, picker] of [
  ["choose", "files"],
  ["choose-folder", "folder"],
  ["camera", "capture"],
]) {
  button(opener).addEventListener("click", () => input(picker).click());
  input(picker).addEventListener("change", () => {
    const files = [...(input(picker).files ?? [])];
    input(picker).value = ""; // so that the same photo can be chosen again
    take(picker === "folder" ? files.filter(isPhoto) : files);
  });
}
listen(byId("drop-target"), take);

/* Settings */

function chosenModel() {
  return offered.find(({ name }) => name === select("model").value);
}

function renderSettings() {
  const model = chosenModel();
  input("k").max = String(model?.classes ?? 1000);
  settings.k = Math.min(Math.max(1, Math.round(settings.k)), Number(input("k").max));
  input("k").value = String(settings.k);
  input("threshold").placeholder = String(model?.threshold ?? 0);
  input("threshold").value = settings.threshold === null ? "" : String(settings.threshold);
  input("scale").checked = settings.scale;
  byId("model-details").textContent = model?.ready
    ? [`${model.classes} classes`, model.classifier, model.precision].filter(Boolean).join(" · ")
    : "";
  keepSettings();
}

function keepSettings() {
  save(settings);
  renderCommand();
  render();
}

async function loadModels() {
  try {
    const { default: standard, models: all } = await models();
    offered = all;
    select("model").replaceChildren(
      ...all.map(({ name, ready }) => {
        const option = new Option(ready ? name : `${name} (not ready)`, name);
        option.disabled = !ready;
        return option;
      }),
    );
    const known = all.some(({ name }) => name === settings.model);
    settings.model = select("model").value = known ? settings.model : standard;
    renderSettings();
  } catch (error) {
    connection.failed(error);
  }
}

byId("settings").addEventListener("submit", (event) => event.preventDefault());
input("k").addEventListener("input", () => {
  if (!input("k").validity.valid) return; // until the number is complete
  settings.k = input("k").valueAsNumber;
  renderSettings();
});
input("k").addEventListener("change", () => {
  const typed = input("k").valueAsNumber;
  settings.k = Number.isNaN(typed) ? settings.k : typed;
  renderSettings();
});
function takeThreshold() {
  const typed = input("threshold").valueAsNumber;
  settings.threshold = Number.isNaN(typed) ? null : Math.min(Math.max(0, typed), 1);
}

input("threshold").addEventListener("input", () => {
  if (!input("threshold").validity.valid) return; // until the number is complete
  takeThreshold();
  keepSettings(); // its text is still being typed
});
input("threshold").addEventListener("change", () => {
  takeThreshold();
  renderSettings();
});
select("model").addEventListener("change", () => {
  settings.model = select("model").value;
  renderSettings();
});
input("scale").addEventListener("change", () => {
  settings.scale = input("scale").checked;
  renderSettings();
});

/* Server */

function renderConnection() {
  const { state, waitS } = connection;
  const waiting = queue.inState("waiting").length;
  show(byId("key-form"), state === "locked", button("choose"));
  show(byId("connection"), state === "down" || state === "busy", button("choose"));
  byId("key-title").textContent = connection.keyRejected
    ? "The server does not accept this API key"
    : "This server requires an API key";
  byId("connection-title").textContent = state === "busy" ? "The server is busy" : "The server does not answer";
  const photos = waiting ? `${counted(waiting, "photo")} will be sent as soon as it does. ` : "";
  byId("connection-details").textContent = `${photos}Next try after ${short(waitS)} s.`;
}

/** @type {import("./connection.js").ConnectionState} */
let lastState = connection.state;

connection.addEventListener("change", () => {
  renderConnection();
  if (connection.state === lastState) return;
  lastState = connection.state;
  if (lastState === "up") void loadModels();
  if (lastState === "locked") input("key").focus();
  const titles = { up: "The server answers again.", locked: byId("key-title").textContent };
  announce({ ...titles, down: "The server does not answer.", busy: "The server is busy." }[lastState] ?? "");
});
button("try-now").addEventListener("click", () => connection.tryNow());
window.addEventListener("online", () => connection.state !== "up" && connection.tryNow());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(input("key").value);
  input("key").value = "";
  void connection.tryNow();
});

const strip = new LiveStrip();

async function pollStats() {
  try {
    if (document.visibilityState === "visible" && connection.state === "up") {
      const now = await stats();
      strip.show(now);
      if (now.images_per_s === null) await health(); // no metrics, or no server behind the application
    }
  } catch (error) {
    connection.failed(error);
  }
  setTimeout(pollStats, STATS_PERIOD_MS);
}

/* Export */

/**
 * @param {HTMLButtonElement} pressed
 * @param {string} text
 */
async function copy(pressed, text) {
  await navigator.clipboard.writeText(text);
  pressed.textContent = "Copied";
  announce("Copied.");
  setTimeout(() => (pressed.textContent = "Copy"), COPIED_MS);
}

const exported = () => FORMATS[select("format").value].write(queue.inState("done", "failed"));

button("copy").addEventListener("click", () => copy(button("copy"), exported()));
button("download").addEventListener("click", () => {
  const format = select("format").value;
  const url = URL.createObjectURL(new Blob([exported()], { type: FORMATS[format].type }));
  Object.assign(document.createElement("a"), { href: url, download: `labels.${format}` }).click();
  URL.revokeObjectURL(url);
});

/* The command */

function renderCommand() {
  const least = settings.threshold === null ? "" : `&threshold=${settings.threshold}`;
  const url = new URL(`classify?k=${settings.k}${least}`, document.baseURI);
  byId("curl").textContent = `curl --data-binary @photo.jpg '${url}'`;
}

button("copy-curl").addEventListener("click", () => copy(button("copy-curl"), byId("curl").textContent ?? ""));
// Browsers give pages of http:// hosts other than localhost no access to the clipboard.
button("copy").hidden = button("copy-curl").hidden = !navigator.clipboard;

renderSettings();
renderSaving();
void loadModels();
void pollStats();
