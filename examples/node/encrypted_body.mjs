/**
 * Encrypted bodies of outbox-relay, version 1, with nothing but Node.js.
 * Copy this file and keys.mjs.
 *
 *   const keys = new Keys(await readFile("/run/keys.json", "utf8"));
 *   const row = new Encryptor(keys).row({ type: "ward.left", body: JSON.stringify(payload) });
 *   const { body } = decrypt(keys, message);
 *
 * docs/reference/encrypted-body.md is the standard, and tests/vectors/encrypted-body.json has test
 * vectors. Compression by zstd needs Node.js 22.15.
 */
import { randomBytes, randomUUID } from "node:crypto";
import zlib from "node:zlib";

import { NONCE, TAG, fail, open, seal, unreadable } from "./keys.mjs";

export { Keys, UnreadableBody } from "./keys.mjs";

export const ENCODING = "outbox-aes256gcm";

const VERSION = 1;
const COMPRESSIONS = ["none", "gzip", "zstd"];
const [FIXED, NO_SUBJECT, NO_KEY_PART] = [18, Buffer.alloc(16), Buffer.alloc(3)];
const [MAX_BODY, MAX_PRIVATE, MAX_WRAPPED] = [1_048_576, 65_536, 8_192];
const MAX_CONTENT = 4 + MAX_PRIVATE + MAX_BODY;
const [MAX_EVENTS, MAX_MILLISECONDS] = [1_000_000, 300_000];
const PUBLIC = ["traceparent", "tracestate"];
const KEY_ID = /^[!-~]{1,255}$/;

/** Writes rows of the table `outbox`. One data key lasts for MAX_EVENTS events or five minutes. */
export class Encryptor {
  #keys;
  #dataKey;

  constructor(keys) {
    this.#keys = keys;
  }

  /**
   * The columns of an encrypted event. `body` is text or bytes; `subject` is the key of a person,
   * `{ id, key }`, or absent.
   */
  row({
    event_id = randomUUID(),
    type,
    routing_key = type,
    content_type = "application/json",
    idempotency_key = event_id,
    ordering_key = null,
    correlation_id = null,
    headers = {},
    body,
    compression = "none",
    subject = null,
  }) {
    const digest = (name, value) => (value === null ? null : this.#keys.digest(name, value));
    const row = {
      event_id,
      type,
      routing_key,
      content_type,
      idempotency_key:
        idempotency_key === event_id ? event_id : digest("idempotency_key", idempotency_key),
      ordering_key: digest("ordering_key", ordering_key),
      correlation_id: digest("correlation_id", correlation_id),
      headers: only(headers, (name) => PUBLIC.includes(name)),
      content_encoding: ENCODING,
    };
    const hidden = only(headers, (name) => !PUBLIC.includes(name));
    const content = compress(compression, packed(Buffer.from(body), correlation_id, hidden));
    const fixed = Buffer.concat([
      Buffer.from([VERSION, COMPRESSIONS.indexOf(compression)]),
      subject === null ? NO_SUBJECT : Buffer.from(subject.id.replaceAll("-", ""), "hex"),
    ]);
    const { key, part } = subject === null ? this.#current() : { ...subject, part: NO_KEY_PART };
    const nonce = randomBytes(NONCE);
    const sealed = seal(key, nonce, content, boundBody(fixed, row));
    row.body = Buffer.concat([fixed, part, nonce, sealed]);
    if (row.body.length > MAX_BODY) fail(`the body is larger than ${MAX_BODY} bytes`);
    return row;
  }

  #current() {
    const used = this.#dataKey;
    if (used === undefined || used.events >= MAX_EVENTS || Date.now() >= used.until) {
      const key = randomBytes(32);
      const { id, wrapped } = this.#keys.wrap(key);
      const size = Buffer.alloc(2);
      size.writeUInt16BE(wrapped.length);
      const part = Buffer.concat([Buffer.from([id.length]), Buffer.from(id), size, wrapped]);
      this.#dataKey = { key, part, events: 0, until: Date.now() + MAX_MILLISECONDS };
    }
    this.#dataKey.events += 1;
    return this.#dataKey;
  }
}

/**
 * The `body` of an encrypted message, its `correlation_id`, and the `headers` that its producer
 * gave it. `message` has event_id, type, routing_key, content_type, idempotency_key and body, as
 * docs/reference/encrypted-body.md takes them from a delivery. `subjectKeys` maps ids to keys.
 */
export function decrypt(keys, message, subjectKeys = new Map()) {
  const { fixed, subject, keyId, wrapped, nonce, sealed } = parse(message.body);
  const key =
    subject === null
      ? keys.unwrap(keyId, wrapped)
      : (subjectKeys.get(subject) ?? unreadable("key_unknown"));
  const content = open(key, nonce, sealed, boundBody(fixed, message));
  return unpacked(decompress(COMPRESSIONS[fixed[1]], content));
}

/** The names under which a delivery of amqplib has what `decrypt` takes. */
export function fromDelivery({ fields, properties, content }) {
  const { headers, messageId, contentType } = properties;
  const event_id = /^[0-9a-f-]{36}$/i.test(messageId) ? messageId.toLowerCase() : messageId;
  return {
    event_id,
    type: properties.type,
    routing_key: headers["x-outbox-routing-key"] ?? fields.routingKey,
    content_type: contentType ?? "application/octet-stream",
    idempotency_key: headers["x-outbox-idempotency-key"] || event_id,
    body: content,
  };
}

function parse(body) {
  if (body.length <= FIXED) unreadable("malformed");
  if (body[0] !== VERSION) unreadable("schema_unsupported");
  const wrappedAt = FIXED + 1 + body[FIXED] + 2;
  if (body[1] >= COMPRESSIONS.length || body.length < wrappedAt) unreadable("malformed");
  const nonceAt = wrappedAt + body.readUInt16BE(wrappedAt - 2);
  const sealedAt = nonceAt + NONCE;
  const keyId = body.toString("latin1", FIXED + 1, wrappedAt - 2);
  const id = body.subarray(2, FIXED);
  const subject = id.equals(NO_SUBJECT) ? null : uuid(id);
  const size = nonceAt - wrappedAt;
  const isWrapped = KEY_ID.test(keyId) && size > 0 && size <= MAX_WRAPPED;
  const isComplete = subject === null ? isWrapped : nonceAt === FIXED + NO_KEY_PART.length;
  if (!isComplete || body.length < sealedAt + TAG) unreadable("malformed");
  return {
    fixed: body.subarray(0, FIXED),
    subject,
    keyId,
    wrapped: body.subarray(wrappedAt, nonceAt),
    nonce: body.subarray(nonceAt, sealedAt),
    sealed: body.subarray(sealedAt),
  };
}

function packed(body, correlation_id, headers) {
  const fields = {
    ...(correlation_id === null ? {} : { correlation_id }),
    ...(Object.keys(headers).length === 0 ? {} : { headers }),
  };
  const text = Object.keys(fields).length === 0 ? "" : JSON.stringify(fields);
  const hidden = Buffer.from(text);
  if (hidden.length > MAX_PRIVATE) fail(`the headers are larger than ${MAX_PRIVATE} bytes`);
  return Buffer.concat([uint32(hidden.length), hidden, body]);
}

function unpacked(content) {
  const end = content.length < 4 ? Infinity : 4 + content.readUInt32BE(0);
  if (end > content.length || end > 4 + MAX_PRIVATE) unreadable("malformed");
  const fields = end === 4 ? {} : parsed(content.subarray(4, end));
  if (!isObject(fields)) unreadable("malformed");
  const { correlation_id = null, headers = {} } = fields;
  if (!isObject(headers) || !(correlation_id === null || typeof correlation_id === "string")) {
    unreadable("malformed");
  }
  const body = content.subarray(end);
  if (body.length > MAX_BODY) unreadable("malformed");
  return { body, correlation_id, headers };
}

function parsed(bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return unreadable("malformed");
  }
}

function compress(how, content) {
  if (how === "none") return content;
  return how === "gzip" ? zlib.gzipSync(content) : zlib.zstdCompressSync(content);
}

function decompress(how, content) {
  if (how === "none") return content;
  const read = how === "gzip" ? zlib.gunzipSync : zlib.zstdDecompressSync;
  if (read === undefined) fail("zstd needs Node.js 22.15");
  try {
    return read(content, { maxOutputLength: MAX_CONTENT });
  } catch (error) {
    return unreadable(error.code === "ERR_BUFFER_TOO_LARGE" ? "decompress_limit" : "malformed");
  }
}

function boundBody(fixed, { type, routing_key, content_type, event_id, idempotency_key }) {
  const fields = [type, routing_key, content_type, event_id, idempotency_key];
  const sized = fields.flatMap((text) => [uint32(Buffer.byteLength(text)), Buffer.from(text)]);
  return Buffer.concat([Buffer.from("outbox-relay body\0"), fixed, ...sized]);
}

function uint32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function uuid(bytes) {
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function only(headers, wanted) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => wanted(name)));
}
