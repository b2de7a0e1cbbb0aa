/** The JSON API of the server that this page comes from. */

import { recall, remember } from "./storage.js";

/** @typedef {{label: string, score: number, index: number}} Label score: in [0, 1] */
/** @typedef {{preprocess: number, classify: number, postprocess: number}} StepTimes milliseconds in the server */
/** @typedef {{reason: string, message: string}} Failure reason: a stable code */
/** @typedef {{predictions: Label[], error: Failure | null, times_ms: StepTimes | null}} Result of one image */
/** @typedef {{name: string, version: string, classifier: string}} UsedModel */
/** @typedef {{model: UsedModel, results: Result[]}} Classification */
/**
 * @typedef {object} Model
 * @property {string} name
 * @property {boolean} ready
 * @property {string | null} classifier null of a model that is not ready, as all below
 * @property {string | null} precision
 * @property {number | null} classes
 * @property {number | null} threshold
 * @property {string[] | null} formats of images that the server decodes
 */
/** @typedef {{default: string, models: Model[]}} Models */
/** @typedef {{images_per_s: number | null, latency_ms: number | null}} Stats null where there is nothing to measure */

const API_KEY = "jpeg-web.api-key";
// The server or its gateway cannot take requests now; the photo is not the cause.
const OUTAGES = [0, 429, 502, 503, 504];
const BUSY = ["queue_full", "busy"];
// Longer than the server's own limits: these end requests to a server that froze.
const TIMEOUT_MS = 15_000;
const CLASSIFY_TIMEOUT_MS = 180_000; // with the upload

/** A request that got no result. */
export class ApiError extends Error {
  /**
   * @param {Failure} failure
   * @param {number} status HTTP status; 0 without a response
   * @param {number | null} [retryAfterS] seconds that the server wants to be left alone
   */
  constructor(failure, status, retryAfterS = null) {
    super(failure.message);
    this.failure = failure;
    this.status = status;
    this.retryAfterS = retryAfterS;
  }

  get isOutage() {
    return OUTAGES.includes(this.status);
  }

  /** Whether the server takes requests, only not so many. */
  get isBusy() {
    return this.status === 429 || BUSY.includes(this.failure.reason);
  }

  get needsKey() {
    return this.status === 401;
  }
}

let apiKey = recall("sessionStorage", API_KEY);

/** @param {string} key sent with every request from now on, as long as the tab lives */
export function setApiKey(key) {
  apiKey = key;
  remember("sessionStorage", API_KEY, key);
}

export const hasApiKey = () => apiKey !== null;

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<{response: Response, body: any}>} body: null if it is not JSON
 */
async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey) headers.set("Authorization", `Bearer ${apiKey}`);
  try {
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    const text = await response.text();
    const isJson = response.headers.get("Content-Type")?.includes("json");
    return { response, body: isJson ? JSON.parse(text) : null };
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError({ reason: "unreachable", message: String(error) }, 0);
  }
}

/**
 * @param {Response} response
 * @param {any} body
 */
function errorOf(response, body) {
  const failure = body?.error ?? { reason: `http_${response.status}`, message: response.statusText };
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  return new ApiError(failure, response.status, Number.isNaN(seconds) ? null : seconds);
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
async function get(path) {
  const { response, body } = await request(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok || body === null) throw errorOf(response, body);
  return body;
}

/** @returns {Promise<Models>} */
export const models = () => get("models");

/** @returns {Promise<Stats>} */
export const stats = () => get("stats");

/** Resolve if the server can classify; throw ApiError otherwise. */
export const health = () => get("health");

/**
 * Classify one image.
 *
 * @param {Blob} image
 * @param {{k: number, threshold: number | null, model: string}} settings threshold: null is that of the model; model:
 *   "" is the server's default
 * @param {AbortSignal} signal
 * @returns {Promise<Classification>}
 */
export async function classify(image, { k, threshold, model }, signal) {
  const least = threshold === null ? null : { threshold: String(threshold) };
  const query = new URLSearchParams({ k: String(k), ...least, ...(model && { model }) });
  const { response, body } = await request(`classify?${query}`, {
    method: "POST",
    body: image,
    headers: { "Content-Type": "application/octet-stream" },
    signal: AbortSignal.any([signal, AbortSignal.timeout(CLASSIFY_TIMEOUT_MS)]),
  });
  if (!body?.results) throw errorOf(response, body); // a broken image is 400 with a result
  return body;
}
