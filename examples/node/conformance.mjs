// Runs one case of testdata/conformance, which is its argument.
// FETCH_CLIENT is the client it is run on, this folder's without it.
const { Client } = await import(process.env.FETCH_CLIENT ?? "./fetchworker.mjs");

const { agent, ask } = JSON.parse(process.argv[2]);
const client = await Client.connect(agent, { servers: process.env.NATS_URL });
let got;
try {
  const a = await client.fetch(ask, { timeout: 25_000 });
  got = a.problem ? { status: a.status, code: a.problem.type.replace("urn:fetch:error:", "") } : { status: a.status, body: a.body };
} catch (err) {
  got = { error: err.code ?? String(err) };
}
console.log(JSON.stringify(got));
await client.close();
process.exit(0);
