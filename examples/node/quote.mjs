// node quote.mjs AAPL: one quote, as agent alice.
import { Client } from "./fetchworker.mjs";

const client = await Client.connect(process.env.FETCH_AGENT ?? "alice", { servers: process.env.NATS_URL ?? "127.0.0.1:4222" });
const answer = await client.fetch({ provider: "fmp", operation: "quote", params: { symbol: process.argv[2] ?? "AAPL" }, max_stale: "1h" });
console.log(answer.status, answer.problem?.detail ?? answer.body);
await client.close();
