// As agent alice against the shipped accounts: her own answer comes, live and
// stored; bob's cannot be read. What came of it is printed as one JSON object.
import { Client } from "./fetchworker.mjs";

const client = await Client.connect("alice", { servers: process.env.NATS_URL, user: "alice", pass: process.env.NATS_ALICE_PASSWORD });
const mine = await client.fetch({ provider: "fred", operation: "series", params: { series_id: "GDP" }, id: "node-1" });
const again = await client.stored("FETCH_RESULTS", "fetch.result.fred.series.alice.node-1");
const seen = [];
client.nc.subscribe("fetch.>", { callback: (err, m) => { if (!err && m.subject.includes(".bob")) seen.push(m.subject); } });
const bobs = await client.stored("FETCH_RESULTS", process.argv[2]);
const cancelled = await client.cancel("fred", { operation: "series", ids: ["node-1"] });
console.log(JSON.stringify({ status: mine.status, stored: again !== null, bobs: bobs !== null, seen, cancelled }));
await client.close();
process.exit(0);
