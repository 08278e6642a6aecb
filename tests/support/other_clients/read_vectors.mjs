// Reads the test vectors of encrypted bodies with examples/node, and prints what it has read.
//
//   node read_vectors.mjs MODULE VECTORS
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [, , module, file] = process.argv;
const { Keys, UnreadableBody, decrypt } = await import(pathToFileURL(module));
const vectors = JSON.parse(readFileSync(file, "utf8"));
const keys = new Keys(JSON.stringify(vectors.keys));
const subjects = new Map(
  Object.entries(vectors.subject_keys).map(([id, key]) => [id, Buffer.from(key, "hex")]),
);

function read({ event, encrypted }) {
  try {
    const found = decrypt(keys, { ...event, body: Buffer.from(encrypted, "hex") }, subjects);
    return { ...found, body: found.body.toString("hex") };
  } catch (error) {
    return error instanceof UnreadableBody ? error.code : error.message;
  }
}

console.log(
  JSON.stringify({
    bodies: vectors.bodies.map(read),
    refused: vectors.refused.map(read),
    digests: vectors.digests.map(({ domain, value }) => keys.digest(domain, value)),
  }),
);
