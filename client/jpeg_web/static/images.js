/** Images in the browser: what is sent, and thumbnails. */

export const LONGEST_SIDE = 1024;
const QUALITY = 0.92;
const THUMBNAIL_SIDE = 480;
const THUMBNAIL_QUALITY = 0.8;

/** @type {[format: string, start: RegExp][]} by the first bytes, as Latin-1 */
const SIGNATURES = [
  ["jpeg", /^\xff\xd8/],
  ["png", /^\x89PNG/],
  ["gif", /^GIF8/],
  ["webp", /^RIFF[^]{4}WEBP/],
  ["tiff", /^(II\*\0|MM\0\*)/],
  ["avif", /^[^]{4}ftyp(avif|avis)/],
  ["heic", /^[^]{4}ftyp(hei[cxms]|hev[cxms])/],
];

/**
 * Name the format of an image, as the server does; "" for any other.
 *
 * @param {Blob} file
 */
async function formatOf(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  return SIGNATURES.find(([, signature]) => signature.test(start))?.[0] ?? "";
}

/**
 * Decode an image, upright: with the orientation of its EXIF data applied.
 *
 * @param {Blob} file
 */
const decode = (file) => createImageBitmap(file, { imageOrientation: "from-image" });

/**
 * Draw an image on white and encode it as JPEG.
 *
 * @param {ImageBitmap} bitmap closed afterwards
 * @param {number} longestSide in pixels; smaller images keep their size
 * @param {number} quality in (0, 1]
 */
function encode(bitmap, longestSide, quality) {
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality });
}

/**
 * Make what is sent for a file: the file itself, unless it has to become a JPEG or to be scaled down.
 *
 * @param {File} file
 * @param {boolean} scaleDown to LONGEST_SIDE
 * @param {string[]} formats that the server decodes
 * @returns {Promise<{image: Blob, change: string}>} change: to the pixels, "" for none
 * @throws {DOMException} NotReadableError for a file that is gone or has changed
 */
export async function prepare(file, scaleDown, formats) {
  const original = { image: file, change: "" };
  const isDecoded = formats.includes(await formatOf(file));
  if (isDecoded && !scaleDown) return original;
  let bitmap;
  try {
    bitmap = await decode(file);
  } catch {
    return original; // the server finds the reason
  }
  if (isDecoded && Math.max(bitmap.width, bitmap.height) <= LONGEST_SIDE) {
    bitmap.close();
    return original;
  }
  const image = await encode(bitmap, scaleDown ? LONGEST_SIDE : Infinity, QUALITY);
  if (!isDecoded) return { image, change: "converted to JPEG" };
  return image.size < file.size ? { image, change: "scaled down" } : original;
}

/**
 * Thumbnails of the cards near the visible part of the page, a few at a time.
 */
export class Thumbnails {
  /** @type {Map<Element, File>} */
  #files = new Map();
  /** @type {Map<Element, string>} */
  #urls = new Map();
  /** @type {Element[]} */
  #wanted = [];
  #busy = false;
  #observer = new IntersectionObserver((entries) => this.#approach(entries), { rootMargin: "50% 0%" });

  /**
   * @param {Element} card with an <img>
   * @param {File} file
   */
  add(card, file) {
    this.#files.set(card, file);
    this.#observer.observe(card);
  }

  /** Forget all cards and free their images. */
  clear() {
    this.#observer.disconnect();
    this.#urls.forEach((url) => URL.revokeObjectURL(url));
    this.#urls.clear();
    this.#files.clear();
    this.#wanted = [];
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #approach(entries) {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
      this.#observer.unobserve(target);
      this.#wanted.push(target);
    }
    if (!this.#busy) void this.#work();
  }

  /** One at a time, since each holds a decoded photo. */
  async #work() {
    this.#busy = true;
    for (let card = this.#wanted.shift(); card; card = this.#wanted.shift()) {
      const file = /** @type {File} */ (this.#files.get(card));
      const thumbnail = await decode(file)
        .then((bitmap) => encode(bitmap, THUMBNAIL_SIDE, THUMBNAIL_QUALITY))
        .catch(() => null); // a broken image has none
      if (this.#files.has(card)) this.#show(card, thumbnail);
    }
    this.#busy = false;
  }

  /**
   * @param {Element} card
   * @param {Blob | null} thumbnail
   */
  #show(card, thumbnail) {
    const image = /** @type {HTMLImageElement} */ (card.querySelector(".thumbnail img"));
    const substitute = /** @type {HTMLElement} */ (card.querySelector(".thumbnail p"));
    image.hidden = thumbnail === null;
    substitute.hidden = thumbnail !== null;
    if (!thumbnail) return;
    image.src = URL.createObjectURL(thumbnail);
    this.#urls.set(card, image.src);
  }
}
