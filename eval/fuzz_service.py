"""Thousands of hostile HTTP requests to a service: none may bring a 500, a traceback, or the service down.

    python eval/fuzz_service.py RUN --requests 10000 --seed 0 --json fuzz.json

Starts `llmrec serve` on the loopback and writes raw bytes to it: bodies whose fields are anything (huge numbers, half
characters, controls, deep nests, wrong kinds), broken and cut JSON, random bytes, wrong methods, paths, headers and
lengths, all drawn from the seed. In the end the service must still recommend, its journal must name no fault, and
nothing but lines of JSON may stand in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.files import write_json
from llmrec.printing import echo

PATHS = ("/v1/recommend", "/v1/recommend", "/v1/recommend", "/v1/feedback", "/v1/completions")
RARE = ("/v1/items", "/v1/items/rollback", "/health", "/ready", "/metrics", "/openapi.json", "/docs", "/")
METHODS = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", "FOO", "P\x00ST", "")
TEXTS = (
    "",
    "user-1",
    "i1",
    "kettle",
    "a\x00b",
    "\x1b[31m\x07",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "'; DROP TABLE slate; --",
    "{{7*7}}${jndi:ldap://x}%s%n",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "\ud83d",
    "é" * 300,
    "x" * 9_000,
    "𝕏" * 600,
    "\ufeff",
)
NUMBERS = (0, -1, 1, 3, 10, 101, 1 << 31, 1 << 63, 10**400, -(10**30), 0.5, 1e308, -1e308, 5e-324, True, False, None)
LITERALS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"01", b"1_0", b"0x10", b"'a'", b"undefined")
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/recommend": [
        {"user_id": "user-1", "k": 3},
        {"prompt": "I liked the red kettle", "k": 3, "read_filters": True},
        {"state": {"profile": "tea", "history": [{"item_id": "i1", "kind": "click", "time": 5}], "time": 9}, "k": 2},
        {"user_id": "user-2", "filters": {"max_price": 9.5, "categories": ["kettle"], "exclude": ["i1"]}},
        {"user_id": "user-3", "k": 2, "explore": {"seed": 1, "temperature": 2.0}},
        {"user_id": "user-4", "k": 2, "exact": True, "explain": 1, "deadline_ms": 60_000},
    ],
    "/v1/feedback": [{"slate_id": "s", "item_id": "i1", "kind": "click", "value": 1.0, "feedback_id": "f"}],
    "/v1/completions": [{"model": "llmrec", "prompt": ["a kettle", "a lamp"], "n": 2, "temperature": 0.5}],
    "/v1/items": [
        {"add": [{"item_id": "n1", "title": "kettle tiny", "categories": ["kettle"], "price": 9.5}]},
        {"remove": ["n1"], "in_stock": ["i1"], "prices": [{"item_id": "i1", "price": 2.0}]},
    ],
}


def anything(draw: random.Random, depth: int = 0) -> Any:
    """A JSON value of any kind."""
    kind = draw.random()
    if kind < 0.4 or depth > 2:
        return draw.choice(TEXTS)
    if kind < 0.75:
        return draw.choice(NUMBERS)
    if kind < 0.87:
        return [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(TEXTS): anything(draw, depth + 1) for _ in range(draw.randrange(4))}


def changed(draw: random.Random, value: Any) -> Any:
    """A value with something in it replaced, left out, repeated or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        what = draw.random()
        if what < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.2:
            return value | {draw.choice(TEXTS): anything(draw)}
        return value | {key: changed(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], changed(draw, value[place]), *value[place:][: draw.choice((0, 1, 50))]]
    return anything(draw)


def body(draw: random.Random, path: str) -> bytes:
    """Bytes of a request's body."""
    kind = draw.random()
    if kind < 0.06:
        return draw.randbytes(draw.choice((0, 1, 3, 60, 5_000)))
    if kind < 0.08:
        return draw.choice((b"[" * 100_000, b'{"a":' * 3_000 + b"1" + b"}" * 3_000, b'{"k":' + b"9" * 100_000 + b"}"))
    if kind < 0.09:
        return b'{"prompt": "' + b"x" * (1 << 20) + b'"}'  # longer than a body may be
    tree: Any = draw.choice(BODIES.get(path, [{}]))
    for _ in range(draw.choice((0, 1, 1, 2, 4))):
        tree = changed(draw, tree)
    text = json.dumps(tree).encode()
    if kind < 0.16:
        return text[: draw.randrange(len(text) + 1)]
    if kind < 0.24 and text:
        place = draw.randrange(len(text))
        return text[:place] + draw.randbytes(draw.randrange(1, 4)) + text[place + 1 :]
    if kind < 0.3 and b": " in text:
        place = text.index(b": ", draw.randrange(text.index(b": ") + 1)) + 2
        end = min((p for p in (text.find(b",", place), text.find(b"}", place)) if p > 0), default=len(text))
        return text[:place] + draw.choice(LITERALS) + text[end:]
    if kind < 0.34:
        return draw.choice((b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text * 2, text + b"\x00"))
    return text


def request(draw: random.Random) -> tuple[bytes, bool]:
    """One request as it goes over the wire, and whether its length is told wrong (then no answer need come)."""
    path = draw.choice(PATHS) if draw.random() < 0.95 else draw.choice(RARE)
    data = body(draw, path)
    method, target, wrong = "POST", path, False
    headers = [("Host", "fuzz"), ("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    kind = draw.random()
    if kind < 0.05:
        method = draw.choice(METHODS)
    elif kind < 0.09:
        target += draw.choice(("?a=1&a=%00", "/", "/../items", "%2e%2e%00", "?" + "q" * 3_000, "/é", "//", "#x"))
    elif kind < 0.13:
        headers[1] = (
            "Content-Type",
            draw.choice(("text/plain", "", "application/xml", "multipart/form-data", "a/b;" * 500)),
        )
    elif kind < 0.17:
        value = "".join(chr(draw.randrange(1, 256)) for _ in range(30)).replace("\r", "").replace("\n", "")
        headers.append((draw.choice(("Authorization", "X-API-Key", "Cookie", "X-Request-ID", "Accept")), value))
    elif kind < 0.19:
        headers.append(("X-Long", "y" * draw.choice((1_000, 70_000))))
    elif kind < 0.21:
        length, wrong = draw.choice(("-1", "1e3", "99999999999999999999", "", str(len(data) + 5), "0")), True
        headers[2] = ("Content-Length", length)
    elif kind < 0.23:
        headers[2], wrong = ("Transfer-Encoding", draw.choice(("chunked", "gzip", "chunked, chunked"))), True
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    return head.encode("latin-1", "replace") + b"\r\n" + data, wrong or method not in ("POST", "GET")


async def answered(port: int, sent: bytes, patience_s: float) -> tuple[int, bytes]:
    """Status and body of the answer; 0 where the connection was closed, -1 where nothing came in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(patience_s):
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            said = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0].strip()
            return int(head.split(b" ", 2)[1]), await reader.readexactly(int(said or 0))
    except TimeoutError:
        return -1, b""
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b""
    finally:
        writer.close()


def fault(status: int, said: bytes, wrong: bool) -> str | None:
    """What is not as it should be in an answer."""
    if status >= 500:
        return f"status {status}"
    if status <= 0:
        return None if wrong else ("no answer" if status else "connection closed")
    if b"Traceback" in said:
        return "traceback"
    return None


async def attack(port: int, requests: Iterator[tuple[bytes, bool]], clients: int) -> tuple[Counter[str], list[str]]:
    """Sends all requests; statuses, and the faults with their requests."""
    statuses: Counter[str] = Counter()
    faults: list[str] = []

    async def client() -> None:
        for sent, wrong in requests:
            status, said = await answered(port, sent, 0.5 if wrong else 120.0)
            statuses[str(status)] += 1
            if (what := fault(status, said, wrong)) is not None:
                faults.append(f"{what}: {sent[:400]!r} -> {said[:300]!r}")

    await asyncio.gather(*(client() for _ in range(clients)))
    return statuses, faults


def drawn(seed: int, count: int) -> Iterator[tuple[bytes, bool]]:
    """So many requests."""
    draw = random.Random(seed)
    return (request(draw) for _ in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run folder")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        words = ["serve", options.run, "--port", "0", "--state", f"{folder}/state", "--deadline", "60"]
        with journal.open("wb") as errors:
            process = subprocess.Popen([sys.executable, "-m", "llmrec", *words], stderr=errors)
        while b'"serving"' not in journal.read_bytes():
            if process.poll() is not None:
                raise SystemExit(journal.read_text())
            time.sleep(0.1)
        lines = journal.read_text().splitlines()
        began = next(number for number, line in enumerate(lines) if '"serving"' in line)
        port, start = json.loads(lines[began])["port"], time.perf_counter()
        statuses, faults = asyncio.run(attack(port, drawn(options.seed, options.requests), options.clients))
        data = b'{"user_id": "after all", "k": 3}'
        head = (
            b"POST /v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        after, _ = asyncio.run(answered(port, head % len(data) + data, 120.0))
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        said = journal.read_text(errors="replace").splitlines()[began:]
    strange = [line for line in said if not line.startswith("{") or '"fault"' in line]
    echo(
        f"{sum(statuses.values()):,} requests in {time.perf_counter() - start:.0f} s: {dict(statuses.most_common())}"
    )
    echo(f"afterwards: status {after}, exit code {code}; {len(faults)} faults, {len(strange)} strange lines")
    for line in (faults + strange)[:20]:
        echo(line)
    told = {"requests": options.requests, "seed": options.seed, "statuses": dict(statuses), "after": after}
    told |= {"exit_code": code, "faults": faults, "strange": strange}
    if options.json is not None:
        write_json(options.json, told)
    if faults or strange or after != 200 or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
