/** Reason codes in plain language. */

/** @typedef {import("./api.js").Failure} Failure */

const SCALE_DOWN = "Let the page scale large photos down, and retry.";
const OPERATOR = "Retry. If it fails again, inform the operator of the server.";

/** @type {Record<string, [what: string, remedy: string]>} */
const REASONS = {
  empty: ["The file is empty.", "Copy it again from where it comes from."],
  not_jpeg: ["The server does not decode this format, and the browser cannot convert it.", "Export it as JPEG."],
  invalid_base64: ["The file holds the text of an image, and the text is damaged.", "Choose the JPEG itself."],
  truncated: ["The file breaks off before the end of the image.", "Copy or download it again."],
  corrupt: ["The image data is damaged.", "Copy it again, or export it anew from an image editor."],
  unsupported: ["This kind of image is not supported.", "Export it as an ordinary RGB JPEG."],
  too_many_bytes: ["The file is too large for this server.", SCALE_DOWN],
  too_many_pixels: ["The image has too many pixels.", SCALE_DOWN],
  too_many_scans: ["The JPEG consists of too many scans.", "Export it as a baseline JPEG."],
  too_much_work: ["Decoding this image takes too long.", SCALE_DOWN],
  too_much_memory: ["Decoding this image needs too much memory.", SCALE_DOWN],
  request_too_large: ["The file is too large for this server.", SCALE_DOWN],
  not_finite: ["The model gave no usable scores for this image.", "Try another model."],
  internal: ["The server failed at this image.", OPERATOR],
  worker_died: ["The server failed at this image.", OPERATOR],
  invalid_k: ["The model does not have that many labels.", "Choose fewer labels per photo, and retry."],
  invalid_threshold: ["The threshold is not a number from 0 to 1.", "Correct it, and retry."],
  unknown_model: ["The server does not serve this model.", "Choose another model, and retry."],
  server_timeout: ["The server did not answer in time.", "Retry when it is less busy."],
  unreachable: ["The server closed the connection, several times.", SCALE_DOWN],
  file_unreadable: ["The browser cannot read the file any more.", "It was moved or changed: choose it again."],
};

/**
 * Describe a failure.
 *
 * @param {Failure} failure
 * @returns {{what: string, remedy: string}}
 */
export function describe({ reason, message }) {
  const [what, remedy] = REASONS[reason] ?? [message, OPERATOR];
  return { what, remedy };
}
