// Labels of a photo by Triton itself, without jpeg-web: node generate.mjs http://localhost:8000 photo.jpg
import { readFile } from "node:fs/promises";

const [url, file] = process.argv.slice(2);
if (!url || !file) {
  console.error("usage: node generate.mjs URL FILE");
  process.exit(2);
}

const response = await fetch(`${url}/v2/models/jpeg_classifier/generate`, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ IMAGE: await readFile(file, "base64"), k: 3 }),
  signal: AbortSignal.timeout(30_000),
});
const answer = await response.json();
if (!response.ok) {
  console.error(`HTTP ${response.status}: ${answer.error}`);
  process.exit(1);
}
// With k=1, Triton writes a value in place of a list of one.
const [labels, scores] = [answer.LABEL, answer.SCORE].map((each) => [each].flat());
console.log(labels.map((label, place) => `${label} ${scores[place].toFixed(3)}`).join(", "));
