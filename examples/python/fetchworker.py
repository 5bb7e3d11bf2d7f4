"""An agent's client of fetchworker with nats-py, after docs/protocol.md.

    client = await Client.connect("alice", "nats://127.0.0.1:4222")
    answer = await client.fetch("fmp", "quote", {"symbol": "AAPL"})

Needs nats-py 2.9 or newer and Python 3.11.
"""

import asyncio
import hashlib
import json
import re
import secrets
import time

from nats.aio.client import Client as NATS
from nats.errors import NoRespondersError, TimeoutError as NATSTimeout

PART_SIZE = 512 * 1024
LOOKS = (0.05, 0.15, 0.6)  # seconds before the first looks at what is stored


class FetchError(Exception):
    """Why there is no answer: code is queue_full, refused, id_reused,
    body_corrupt or pending; last is the newest answer seen."""

    def __init__(self, code, message, last=None):
        super().__init__(message)
        self.code, self.last = code, last


def canonical(value):
    """The form of parameters that a digest is made of."""
    if isinstance(value, dict):
        return {k: canonical(value[k]) for k in sorted(value) if value[k] is not None}
    if isinstance(value, list):
        return [canonical(v) for v in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str) else json.dumps(value)


def digest(operation, params):
    text = json.dumps(canonical(params), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{operation}\n{text}".encode()).hexdigest()[:16]


class Client:
    def __init__(self, nc, agent):
        self.nc, self.agent, self.waiting = nc, agent, {}

    @classmethod
    async def connect(cls, agent, servers, **options):
        nc = NATS()
        await nc.connect(servers, max_reconnect_attempts=-1, **options)
        client = cls(nc, agent)
        # One subscription, whatever is outstanding.
        await nc.subscribe(f"fetch.result.*.*.{agent}.*", cb=client._seen)
        await nc.flush()
        return client

    async def close(self):
        await self.nc.drain()

    async def _seen(self, m):
        if queue := self.waiting.get(m.subject):
            queue.put_nowait(m)

    async def fetch(self, provider, operation, params=None, *, id=None, lane="interactive", timeout=60, **more):
        """Asks, and returns the final answer: a dict of status, headers, body,
        and problem where it failed. A failed answer is an answer."""
        params, id = params or {}, id or secrets.token_hex(16)
        identity = f"{provider}.{operation}.{self.agent}.{id}"
        subject, end = f"fetch.result.{identity}", time.monotonic() + timeout
        queue = self.waiting[subject] = asyncio.Queue()
        try:
            await self._publish(f"fetch.request.{provider}.{lane}.{operation}.{self.agent}", identity, {"id": id, "params": params, **more}, end)
            last, newest, look = None, 0, 0
            while True:
                wait = LOOKS[look] if look < len(LOOKS) else min(2.0 ** (look - len(LOOKS)), 10)
                try:
                    m = await asyncio.wait_for(queue.get(), max(0, min(wait, end - time.monotonic())))
                except asyncio.TimeoutError:  # nothing was seen live: what is stored?
                    if time.monotonic() >= end:
                        raise FetchError("pending", f"{identity}: no final answer yet", last) from None
                    look += 1
                    if (m := await self._stored("FETCH_RESULTS", subject)) is None:
                        continue
                sequence = int(m.headers.get("Nats-Sequence", 0))
                if sequence <= newest:
                    continue
                newest = sequence
                answer = await self._answer(m, digest(operation, params), end)
                if answer["final"]:
                    return answer
                last = answer  # waiting, or stale to make do with
        finally:
            del self.waiting[subject]

    async def _publish(self, subject, identity, body, end):
        wait = 0.1
        while True:  # until there is a receipt
            try:
                m = await self.nc.request(subject, json.dumps(body).encode(), timeout=2.5, headers={"Nats-Msg-Id": identity})
                receipt = json.loads(m.data)
                error = receipt.get("error")
                if not error:
                    return receipt
                if error.get("err_code") in (10077, 10047):
                    raise FetchError("queue_full", error.get("description", ""))
                # 10158: it came before, and is about to be stored.
                if error.get("code", 500) < 500 and error.get("err_code") != 10158:
                    raise FetchError("refused", error.get("description", ""))
            except (NATSTimeout, NoRespondersError) as err:  # no receipt says nothing
                if time.monotonic() + wait > end:
                    raise FetchError("pending", f"{identity}: no receipt") from err
            await asyncio.sleep(wait)
            wait = min(2 * wait, 2)

    async def _stored(self, stream, subject):
        try:
            m = await self.nc.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=5)
        except (NATSTimeout, NoRespondersError):
            return None  # looked for again
        return m if (m.headers or {}).get("Nats-Subject") == subject else None

    async def _answer(self, m, want, end):
        h = m.headers
        answer = {"status": h.get("Fetch-Status"), "final": h.get("Fetch-Final") == "true", "headers": h, "body": m.data.decode()}
        if answer["final"] and h.get("Fetch-Request-Digest", want) != want:
            raise FetchError("id_reused", "the id was used before for another request")
        if "Fetch-Body-Prefix" in h:
            answer["body"] = await self._large(h, end)
        elif "Fetch-Sha256" in h and hashlib.sha256(m.data).hexdigest() != h["Fetch-Sha256"]:
            raise FetchError("body_corrupt", "the body is not what its sum says")
        if answer["status"] in ("failed", "waiting"):
            answer["problem"] = json.loads(answer["body"])
        return answer

    async def _large(self, h, end):
        prefix, parts, size = h["Fetch-Body-Prefix"], int(h["Fetch-Body-Parts"]), int(h["Fetch-Body-Bytes"])
        if not prefix.startswith(f"fetch.body.{self.agent}.") or re.search(r"[*>\s]", prefix) or not (1 <= parts <= 4096 and 1 <= size <= parts * PART_SIZE):
            raise FetchError("body_corrupt", "the claim makes no sense")
        body = b""
        for part in range(1, parts + 1):
            for _ in range(10):
                if m := await self._stored("FETCH_BODIES", f"{prefix}.{part}"):
                    break
                await asyncio.sleep(0.1)
            else:
                raise FetchError("body_corrupt", f"part {part} is missing")
            body += m.data
        if len(body) != size or hashlib.sha256(body).hexdigest() != h["Fetch-Sha256"]:
            raise FetchError("body_corrupt", "the parts are not what was claimed")
        return body.decode()
