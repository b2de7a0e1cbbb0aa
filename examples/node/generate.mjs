// Labels of a photo by Triton itself, without jpeg-web: node generate.mjs http://localhost:8000 photo.jpg
import { readFile } from "node:fs/promises";
import { post } from "./post.mjs";

const [url, file] = process.argv.slice(2);
if (!url || !file) {
  console.error("usage: node generate.mjs URL FILE");
  process.exit(2);
}

try {
  const { status, answer } = await post(`${url}/v2/models/jpeg_classifier/generate`, {
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ IMAGE: await readFile(file, "base64"), k: 3 }),
  });
  if (status !== 200) throw new Error(`HTTP ${status}: ${answer.error}`);
  // With k=1, Triton writes a value in place of a list of one.
  const [labels, scores, indices] = [answer.LABEL, answer.SCORE, answer.INDEX].map((each) => [each].flat());
  // The index is -1 where the label's score is below the threshold.
  const found = labels.map((label, place) => `${label} ${scores[place].toFixed(3)}`).filter((_, at) => indices[at] >= 0);
  console.log(found.join(", ") || "no label");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
