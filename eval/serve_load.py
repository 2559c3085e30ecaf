"""How a service behaves under load: requests a second, waits, batches, kept prompts, memory, too many requests.

    python eval/serve_load.py RUN --seconds 30 --json load.json
    python eval/serve_load.py RUN --minutes 10                     # and a long phase, with the slope of the memory
    python eval/serve_load.py RUN --rounds 0 --minutes 10 --serve=--cache=64    # whether memory is flat at its bound
    python eval/serve_load.py RUN --no-overload                    # the rates alone

Starts `llmrec serve` on the loopback and asks it for users drawn by Zipf's law. Phases, a fresh service each:
  rates     --rounds of two parts in turn on one service, so that both meet the same users and the same machine:
              alone     one client, which waits for each answer: one request at a time
              together  --clients at once, each waiting for its answer: what batches are worth
  steady    with --minutes: --clients for so long; the slope of the memory, and that from when the cache is full
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
import scipy.stats

from llmrec.evaluation.facts import machine_facts
from llmrec.export import CARD
from llmrec.files import write_json
from llmrec.printing import echo
from llmrec.seeding import numpy_stream

FULL = 0.97
"""Share of its bound from which on the cache of prompts counts as full."""
SETTLE = 10.0
"""Seconds after the cache was full from which on the memory should be flat."""


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


class Connection:
    """A client's connection, kept open from one request to the next as clients of services do."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """One request; status and answer."""
        status, answer = await self._ask("POST", path, json.dumps(body).encode())
        return status, json.loads(answer)

    async def gauges(self) -> dict[str, float]:
        """What /metrics says, by name; without what has labels."""
        _, answer = await self._ask("GET", "/metrics", b"")
        lines = [line.split() for line in answer.decode().splitlines() if line[:1] != "#" and "{" not in line]
        return {name: float(value) for name, value in lines}

    async def _ask(self, method: str, path: str, data: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        try:
            writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(said.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            answer = await reader.readexactly(length)
            if b"connection: close" in said:
                self.close()
        except BaseException:
            self.close()
            raise
        return int(said.split(b" ", 2)[1]), answer

    def close(self) -> None:
        """Ends it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Clients of one service."""

    def __init__(self, options: argparse.Namespace, users: list[str], port: int, phase: str) -> None:
        self.options, self.users, self.port, self.told = options, users, port, Told()
        chance = 1.0 / np.arange(1, len(users) + 1) ** options.zipf
        self.sum, self.draw = np.cumsum(chance) / chance.sum(), numpy_stream(options.seed, "serve", "load", phase)
        self.before: set[str] = set()

    async def ask(self, number: int, connection: Connection) -> None:
        """One request, and now and then feedback on its answer."""
        place = int(np.searchsorted(self.sum, self.draw.random(), side="right"))
        user = self.users[min(place, len(self.users) - 1)]
        returning, began = user in self.before, time.perf_counter()
        try:
            body = {"user_id": user, "k": self.options.k}
            status, answer = await connection.post("/v1/recommend", body)
        except (OSError, EOFError, IndexError, ValueError):
            status, answer = 0, {}
        if status == 200:
            self.before.add(user)
        self.told.saw(status, time.perf_counter() - began, answer, returning)
        if status == 200 and answer["slate_id"] and number % self.options.feedback_every == 0:
            item = answer["items"][0]["item_id"]
            body = {"slate_id": answer["slate_id"], "item_id": item, "kind": "click"}
            got, _ = await connection.post("/v1/feedback", body)
            assert got == 200, got

    async def closed(self, clients: int, seconds: float) -> None:
        """Clients that wait for their answers."""
        end = time.perf_counter() + seconds

        async def client() -> None:
            number, connection = 0, Connection(self.port)
            while time.perf_counter() < end:
                number += 1
                await self.ask(number, connection)
            connection.close()

        await asyncio.gather(*(client() for _ in range(clients)))

    async def opened(self, rate: float, seconds: float) -> None:
        """Requests at a rate, by a Poisson process."""
        tasks, end, number = set(), time.perf_counter() + seconds, 0
        free: list[Connection] = []
        at = time.perf_counter()

        async def client(number: int) -> None:
            connection = free.pop() if free else Connection(self.port)
            await self.ask(number, connection)
            free.append(connection)

        while at < end:
            at += float(self.draw.exponential(1 / rate))
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            number += 1
            task = asyncio.create_task(client(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for connection in free:
            connection.close()


class Phase:
    """A service of its own with its clients; ends with the block."""

    def __init__(self, options: argparse.Namespace, users: list[str], name: str, *more: str) -> None:
        self.options, self.name = options, name
        self.server = Server(options.run, *more, *options.serve)
        self.started_mb = self.server.memory_mb()
        self.load = Load(options, users, self.server.port, name)
        asyncio.run(self.load.closed(options.clients, options.warm))  # what a first request finds out is known

    def __enter__(self) -> Phase:
        return self

    def __exit__(self, *_: object) -> None:
        code = self.server.end()
        if code:
            raise SystemExit(f"The service of phase {self.name} ended with exit code {code}.")

    def part(self, name: str, work: Callable[[Load], Awaitable[None]]) -> dict[str, Any]:
        """One measurement."""
        self.load.told = told = Told()
        memory: list[tuple[float, float]] = []
        filled: list[float] = []
        began, used = time.perf_counter(), self.server.cpu_s()

        async def watch() -> None:
            connection = Connection(self.server.port)
            while True:
                at = time.perf_counter() - began
                memory.append((at, self.server.memory_mb()))
                if not filled:
                    told = await connection.gauges()
                    # less than one more prompt has room
                    if told["llmrec_prefix_cache_bytes"] >= FULL * told["llmrec_prefix_cache_limit_bytes"] > 0:
                        filled.append(at)
                        connection.close()
                await asyncio.sleep(1.0)

        async def watched() -> None:
            watcher = asyncio.create_task(watch())
            try:
                await work(self.load)
            finally:
                watcher.cancel()

        asyncio.run(watched())
        told.seconds, used = time.perf_counter() - began, self.server.cpu_s() - used
        memory.append((told.seconds, self.server.memory_mb()))
        found = told.figures() | {"server_cpu_ms": 1000 * used / max(told.statuses[200], 1)}
        figures = memory_figures(memory, filled[0] if filled else None)
        found |= {"memory": {"started_mb": self.started_mb} | per_answers(figures, found["answered_per_s"])}
        echo(f"{name}: {json.dumps(found)}")
        return found


def memory_figures(
    samples: list[tuple[float, float]], filled: float | None = None, parts: int = 10
) -> dict[str, Any]:
    """Resident memory (seconds, MB) at the begin, in the middle and at the end, and its slopes with 95% intervals.

    Slopes are those of the second half and, where the cache of prompts was full at some second (`filled`), of what
    came SETTLE seconds after: lines through the means of so many parts, since samples a second apart are not
    independent. None of less than three samples a part.
    """
    seconds, megabytes = (np.array(column) for column in zip(*samples, strict=True))
    found: dict[str, Any] = {
        "begin_mb": float(megabytes[0]),
        "middle_mb": float(megabytes[len(megabytes) // 2]),
        "end_mb": float(megabytes[-1]),
        "most_mb": float(megabytes.max()),
        "cache_full_s": filled,
    }
    half = slope_of(seconds, megabytes, seconds[-1] / 2, parts)
    if half is not None:
        found |= {"mb_per_minute": half[0], "mb_per_minute_interval": half[1:]}
    full = None if filled is None else slope_of(seconds, megabytes, filled + SETTLE, parts)
    if full is not None:
        found |= {"full_mb_per_minute": full[0], "full_mb_per_minute_interval": full[1:]}
    return found


def per_answers(memory: dict[str, Any], answered_per_s: float) -> dict[str, Any]:
    """`memory_figures` with its slopes for a thousand answers as well (`…mb_per_1000`), at so many a second."""
    minutes = 1000 / (60 * answered_per_s) if answered_per_s else float("nan")
    slopes = {key: value for key, value in memory.items() if key.endswith("mb_per_minute")}
    return memory | {key.replace("_minute", "_1000"): minutes * value for key, value in slopes.items()}


def slope_of(seconds: Any, megabytes: Any, since: float, parts: int) -> list[float] | None:
    """MB a minute from a second on, with the ends of its 95% interval."""
    late = seconds >= since
    if late.sum() < 3 * parts:
        return None
    place = np.minimum((parts * np.linspace(0, 1, int(late.sum()))).astype(int), parts - 1)
    minutes, mean = (np.array([x[late][place == n].mean() for n in range(parts)]) for x in (seconds / 60, megabytes))
    line = scipy.stats.linregress(minutes, mean)
    wide, slope = float(scipy.stats.t.ppf(0.975, parts - 2) * line.stderr), float(line.slope)
    return [slope, slope - wide, slope + wide]


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of several parts of one kind as one: rates by their seconds, waits by the median of the parts."""
    seconds = sum(part["seconds"] for part in parts)
    answers = sum(part["answered_per_s"] * part["seconds"] for part in parts)
    cpu = sum(part["server_cpu_ms"] * part["answered_per_s"] * part["seconds"] for part in parts)
    waits = {f"p{q}_ms": float(np.median([part[f"p{q}_ms"] for part in parts])) for q in (50, 95, 99)}
    statuses = sum((Counter(part["statuses"]) for part in parts), Counter())
    rate = {"seconds": seconds, "answered_per_s": answers / seconds, "server_cpu_ms": cpu / answers}
    return rate | waits | {"statuses": dict(statuses), "parts": parts}


def measured_rates(options: argparse.Namespace, users: list[str]) -> dict[str, Any]:
    """One at a time and many at once, in turn."""
    kinds: dict[str, tuple[int, list[dict[str, Any]]]] = {"alone": (1, []), "together": (options.clients, [])}
    with Phase(options, users, "rates", "--deadline", "60") as phase:
        for _ in range(options.rounds):
            for name, (clients, parts) in kinds.items():
                parts.append(phase.part(name, lambda load, n=clients: load.closed(n, options.seconds)))
    found: dict[str, Any] = {name: together(parts) for name, (_, parts) in kinds.items()}
    pairs = list(zip(*(parts for _, parts in kinds.values()), strict=True))
    found["batching"] = found["together"]["answered_per_s"] / found["alone"]["answered_per_s"]
    found["batching_rounds"] = [many["answered_per_s"] / one["answered_per_s"] for one, many in pairs]
    # what other programs of the machine take does not count here
    found["batching_cpu"] = found["alone"]["server_cpu_ms"] / found["together"]["server_cpu_ms"]
    found["batching_cpu_rounds"] = [one["server_cpu_ms"] / many["server_cpu_ms"] for one, many in pairs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run folder with its data set; made by `llmrec demo` where it is not")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of a run that is made")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each part of a phase")
    parser.add_argument("--rounds", type=int, default=2, help="of the rates; 0 measures none, and no overload")
    parser.add_argument("--minutes", type=float, default=0.0, help="of the steady phase; none by default")
    parser.add_argument("--warm", type=float, default=5.0, help="seconds before each phase that do not count")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--zipf", type=float, default=1.1, help="exponent of the law by which users come")
    parser.add_argument("--feedback-every", type=int, default=4)
    parser.add_argument("--waiting", type=int, default=32, help="of the overloaded service")
    parser.add_argument(
        "--serve", action="append", default=[], help="an option of llmrec serve, as --serve=--cache=512"
    )
    parser.add_argument("--no-overload", dest="overload", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (Path(options.run) / CARD).is_file():
        made = [f"--set={override}" for override in options.overrides]
        subprocess.run([sys.executable, "-m", "llmrec", "demo", "--out", options.run, *made], check=True)
    users = _users(options.run)
    told: dict[str, Any] = {"machine": machine_facts(), "run": Path(options.run).name, "users": len(users)}
    if options.rounds:
        told |= measured_rates(options, users)
    if options.minutes:
        with Phase(options, users, "steady", "--deadline", "60") as phase:
            told["steady"] = phase.part("steady", lambda load: load.closed(options.clients, 60 * options.minutes))
    if options.overload and options.rounds:
        rate, waiting = 2 * told["together"]["answered_per_s"], str(options.waiting)
        with Phase(options, users, "overload", "--waiting", waiting, "--deadline", "60") as phase:
            told["overload"] = phase.part("overload", lambda load: load.opened(rate, options.seconds))
    if options.rounds:
        cpu = f"{told['batching_cpu']:.2f} times in CPU time of the service"
        echo(f"batching: {told['batching']:.2f} times one at a time; {cpu}")
    if options.minutes:
        echo(f"memory: {flatness(told['steady']['memory'])}")
    if options.json is not None:
        write_json(options.json, told)


def flatness(memory: dict[str, Any]) -> str:
    """What the steady phase says of the memory, in words."""
    if memory["cache_full_s"] is None:
        return "the cache was not full in this time; give a smaller --serve=--cache=MB or more --minutes"
    when = f"the cache was full after {memory['cache_full_s']:.0f} s"
    if "full_mb_per_minute" not in memory:
        return f"{when}, too late for a slope; give more --minutes"
    # no minus before a zero
    slope, low, high = (
        round(x, 2) + 0.0 for x in (memory["full_mb_per_minute"], *memory["full_mb_per_minute_interval"])
    )
    answers = memory.get("full_mb_per_1000")
    each = "" if answers is None else f", {round(answers, 3) + 0.0:.3f} MB for 1,000 answers"
    return f"{when}, from then on {slope:.2f} MB a minute ({low:.2f} to {high:.2f}){each}"


def _users(run: str) -> list[str]:
    from llmrec.dataset.store import Dataset
    from llmrec.finding import default_data

    place = default_data(Path(run))
    if place is None:
        raise SystemExit(f"{run} has no data set beside it; give a run with its working folder.")
    return [str(user) for user in Dataset.load(place).users["user_id"]]


if __name__ == "__main__":
    main()
