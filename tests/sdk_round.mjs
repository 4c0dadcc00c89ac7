// One round with the official client for node; prints its steps as JSON, one a line.
//
//     node sdk_round.mjs MODULES BASE_URL FULL_URL CLIP LARGE
//
// MODULES is the directory in which npm installed `openai`. The steps are those of `sdk_round.py`, which must see the
// same.

import { createReadStream, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { Readable } from "node:stream";

const [modules, baseURL, fullURL, clip, large] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "here.js"));
const { OpenAI, APIError, toFile } = require("openai");

const MODEL = "mediagate-inspector";
const PART_BYTES = 4000;
const NOBODYS = "file-" + "0".repeat(32);

const client = new OpenAI({ baseURL, apiKey: "none", timeout: 60_000 });
const full = new OpenAI({ baseURL: fullURL, apiKey: "none", timeout: 60_000 });
const data = readFileSync(clip);

function step(name, seen) {
  console.log(JSON.stringify([name, seen]));
}

async function all(page) {
  const items = [];
  for await (const item of page) items.push(item);
  return items;
}

async function uploadInParts() {
  const about = { mime_type: "video/mp4", purpose: "user_data" };
  const upload = await client.uploads.create({ bytes: data.length, filename: "parts.mp4", ...about });
  const pieces = [];
  for (let at = 0; at < data.length; at += PART_BYTES) pieces.push(data.subarray(at, at + PART_BYTES));
  const sent = [];
  for (const piece of pieces.toReversed()) {
    const part = await client.uploads.parts.create(upload.id, { data: await toFile(piece, "part") });
    sent.push(part.id);
  }
  const done = await client.uploads.complete(upload.id, { part_ids: sent.toReversed() });
  const other = await client.uploads.create({ bytes: 5, filename: "never.mp4", ...about });
  const cancelled = await client.uploads.cancel(other.id);
  return [upload.status, done.status, cancelled.status, done.file?.bytes === data.length, pieces.length > 1];
}

// Whether the inspector saw this very clip.
function facts(answer) {
  return ["128 x 96", "h264", "File 1 of 1"].map((fact) => answer.includes(fact));
}

// What a caller learns of an error; the name of its class alone differs between the clients.
async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return [error.status, error.type, error.param, error.code, error.constructor.name];
  }
  return "no error";
}

step("client", require("openai/version").VERSION);

const byPath = await client.files.create({ file: createReadStream(clip), purpose: "user_data" });
step("upload a path", [byPath.object, byPath.filename, byPath.bytes === data.length]);
const byBytes = await client.files.create({ file: await toFile(data, "named.mp4"), purpose: "vision" });
step("upload bytes", [byBytes.filename, byBytes.purpose]);
const stream = await toFile(Readable.from([data.subarray(0, 9), data.subarray(9)]), "stream.mp4");
const byStream = await client.files.create({ file: stream, purpose: "user_data" });
step("upload a stream", [byStream.filename, byStream.bytes === data.length]);
step("upload in parts", await uploadInParts());

const listed = (await all(client.files.list({ limit: 2 }))).map((file) => file.id);
step("list by pages of two", [
  listed.length,
  [byPath, byBytes, byStream].every((file) => listed.includes(file.id)),
]);
const ofOnePurpose = await all(client.files.list({ purpose: "vision" }));
step("list one purpose", ofOnePurpose.map((file) => file.id === byBytes.id));
step("retrieve", (await client.files.retrieve(byPath.id)).filename);
step("wait for processing", (await client.files.waitForProcessing(byPath.id)).status);
const contents = [];
for (const id of listed) contents.push(Buffer.from(await (await client.files.content(id)).arrayBuffer()));
step("content", contents.every((content) => content.equals(data)));
const partOfIt = await client.files.content(byPath.id, { headers: { Range: "bytes=4-7" } });
step("range", await partOfIt.text());

const parts = {
  "file part": { type: "file", file: { file_id: byPath.id } },
  video_url: { type: "video_url", video_url: { url: byPath.id } },
  "vllm-file://": { type: "video_url", video_url: { url: `vllm-file://${byPath.id}` } },
};
for (const [name, part] of Object.entries(parts)) {
  const asked = { model: MODEL, messages: [{ role: "user", content: [part] }] };
  const whole = await client.chat.completions.create(asked);
  step(`chat by ${name}`, facts(whole.choices[0].message.content));
  let told = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    told += chunk.choices[0]?.delta.content ?? "";
  }
  step(`streamed chat by ${name}`, told === whole.choices[0].message.content);
}

const stale = [{ role: "user", content: [{ type: "file", file: { file_id: NOBODYS } }] }];
const attempts = {
  "stale id in a chat": () => client.chat.completions.create({ model: MODEL, messages: stale }),
  "purpose unknown": () => client.files.create({ file: createReadStream(clip), purpose: "batch" }),
  "no media": async () =>
    client.files.create({ file: await toFile(Buffer.from("MZ".repeat(99)), "clip.mp4"), purpose: "vision" }),
  "page after nothing": () => client.files.list({ after: NOBODYS }),
  "too large": () => client.files.create({ file: createReadStream(large), purpose: "vision" }),
  "no room": () => full.files.create({ file: createReadStream(large), purpose: "vision" }),
};
for (const [name, attempt] of Object.entries(attempts)) step(name, await failure(attempt));

const deleted = [];
for (const id of listed) deleted.push((await client.files.delete(id)).deleted);
step("delete", deleted);
step("gone", await failure(() => client.files.retrieve(byPath.id)));
step("gone twice", await failure(() => client.files.delete(byPath.id)));
step("list nothing", await all(client.files.list({ limit: 2 })));
