"""How a service behaves under load: requests a second, waits, batches, kept prompts, and what it does at too much.

    python eval/serve_load.py RUN --seconds 30 --json load.json
    python eval/serve_load.py RUN --no-overload                    # the rates alone

Starts `llmrec serve` on the loopback and asks it for users drawn by Zipf's law. Phases, a fresh service each:
  alone     one client, which waits for each answer: one request at a time
  together  --clients at once, each waiting for its answer: what batches are worth
  overload  new requests at twice the rate of `together`, whether or not the ones before are answered
After every --feedback-every answers of a client the first item of its slate is reported as clicked, so that histories
grow. Client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.evaluation.facts import machine_facts
from llmrec.export import CARD
from llmrec.files import write_json
from llmrec.printing import echo
from llmrec.seeding import numpy_stream


@dataclass
class Told:
    """What clients saw in a phase."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    waits: dict[int, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {"first": [], "returning": []})

    def saw(self, status: int, took: float, answer: dict[str, Any], returning: bool) -> None:
        """Counts one answer to /v1/recommend."""
        self.statuses[status] += 1
        self.waits.setdefault(status, []).append(took)
        if status == 200:
            self.sources[answer["source"]] += 1
            if answer["tokens"]:
                kind = "returning" if returning else "first"
                self.tokens[kind].append((answer["tokens"]["read"], answer["tokens"]["prompt"]))

    def figures(self) -> dict[str, Any]:
        """Rates, quantiles in milliseconds and shares."""
        well = self.waits.get(200, [])
        quantiles = {f"p{q}_ms": 1000 * float(np.percentile(well, q)) for q in (50, 95, 99)} if well else {}
        refused = self.waits.get(429, [])
        read = {
            kind: {"prompts": len(pairs), "share_read": sum(p[0] for p in pairs) / sum(p[1] for p in pairs)}
            for kind, pairs in self.tokens.items()
            if pairs
        }
        return {
            "seconds": self.seconds,
            "answered_per_s": len(well) / self.seconds,
            "statuses": {str(k): v for k, v in sorted(self.statuses.items())},
            "sources": dict(self.sources),
            **quantiles,
            "refused_p99_ms": 1000 * float(np.percentile(refused, 99)) if refused else None,
            "tokens": read,
        }


class Server:
    """`llmrec serve` in a process of its own."""

    def __init__(self, run: str, *more: str) -> None:
        self._state = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "llmrec", "serve", run, "--port", "0", "--state", self._state.name, *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said = line
            if '"serving"' in line:
                break
        else:
            raise SystemExit(f"The service did not start: {said.strip()}")
        self.port = int(json.loads(said)["port"])
        # the journal is read to its end, or the service would wait for a full pipe
        self._drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def memory_mb(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """CPU time that it has used, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """Ends it by SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._drain.wait(10)
        self._state.cleanup()
        return code


async def post(port: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        whole = await reader.read()
    finally:
        writer.close()
    head_bytes, _, rest = whole.partition(b"\r\n\r\n")
    return int(head_bytes.split(b" ", 2)[1]), json.loads(rest)


class Load:
    """Clients of one phase."""

    def __init__(self, options: argparse.Namespace, users: list[str], port: int, phase: str) -> None:
        self.options, self.users, self.port, self.told = options, users, port, Told()
        chance = 1.0 / np.arange(1, len(users) + 1) ** options.zipf
        self.chance, self.draw = chance / chance.sum(), numpy_stream(options.seed, "serve", "load", phase)
        self.before: set[str] = set()

    async def ask(self, number: int) -> None:
        """One request, and now and then feedback on its answer."""
        user = self.users[self.draw.choice(len(self.users), p=self.chance)]
        returning, began = user in self.before, time.perf_counter()
        self.before.add(user)
        try:
            status, answer = await post(self.port, "/v1/recommend", {"user_id": user, "k": self.options.k})
        except (OSError, IndexError, ValueError):
            status, answer = 0, {}
        self.told.saw(status, time.perf_counter() - began, answer, returning)
        if status == 200 and answer["slate_id"] and number % self.options.feedback_every == 0:
            item = answer["items"][0]["item_id"]
            body = {"slate_id": answer["slate_id"], "item_id": item, "kind": "click"}
            got, _ = await post(self.port, "/v1/feedback", body)
            assert got == 200, got

    async def closed(self, clients: int, seconds: float) -> None:
        """Clients that wait for their answers."""
        end = time.perf_counter() + seconds

        async def client() -> None:
            number = 0
            while time.perf_counter() < end:
                number += 1
                await self.ask(number)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def opened(self, rate: float, seconds: float) -> None:
        """Requests at a rate, by a Poisson process."""
        tasks, end, number = set(), time.perf_counter() + seconds, 0
        at = time.perf_counter()
        while at < end:
            at += float(self.draw.exponential(1 / rate))
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            number += 1
            task = asyncio.create_task(self.ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def phase(
    options: argparse.Namespace, users: list[str], name: str, more: list[str], work: Callable[[Load], Awaitable[None]]
) -> dict[str, Any]:
    """One phase on a service of its own."""
    server = Server(options.run, *more)
    try:
        load = Load(options, users, server.port, name)
        asyncio.run(load.closed(min(8, options.clients), options.warm))  # what a first request finds out is known
        load.told, load.before, memory = Told(), set(), server.memory_mb()
        began, used = time.perf_counter(), server.cpu_s()
        asyncio.run(_run(work, load))
        load.told.seconds, used = time.perf_counter() - began, server.cpu_s() - used
        answered = max(load.told.statuses[200], 1)
        found = load.told.figures() | {"server_cpu_ms": 1000 * used / answered}
        found |= {"memory_mb": {"begin": memory, "end": server.memory_mb()}}
    finally:
        code = server.end()
    echo(f"{name}: {json.dumps(found)}")
    return found | {"exit_code": code}


async def _run(work: Callable[[Load], Awaitable[None]], load: Load) -> None:
    await work(load)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run folder with its data set; made by `llmrec demo` where it is not")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of a run that is made")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each phase")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before each phase that do not count")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--zipf", type=float, default=1.1, help="exponent of the law by which users come")
    parser.add_argument("--feedback-every", type=int, default=4)
    parser.add_argument("--waiting", type=int, default=32, help="of the overloaded service")
    parser.add_argument("--no-overload", dest="overload", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (Path(options.run) / CARD).is_file():
        made = [f"--set={override}" for override in options.overrides]
        subprocess.run([sys.executable, "-m", "llmrec", "demo", "--out", options.run, *made], check=True)
    users = _users(options.run)
    rates: dict[str, Any] = {"machine": machine_facts(), "run": Path(options.run).name, "users": len(users)}
    patient = ["--deadline", "60"]
    rates["alone"] = phase(options, users, "alone", patient, lambda load: load.closed(1, options.seconds))
    rates["together"] = phase(
        options, users, "together", patient, lambda load: load.closed(options.clients, options.seconds)
    )
    capacity = rates["together"]["answered_per_s"]
    rates["batching"] = capacity / rates["alone"]["answered_per_s"]
    # what other programs of the machine take does not count here
    rates["batching_cpu"] = rates["alone"]["server_cpu_ms"] / rates["together"]["server_cpu_ms"]
    if options.overload:
        more = ["--waiting", str(options.waiting), "--deadline", "60"]
        rates["overload"] = phase(
            options, users, "overload", more, lambda load: load.opened(2 * capacity, options.seconds)
        )
    cpu = f"{rates['batching_cpu']:.2f} times in CPU time of the service"
    echo(f"batching: {rates['batching']:.2f} times one at a time; {cpu}")
    if options.json is not None:
        write_json(options.json, rates)


def _users(run: str) -> list[str]:
    from llmrec.dataset.store import Dataset
    from llmrec.finding import default_data

    place = default_data(Path(run))
    if place is None:
        raise SystemExit(f"{run} has no data set beside it; give a run with its working folder.")
    return [str(user) for user in Dataset.load(place).users["user_id"]]


if __name__ == "__main__":
    main()
