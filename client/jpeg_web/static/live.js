/** Throughput and latency of the server over the last minute. */

import { short } from "./format.js";

const SAMPLES = 60;
const [WIDTH, HEIGHT, MARGIN] = [120, 28, 2]; // of the drawing's viewBox

/** One value over time. */
class Curve {
  /** @type {(number | null)[]} */
  #values = [];

  /**
   * @param {string} id of the drawing is ID-curve, of the number ID
   * @param {string} name
   * @param {string} unit
   */
  constructor(id, name, unit) {
    this.drawing = /** @type {Element} */ (document.getElementById(`${id}-curve`));
    this.number = /** @type {Element} */ (document.getElementById(id));
    this.name = name;
    this.unit = unit;
    this.path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    this.drawing.append(this.path);
  }

  /** @param {number | null} value null leaves a gap */
  add(value) {
    this.#values = [...this.#values, value].slice(-SAMPLES);
    const highest = Math.max(0, ...this.#values.filter((each) => each !== null));
    const offset = SAMPLES - this.#values.length;
    const points = this.#values.map((each, place) => {
      if (each === null) return "";
      const x = ((offset + place) * WIDTH) / (SAMPLES - 1);
      const y = HEIGHT - MARGIN - (each / (highest || 1)) * (HEIGHT - 2 * MARGIN);
      return `${this.#values[place - 1] == null ? "M" : "L"}${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const now = value === null ? "–" : short(value);
    this.path.setAttribute("d", points.join(""));
    this.number.textContent = now;
    this.drawing.setAttribute(
      "aria-label",
      `${this.name} of the last minute: now ${now}, at most ${short(highest)} ${this.unit}`,
    );
  }
}

/** The strip in the header; hidden while the server has no metrics. */
export class LiveStrip {
  #section = /** @type {HTMLElement} */ (document.getElementById("live"));
  #throughput = new Curve("throughput", "Throughput", "images per second");
  #latency = new Curve("latency", "Latency", "milliseconds");

  /** @param {import("./api.js").Stats} stats */
  show({ images_per_s: throughput, latency_ms: latency }) {
    this.#section.hidden = throughput === null;
    this.#throughput.add(throughput);
    this.#latency.add(latency);
  }
}
