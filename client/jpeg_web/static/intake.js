/** Files from drops, the clipboard and pickers. */

const IMAGE_NAME = /\.(jpe?g|png|webp|gif|avif|heic|heif|bmp|tiff?)$/i;

/** @param {File} file of a folder, in which not all is a photo */
export function isPhoto(file) {
  return !file.name.startsWith(".") && (file.type.startsWith("image/") || IMAGE_NAME.test(file.name));
}

/**
 * List dropped files, and the photos in dropped folders.
 *
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
async function droppedFiles(transfer) {
  // The browser empties the transfer after the event: take everything out of it before the first await.
  const found = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => {
      const entry = item.webkitGetAsEntry();
      return entry?.isDirectory ? photosIn(/** @type {FileSystemDirectoryEntry} */ (entry)) : item.getAsFile();
    });
  return (await Promise.all(found)).flat().filter((file) => file !== null);
}

/**
 * @param {FileSystemDirectoryEntry} folder
 * @returns {Promise<File[]>} with those in folders below
 */
async function photosIn(folder) {
  const reader = folder.createReader();
  const files = [];
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // some at a time
    if (!entries.length) return files.flat().filter(isPhoto);
    files.push(...(await Promise.all(entries.map(filesOf))));
  }
}

/**
 * @param {FileSystemEntry} entry
 * @returns {Promise<File[]>}
 */
async function filesOf(entry) {
  if (entry.isDirectory) return photosIn(/** @type {FileSystemDirectoryEntry} */ (entry));
  const fileEntry = /** @type {FileSystemFileEntry} */ (entry);
  return [await new Promise((resolve, reject) => fileEntry.file(resolve, reject))];
}

/**
 * Call `take` with the files of every drop and paste, wherever on the page.
 *
 * @param {HTMLElement} target shown while files are over the page
 * @param {(files: File[]) => void} take
 */
export function listen(target, take) {
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    target.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) target.hidden = true; // the pointer left the window
  });
  document.addEventListener("drop", async (event) => {
    target.hidden = true;
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    take(await droppedFiles(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });
}
