// An agent's client of fetchworker, after docs/protocol.md: publish a request,
// get its one final answer. Nothing but NATS.
import { createHash, randomBytes } from "node:crypto";
import { headers, nuid } from "@nats-io/nats-core";
import { connect } from "@nats-io/transport-node";

const partSize = 512 * 1024;
const looks = [50, 150, 600]; // ms before the first looks at what is stored

// FetchError says why there is no answer: code is queue_full, refused,
// id_reused, body_corrupt or pending.
export class FetchError extends Error {
  constructor(code, message, last) {
    super(message);
    this.code = code;
    this.last = last;
  }
}

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// canonical is the form of parameters that a digest is made of: sorted names,
// no null, numbers and booleans as texts.
function canonical(value) {
  if (Array.isArray(value)) return value.map(canonical);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.keys(value).sort()
      .filter((name) => value[name] !== null).map((name) => [name, canonical(value[name])]));
  }
  return value === null ? null : String(value);
}

export const digest = (operation, params = {}) =>
  sha256(operation + "\n" + JSON.stringify(canonical(params))).slice(0, 16);

export class Client {
  // options are those of @nats-io/transport-node: servers, user, pass, …
  static async connect(agent, options) {
    return new Client(await connect({ maxReconnectAttempts: -1, ...options }), agent);
  }

  constructor(nc, agent) {
    this.nc = nc;
    this.agent = agent;
    this.waiting = new Map(); // by result subject
    // One subscription, whatever is outstanding.
    nc.subscribe(`fetch.result.*.*.${agent}.*`, {
      callback: (err, m) => { if (!err) this.waiting.get(m.subject)?.(m); },
    });
    (async () => { // after a reconnect a live answer may be lost
      for await (const s of nc.status()) if (s.type === "reconnect") for (const see of this.waiting.values()) see(null);
    })();
  }

  close() { return this.nc.drain(); }

  // fetch asks, and resolves with the final answer: { status, headers, body,
  // problem }. A failed answer is an answer.
  async fetch({ provider, operation, params = {}, id = randomBytes(16).toString("hex"), lane = "interactive", ...more }, { timeout = 60_000 } = {}) {
    const end = Date.now() + timeout;
    const identity = `${provider}.${operation}.${this.agent}.${id}`;
    const subject = `fetch.result.${identity}`;
    const arrived = [];
    let wake = () => {};
    this.waiting.set(subject, (m) => { arrived.push(m); wake(); });
    try {
      await this.publish(`fetch.request.${provider}.${lane}.${operation}.${this.agent}`, identity, { id, params, ...more }, end);
      let last, newest = 0, look = 0;
      for (;;) {
        const wait = looks[look] ?? Math.min(1000 * 2 ** (look - looks.length), 10_000);
        if (arrived.length === 0) {
          const timer = new Promise((resolve) => { wake = resolve; setTimeout(resolve, Math.min(wait, end - Date.now())); });
          await timer;
        }
        let m = arrived.shift();
        if (!m) { // nothing was seen live: what is stored?
          if (Date.now() >= end) throw new FetchError("pending", `${identity}: no final answer yet`, last);
          look++;
          m = await this.stored("FETCH_RESULTS", subject);
          if (!m) continue;
        }
        const sequence = Number(m.headers?.last("Nats-Sequence") ?? 0);
        if (sequence <= newest) continue;
        newest = sequence;
        const answer = await this.answer(m, digest(operation, params), end);
        if (answer.final) return answer;
        last = answer; // waiting, or stale to make do with
      }
    } finally {
      this.waiting.delete(subject);
    }
  }

  // publish publishes until there is a receipt.
  async publish(subject, identity, body, end) {
    const h = headers();
    h.set("Nats-Msg-Id", identity);
    for (let wait = 100; ; wait = Math.min(2 * wait, 2000)) {
      let receipt;
      try {
        receipt = (await this.nc.request(subject, JSON.stringify(body), { headers: h, timeout: 2500 })).json();
      } catch (err) { // no receipt says nothing
        if (Date.now() + wait > end) throw new FetchError("pending", `${identity}: no receipt: ${err.message}`);
      }
      if (receipt && !receipt.error) return receipt;
      if ([10077, 10047].includes(receipt?.error?.err_code)) throw new FetchError("queue_full", receipt.error.description);
      // 10158: it came before, and is about to be stored.
      if (receipt?.error?.code < 500 && receipt.error.err_code !== 10158) throw new FetchError("refused", receipt.error.description);
      await sleep(wait);
    }
  }

  // stored is the last message of a subject, by a direct get.
  async stored(stream, subject) {
    try {
      const m = await this.nc.request(`$JS.API.DIRECT.GET.${stream}.${subject}`, "", { timeout: 5000 });
      return m.headers?.last("Nats-Subject") === subject ? m : null;
    } catch {
      return null; // looked for again
    }
  }

  async answer(m, want, end) {
    const get = (name) => m.headers.get(name);
    const answer = { status: get("Fetch-Status"), final: get("Fetch-Final") === "true", headers: m.headers, body: m.string() };
    if (answer.final && get("Fetch-Request-Digest") && get("Fetch-Request-Digest") !== want) {
      throw new FetchError("id_reused", "the id was used before for another request");
    }
    if (get("Fetch-Body-Prefix")) {
      answer.body = await this.large(get, end);
    } else if (get("Fetch-Sha256") && sha256(m.data) !== get("Fetch-Sha256")) {
      throw new FetchError("body_corrupt", "the body is not what its sum says");
    }
    if (answer.status === "failed" || answer.status === "waiting") answer.problem = JSON.parse(answer.body);
    return answer;
  }

  // large reads a body in its parts.
  async large(get, end) {
    const prefix = get("Fetch-Body-Prefix"), parts = Number(get("Fetch-Body-Parts")), bytes = Number(get("Fetch-Body-Bytes"));
    if (!prefix.startsWith(`fetch.body.${this.agent}.`) || /[*>\s]/.test(prefix) || !(parts >= 1 && parts <= 4096 && bytes >= 1 && bytes <= parts * partSize)) {
      throw new FetchError("body_corrupt", "the claim makes no sense");
    }
    const all = [];
    for (let part = 1; part <= parts; part++) {
      let m;
      for (let tries = 0; !(m = await this.stored("FETCH_BODIES", `${prefix}.${part}`)); tries++) {
        if (tries >= 10 || Date.now() >= end) throw new FetchError("body_corrupt", `part ${part} is missing`);
        await sleep(100);
      }
      all.push(m.data);
    }
    const body = Buffer.concat(all);
    if (body.length !== bytes || sha256(body) !== get("Fetch-Sha256")) throw new FetchError("body_corrupt", "the parts are not what was claimed");
    return body.toString();
  }

  // cancel cancels requests of an operation by their ids, or with { all: true }
  // everything of the provider. From the reply on no call begins for them.
  async cancel(provider, order) {
    const m = await this.nc.request(`fetch.cancel.${provider}.${this.agent}`, JSON.stringify(order), { timeout: 12_000 });
    const code = m.headers?.get("Nats-Service-Error-Code");
    if (code) throw new FetchError("refused", m.headers.get("Nats-Service-Error"));
    return m.json();
  }
}

export const newId = () => nuid.next();
