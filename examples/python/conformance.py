"""Runs one case of testdata/conformance, which is its argument."""

import asyncio
import json
import os
import sys

from fetchworker import Client, FetchError


async def main():
    case = json.loads(sys.argv[1])
    client = await Client.connect(case["agent"], os.environ["NATS_URL"])
    ask = case["ask"]
    try:
        a = await client.fetch(ask["provider"], ask["operation"], ask["params"], id=ask["id"], timeout=25)
        if problem := a.get("problem"):
            got = {"status": a["status"], "code": problem["type"].removeprefix("urn:fetch:error:")}
        else:
            got = {"status": a["status"], "body": a["body"]}
    except FetchError as err:
        got = {"error": err.code}
    print(json.dumps(got))
    await client.close()


asyncio.run(main())
