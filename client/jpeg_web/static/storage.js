/** The browser's storage, and nothing where the user forbids it. */

/** @typedef {"localStorage" | "sessionStorage"} Area */

/**
 * @param {Area} area
 * @param {string} name
 */
export function recall(area, name) {
  try {
    return window[area].getItem(name);
  } catch {
    return null;
  }
}

/**
 * @param {Area} area
 * @param {string} name
 * @param {string} value
 */
export function remember(area, name, value) {
  try {
    window[area].setItem(name, value);
  } catch {
    // The choice lasts as long as the page.
  }
}
