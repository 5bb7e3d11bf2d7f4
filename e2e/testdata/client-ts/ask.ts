// A program over the types that openapi-typescript writes from a gateway's
// openapi.json, with openapi-fetch.
import createClient from "openapi-fetch"
import type { paths } from "./api.js"

const client = createClient<paths>({ baseUrl: process.argv[2], headers: { "Fetch-Agent": "alice" } })

const got = await client.GET("/v1/fmp/quote", { params: { query: { symbol: "AAPL" }, header: { Prefer: "wait=20" } } })
console.log("get", got.response.status, got.response.headers.get("Fetch-Source"))
if (got.error) throw new Error(got.error.title)

const asked = await client.POST("/v1/fmp/quote", {
  params: { header: { "Idempotency-Key": "from-ts", Prefer: "wait=20" } },
  body: { params: { symbol: "MSFT" }, max_age: "0s" },
})
console.log("ask", asked.response.status, asked.response.headers.get("Fetch-Request-Id"))
if (asked.error) throw new Error(asked.error.title)

const again = await client.GET("/v1/requests/{provider}/{operation}/{id}", { params: { path: { provider: "fmp", operation: "quote", id: "from-ts" } } })
console.log("answer", again.response.status)

// What is missing is a mistake that the compiler finds.
// @ts-expect-error: a quote needs a symbol
await client.GET("/v1/fmp/quote", { params: { query: {} } })

const wrong = await client.POST("/v1/fmp/quote", { body: { params: { symbol: "" } } })
console.log("mistake", wrong.response.status, wrong.error?.type)
if (!wrong.error || again.response.status !== 200) throw new Error("an answer that is none")
