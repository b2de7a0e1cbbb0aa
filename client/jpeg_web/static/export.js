/** Results as JSON and CSV. */

/** @typedef {import("./queue.js").Photo} Photo */

/**
 * @param {Photo[]} photos
 * @returns {string} a list of objects, one for each photo with a result
 */
function json(photos) {
  const entries = photos.map(({ file, model, result, failure, totalMs }) => ({
    name: file.name,
    bytes: file.size,
    model,
    predictions: result?.predictions ?? [],
    error: failure,
    times_ms: result?.times_ms ? { ...result.times_ms, total: Number(totalMs.toFixed(1)) } : null,
  }));
  return `${JSON.stringify(entries, null, 2)}\n`;
}

/** @param {unknown} value as RFC 4180 has it */
function field(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * @param {Photo[]} photos
 * @returns {string} a line for each label, and one for each photo without labels
 */
function csv(photos) {
  const rows = photos.flatMap(({ file, model, result, failure }) =>
    !result?.predictions.length
      ? [[file.name, model?.name, null, null, null, null, failure?.reason]]
      : result.predictions.map(({ label, score, index }, place) => [
          file.name,
          model?.name,
          place + 1,
          label,
          score,
          index,
          null,
        ]),
  );
  const header = ["name", "model", "rank", "label", "score", "index", "error"];
  return [header, ...rows].map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

/** @type {Record<string, {type: string, write: (photos: Photo[]) => string}>} */
export const FORMATS = {
  json: { type: "application/json", write: json },
  csv: { type: "text/csv", write: csv },
};
