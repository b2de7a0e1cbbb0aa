/** Whether the server takes requests, and the wait until it does again. */

import { ApiError, hasApiKey, health } from "./api.js";

const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 10;
const CALM_MS = 60_000; // after which an outage is a new one

/** @typedef {"up" | "down" | "busy" | "locked"} ConnectionState locked: an API key is missing or wrong */

/** Dispatches "change" when the state changes, and after every try without success. */
export class Connection extends EventTarget {
  /** @type {ConnectionState} */
  state = "up";
  /** Whether the key that is missing was rejected before. */
  keyRejected = false;
  /** Seconds until the next try. */
  waitS = 0;
  #failures = 0;
  #lastFailure = 0;
  /** @type {number | undefined} */
  #timer;

  /**
   * Take note of a request without a result. Errors of the request itself change nothing.
   *
   * @param {unknown} error
   */
  failed(error) {
    if (!(error instanceof ApiError)) return;
    if (error.needsKey) {
      this.keyRejected = hasApiKey();
      this.#become("locked");
    } else if (error.isOutage && this.state === "up") {
      this.#wait(error);
    }
  }

  /** Try now rather than after the wait. */
  async tryNow() {
    try {
      await health();
    } catch (error) {
      if (error instanceof ApiError && error.needsKey) this.failed(error);
      else this.#wait(error);
      return;
    }
    this.#become("up");
  }

  /** @param {unknown} error */
  #wait(error) {
    const now = performance.now();
    if (now - this.#lastFailure > CALM_MS) this.#failures = 0;
    this.#lastFailure = now;
    const backOff = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** this.#failures);
    const requestedS = error instanceof ApiError ? (error.retryAfterS ?? 0) : 0;
    this.#failures += 1;
    this.waitS = Math.max(backOff, Math.min(requestedS, LONGEST_WAIT_S));
    this.#become(error instanceof ApiError && error.isBusy ? "busy" : "down");
    this.#timer = setTimeout(() => this.tryNow(), this.waitS * 1000);
  }

  /** @param {ConnectionState} state */
  #become(state) {
    clearTimeout(this.#timer);
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
