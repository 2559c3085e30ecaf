"""Kills `llmrec online simulate` at random moments and looks for what was lost, half-written or served by mistake.

    python -m tests.online.kills_of_online RUN FOLDER --kills 50 --seed 0

Each round forks a process that goes on with one simulation of the run folder RUN, and kills it by SIGKILL a random time
after it has written something, by turns a part of a version and an entry of the log or a whole version; one that had come to its end by then does not count, and the next simulation begins. What
the log and the versions held before must be there unchanged, every version whole, and every slate of a version that was
promoted. In the end log, versions and decisions of each must be those of a simulation that nobody disturbed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from llmrec.config import GateSettings, OffPolicySettings
from llmrec.errors import RunError
from llmrec.online.cycle import Progress
from llmrec.online.log import EventReader
from llmrec.online.simulated import EVENTS, VERSIONS, simulate
from llmrec.online.traffic import TrafficSettings
from llmrec.online.update import CycleSettings, OnlineSettings
from llmrec.online.versions import Versions

TRAFFIC = TrafficSettings(days=14, visits=25, places=3)
SETTINGS = OnlineSettings(
    off_policy=OffPolicySettings(slate=3, draws=1, learning_rate=1e-2, epochs=1.0, save_every=1),
    gate=GateSettings(effective_samples=5.0),
    samples=100,
    cycle=CycleSettings(every=60, least=50, trial_pairs=5),
)


def serve(run: Path, out: Path) -> int:
    """Goes on with the simulation in a process of its own; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with out.with_suffix(".log").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        simulate(run, out, SETTINGS, TRAFFIC, temperature=1.0, seed=3)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def written(out: Path) -> tuple[int, set[str]]:
    """The last entry of the log, and what stands in the folder of the versions, by name.

    Not the files of the log: whoever opens it writes to these, and has not begun yet.
    """
    last = 0
    if (out / EVENTS).is_file():
        with contextlib.suppress(RunError), EventReader(out / EVENTS) as log:
            last = log.last_seq
    # os.walk passes over what is renamed meanwhile
    walk = os.walk(out / VERSIONS)
    return last, {
        str(Path(where, name).relative_to(out)) for where, folders, files in walk for name in (*folders, *files)
    }


def wrote(out: Path, before: tuple[int, set[str]], whole: bool) -> bool:
    """Whether something is there that was not, `whole`: an entry of the log or a finished version of it.

    To clear away what a kill has left is no work.
    """
    last, places = written(out)
    new = {place for place in places - before[1] if not whole or "/." not in place}
    return last > before[0] or bool(new)


def killed_at_work(source: Path, out: Path, wait: float, longest: float, whole: bool) -> bool:
    """Kills a process `wait` seconds after it has written something new; False where it had ended by itself."""
    before, child, began = written(out), serve(source, out), time.monotonic()
    while not wrote(out, before, whole) and time.monotonic() - began < longest:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.02)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def found(out: Path) -> dict[str, Any]:
    """What stands in the log and in the versions; raises where a part of it is not whole."""
    slates: dict[str, Any] = {}
    if (out / EVENTS).is_file():
        try:
            with EventReader(out / EVENTS) as log:
                assert log._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                slates = {one.served.slate_id: one for one in log.slates(mature=False)}
                last = log.last_seq
                entries = sorted(
                    [s.seq for s in slates.values()] + [r.seq for s in slates.values() for r in s.received]
                )
                assert entries == list(range(1, last + 1)), "a gap in the log"
        except RunError:  # the very first transaction had not come to its end; `kept` knows whether it had
            slates = {}
    held = Versions(out / VERSIONS)
    whole = {
        number: dict(json.loads((held.version(number).folder / "version.json").read_text()))
        for number in held.numbers()
    }
    serving = held.serving()
    promoted = {serving.number, *serving.before, *serving.withdrawn}
    assert {one.served.version for one in slates.values()} <= promoted, "a version was served that nobody promoted"
    return {"slates": slates, "versions": whole, "progress": Progress.read(held.folder)}


def kept(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises where something that was there is gone or has changed."""
    for name, one in before["slates"].items():
        again = now["slates"][name]
        assert (again.seq, again.served) == (one.seq, one.served), f"{name} has changed"
        assert again.received[: len(one.received)] == one.received, f"feedback on {name} is lost"
    assert {n: now["versions"].get(n) for n in before["versions"]} == before["versions"], "a version has changed"
    decisions = before["progress"].decisions
    assert now["progress"].decisions[: len(decisions)] == decisions, "a decision is lost"


def ended(source: Path, out: Path) -> dict[str, Any]:
    """What a simulation comes to that nobody disturbs from now on."""
    assert os.waitstatus_to_exitcode(os.waitpid(serve(source, out), 0)[1]) == 0, out.with_suffix(".log").read_text()
    return found(out)


def run(source: Path, folder: Path, kills: int, seed: int, wait: float, longest: float) -> dict[str, Any]:
    """Kills simulations `kills` times at work, and holds each against one that was not disturbed."""
    draw, whole = random.Random(seed), ended(source, folder / "whole")
    done, moved, simulations = 0, 0, 0
    while done < kills:
        simulations += 1
        out, at_work = folder / f"killed-{simulations}", True
        told = found(out)
        while at_work and done < kills:
            at_work = killed_at_work(source, out, draw.uniform(0, wait), longest, whole=bool(done % 2))
            now = found(out)
            kept(told, now)
            done, moved, told = done + at_work, moved + (at_work and now != told), now
        killed = ended(source, out)
        kept(told, killed)
        assert killed == whole, "the killed simulation came to something else"
    return {
        "kills at work": done,
        "of which behind a new entry or version": moved,
        "simulations": simulations,
        "slates": len(whole["slates"]),
        "reports": sum(len(one.received) for one in whole["slates"].values()),
        "versions": len(whole["versions"]),
        "decisions": [one.kind for one in whole["progress"].decisions],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", type=float, default=0.3, help="seconds at most from what was written to the kill")
    parser.add_argument("--longest", type=float, default=30.0, help="seconds to wait for something that is written")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(asked.run, asked.folder, asked.kills, asked.seed, asked.wait, asked.longest)))
