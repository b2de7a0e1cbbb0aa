/** Numbers as text. */

/** @param {number} bytes */
export function bytes(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 999_500 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** @param {number} ms */
export function milliseconds(ms) {
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** @param {number} value */
export const short = (value) => value.toFixed(value > 0 && value < 10 ? 1 : 0);

/** @param {number} score in [0, 1] */
export const percent = (score) => (score < 0.0005 ? "<0.1%" : `${(100 * score).toFixed(1)}%`);

/**
 * @param {number} count
 * @param {string} noun in the singular
 */
export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
