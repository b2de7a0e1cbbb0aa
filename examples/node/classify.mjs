// Labels of photos by jpeg-web, with Node 18 or later: node classify.mjs http://localhost:8080 photo.jpg ...
import { readFile } from "node:fs/promises";
import { basename } from "node:path";

const [url, ...files] = process.argv.slice(2);
if (!url || files.length === 0) {
  console.error("usage: node classify.mjs URL FILE...");
  process.exit(2);
}

const form = new FormData();
for (const file of files) {
  form.append("image", new Blob([await readFile(file)]), basename(file));
}
const headers = {};
if (process.env.JPEG_API_KEY) headers.Authorization = `Bearer ${process.env.JPEG_API_KEY}`;
const response = await fetch(`${url}/classify?k=3`, {
  method: "POST",
  body: form,
  headers,
  signal: AbortSignal.timeout(30_000),
});
const answer = await response.json();
if (!answer.results) {
  // The request as a whole: 429 and 503 have Retry-After.
  console.error(`HTTP ${response.status}: ${answer.error.message} [${answer.error.reason}]`);
  process.exit(1);
}
for (const { name, predictions, error } of answer.results) {
  // Each image succeeds or fails alone.
  const labels = predictions.map(({ label, score }) => `${label} ${score.toFixed(3)}`);
  console.log(`${name}: ${error ? `${error.message} [${error.reason}]` : labels.join(", ")}`);
}
process.exit(answer.results.some(({ error }) => error) ? 1 : 0);
