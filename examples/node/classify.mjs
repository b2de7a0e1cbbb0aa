// Labels of photos by jpeg-web, with Node 18 or later: node classify.mjs http://localhost:8080 photo.jpg ...
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { post } from "./post.mjs";

const [url, ...files] = process.argv.slice(2);
if (!url || files.length === 0) {
  console.error("usage: node classify.mjs URL FILE...");
  process.exit(2);
}

try {
  const form = new FormData();
  for (const file of files) {
    form.append("image", new Blob([await readFile(file)]), basename(file));
  }
  const headers = {};
  if (process.env.JPEG_API_KEY) headers.Authorization = `Bearer ${process.env.JPEG_API_KEY}`;
  const { status, answer } = await post(`${url}/classify?k=3`, { body: form, headers });
  if (!answer.results) {
    // The request as a whole failed.
    throw new Error(`HTTP ${status}: ${answer.error.message} [${answer.error.reason}]`);
  }
  for (const { name, predictions, error } of answer.results) {
    // Each image succeeds or fails alone.
    const labels = predictions.map(({ label, score }) => `${label} ${score.toFixed(3)}`);
    console.log(`${name}: ${error ? `${error.message} [${error.reason}]` : labels.join(", ") || "no label"}`);
    if (error) process.exitCode = 1;
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
