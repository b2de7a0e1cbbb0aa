/** Photos on their way to the server: bounded concurrency, cancel, retry. */

import { ApiError, classify } from "./api.js";
import { prepare } from "./images.js";

/** @typedef {import("./api.js").Result} Result */
/** @typedef {import("./api.js").UsedModel} UsedModel */
/** @typedef {import("./api.js").Failure} Failure */
/** @typedef {{k: number, threshold: number | null, model: string, scale: boolean}} Settings */
/** @typedef {"waiting" | "sending" | "done" | "failed" | "cancelled"} PhotoState */
/**
 * @typedef {object} Photo
 * @property {File} file
 * @property {PhotoState} state
 * @property {Result | null} result of the server
 * @property {UsedModel | null} model that made the result
 * @property {Failure | null} failure why there are no labels
 * @property {string} change to the pixels before sending
 * @property {number} sentBytes
 * @property {number} totalMs from sending to the result
 * @property {number} lost tries during which the server failed
 * @property {Settings | null} settings of the result
 */

// Browsers open six connections to a server; two are left for the metrics and the state of the server.
const CONCURRENCY = 4;
// The photo may be the reason why the server fails or closes the connection.
const MOST_LOST = 5;
const RATE_WINDOW_MS = 2000;

/**
 * Dispatches "added" (detail: Photo[]), "changed" (detail: Photo), "cleared", and "drained" when no photo is left to send.
 */
export class Queue extends EventTarget {
  /** @type {Photo[]} */
  photos = [];
  /** @type {Photo[]} */
  #waiting = [];
  #sending = 0;
  #abort = new AbortController();
  #finishedInBatch = 0;
  #batchStart = 0;
  #batchEnd = 0;
  /** @type {number[]} */
  #recent = [];

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {() => Settings} settings
   * @param {() => string[]} formats that the model of the settings decodes
   */
  constructor(connection, settings, formats) {
    super();
    this.connection = connection;
    this.settings = settings;
    this.formats = formats;
    connection.addEventListener("change", () => this.#fill());
  }

  /** @param {File[]} files */
  add(files) {
    const photos = files.map((file) => /** @type {Photo} */ ({ file, state: "waiting" }));
    this.photos.push(...photos);
    this.#emit("added", photos);
    this.send(photos);
  }

  /**
   * Send photos, for the first time or again.
   *
   * @param {Photo[]} photos none of them is waiting or being sent
   */
  send(photos) {
    if (!this.isBusy) {
      this.#batchStart = performance.now();
      this.#finishedInBatch = 0;
      this.#recent = [];
    }
    for (const photo of photos) {
      Object.assign(photo, { result: null, model: null, failure: null, settings: null, change: "", lost: 0 });
      this.#become(photo, "waiting");
    }
    this.#waiting.push(...photos);
    this.#fill();
  }

  /** Leave the photos that have no result yet. */
  cancel() {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#waiting.splice(0).forEach((photo) => this.#become(photo, "cancelled"));
    this.#endBatch();
  }

  clear() {
    this.cancel();
    this.photos = [];
    this.#emit("cleared");
  }

  get isBusy() {
    return this.#sending + this.#waiting.length > 0;
  }

  /** @param {PhotoState[]} states */
  inState(...states) {
    return this.photos.filter((photo) => states.includes(photo.state));
  }

  /** Images per second: of the last seconds while photos are being sent, then of the whole batch. */
  get rate() {
    const now = performance.now();
    if (!this.isBusy) return (1000 * this.#finishedInBatch) / Math.max(1, this.#batchEnd - this.#batchStart);
    this.#recent = this.#recent.filter((time) => now - time < RATE_WINDOW_MS);
    return (1000 * this.#recent.length) / Math.max(1, Math.min(RATE_WINDOW_MS, now - this.#batchStart));
  }

  #fill() {
    while (this.connection.state === "up" && this.#sending < CONCURRENCY) {
      const photo = this.#waiting.shift();
      if (!photo) return;
      void this.#send(photo);
    }
  }

  /** @param {Photo} photo */
  async #send(photo) {
    const { signal } = this.#abort;
    this.#sending += 1;
    this.#become(photo, "sending");
    try {
      await this.#classify(photo, signal);
      this.#finish(photo);
    } catch (error) {
      if (signal.aborted) this.#become(photo, "cancelled");
      else this.#fail(photo, error);
    } finally {
      this.#sending -= 1;
    }
    this.#fill();
    if (!this.isBusy && !signal.aborted) this.#endBatch();
  }

  /**
   * @param {Photo} photo
   * @param {AbortSignal} signal
   */
  async #classify(photo, signal) {
    const settings = this.settings();
    const { image, change } = await prepare(photo.file, settings.scale, this.formats());
    signal.throwIfAborted();
    const start = performance.now();
    const { model, results } = await classify(image, settings, signal);
    Object.assign(photo, {
      result: results[0],
      failure: results[0].error,
      totalMs: performance.now() - start,
      sentBytes: image.size,
      model,
      change,
      settings,
    });
  }

  /**
   * @param {Photo} photo
   * @param {unknown} error
   */
  #fail(photo, error) {
    this.connection.failed(error);
    if (!(error instanceof ApiError)) {
      photo.failure = { reason: "file_unreadable", message: String(error) };
    } else if (error.needsKey || (error.isOutage && !this.#givesUp(photo, error))) {
      this.#waiting.unshift(photo);
      this.#become(photo, "waiting");
      return;
    } else {
      photo.failure = error.failure;
    }
    this.#finish(photo);
  }

  /**
   * @param {Photo} photo
   * @param {ApiError} error
   */
  #givesUp(photo, error) {
    photo.lost += error.isBusy ? 0 : 1;
    return photo.lost >= MOST_LOST;
  }

  /** @param {Photo} photo */
  #finish(photo) {
    this.#finishedInBatch += 1;
    this.#recent.push(performance.now());
    this.#become(photo, photo.failure ? "failed" : "done");
  }

  #endBatch() {
    this.#batchEnd = performance.now();
    this.#emit("drained");
  }

  /**
   * @param {Photo} photo
   * @param {PhotoState} state
   */
  #become(photo, state) {
    photo.state = state;
    this.#emit("changed", photo);
  }

  /**
   * @param {string} type
   * @param {unknown} [detail]
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
