// Sends the requests of the examples beside it.
import { setTimeout } from "node:timers/promises";

const LIMIT_MS = 30_000;

/**
 * Send a POST request. After 429 and 503, which mean "not now", send it again when Retry-After has passed.
 *
 * @param {string} url
 * @param {RequestInit} request body and headers
 * @returns {Promise<{status: number, answer: any}>} the status, and the JSON of the response
 */
export async function post(url, request) {
  const end = Date.now() + LIMIT_MS;
  const signal = AbortSignal.timeout(LIMIT_MS);
  try {
    for (;;) {
      const response = await fetch(url, { method: "POST", signal, ...request });
      const { status } = response;
      const waitMs = 1000 * (Number(response.headers.get("Retry-After")) || 1); // Triton's own 503 has no such header
      if ((status !== 429 && status !== 503) || Date.now() + waitMs >= end) {
        return { status, answer: await response.json() };
      }
      await response.body?.cancel();
      console.error(`HTTP ${status}: again in ${waitMs / 1000} s`);
      await setTimeout(waitMs);
    }
  } catch (error) {
    // The message of fetch() is "fetch failed"; its cause has a code, as ECONNREFUSED, and not always a message.
    const cause = error.cause ?? error;
    const remedy = error.cause ? ": start the server, or correct the URL" : "";
    throw new Error(`${url}: ${cause.message || cause.code}${remedy}`);
  }
}
