/**
 * The keys of outbox-relay in a JSON document, and AES-256-GCM, with nothing but Node.js.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from "node:crypto";

export const NONCE = 12;
export const TAG = 16;

/** A body that cannot be read; `code` is the reason code that outbox-relay gives it too. */
export class UnreadableBody extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

/** The keys of the JSON document that MQ_ENCRYPTION_KEYS names. */
export class Keys {
  #keys = new Map();
  #digestKey;

  constructor(document) {
    const { digest_key, keys } = JSON.parse(document);
    this.#digestKey = Buffer.from(digest_key, "base64");
    for (const { id, key, active_from } of keys) {
      this.#keys.set(id, { key: Buffer.from(key, "base64"), from: Date.parse(active_from) });
    }
  }

  /** What stands for `value` outside the body: 64 hexadecimal digits. */
  digest(domain, value) {
    return createHmac("sha256", this.#digestKey).update(`${domain}\0${value}`).digest("hex");
  }

  /** `dataKey`, encrypted with the key whose time has come last, and the id of that key. */
  wrap(dataKey) {
    const active = [...this.#keys].filter(([, { from }]) => from <= Date.now());
    const latest = ([a, { from }], [b, other]) => from - other.from || (a < b ? -1 : 1);
    const [id, { key }] = active.sort(latest).at(-1) ?? fail("no key is active yet");
    const nonce = randomBytes(NONCE);
    return { id, wrapped: Buffer.concat([nonce, seal(key, nonce, dataKey, boundKey(id))]) };
  }

  unwrap(id, wrapped) {
    const { key } = this.#keys.get(id) ?? unreadable("key_unknown");
    if (wrapped.length !== NONCE + 32 + TAG) unreadable("body_not_authentic");
    return open(key, wrapped.subarray(0, NONCE), wrapped.subarray(NONCE), boundKey(id));
  }
}

/** `plain`, encrypted with AES-256-GCM, and its tag. */
export function seal(key, nonce, plain, bound) {
  const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG });
  cipher.setAAD(bound);
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

/** Throws UnreadableBody if `sealed`, or what it is bound to, is not what was encrypted. */
export function open(key, nonce, sealed, bound) {
  const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG });
  decipher.setAAD(bound);
  decipher.setAuthTag(sealed.subarray(-TAG));
  try {
    return Buffer.concat([decipher.update(sealed.subarray(0, -TAG)), decipher.final()]);
  } catch {
    return unreadable("body_not_authentic");
  }
}

function boundKey(id) {
  return Buffer.from(`outbox-relay data key\0${id}`);
}

export function unreadable(code) {
  throw new UnreadableBody(code);
}

export function fail(problem) {
  throw new Error(problem);
}
