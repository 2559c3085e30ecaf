"""Kills a writer of an event log at random moments and looks for what was lost.

    python -m tests.online.kills FOLDER --kills 50 --seed 0

Each round forks a process that serves slates and receives feedback, and says through a pipe what was acknowledged,
after it was. Then it is killed by SIGKILL at a random moment. Whatever was acknowledged must be in the log, whole and
in order, and the next writer must go on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import time
from pathlib import Path

from llmrec.online.events import LoggedState, Outcome, Served
from llmrec.online.log import EventLog, EventReader

PLACES = 4


def slate(round_: int, number: int) -> Served:
    """A slate whose content follows from its name."""
    items = tuple(f"item-{(number + place) % 50}" for place in range(PLACES))
    chances = tuple(1 / (place + 2 + number % 7) for place in range(PLACES))
    state = LoggedState("profile", ((items[0], "click", number, None),), time=number)
    return Served(f"{round_}-{number}", f"user-{number % 9}", items, chances, 1, "without-replacement", state)


def write(path: Path, round_: int, pipe: int) -> None:
    """Writes until it is killed; a line of the pipe is a sequence number and what it belongs to."""
    with EventLog(path) as log:
        number = 0
        while True:
            batch = [slate(round_, number + row) for row in range(1 + number % 3)]
            said = [(receipt.seq, one.slate_id, "") for receipt, one in zip(log.serve(batch), batch, strict=True)]
            outcomes = [Outcome(one.slate_id, one.items_K[row % PLACES], "click") for row, one in enumerate(batch)]
            receipts = log.receive(outcomes)
            said += [(r.seq, o.slate_id, o.name) for r, o in zip(receipts, outcomes, strict=True)]
            os.write(pipe, "".join(json.dumps(line) + "\n" for line in said).encode())
            number += len(batch)


def acknowledged(path: Path, round_: int, seconds: float) -> list[tuple[int, str, str]]:
    """What a writer says of itself before it is killed after about so many seconds of writing."""
    read, pipe = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            write(path, round_, pipe)
        finally:
            os._exit(1)
    os.close(pipe)
    select.select([read], [], [], 30)  # the moment counts from the first word, as slow machines take long to begin
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read) as file:
        lines = file.read().splitlines(keepends=True)
    # the last line may be cut: it was being said, not yet said
    return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]


def check(path: Path, said: list[tuple[int, str, str]]) -> int:
    """Raises where something is lost, half there or out of order; how many entries the log has."""
    with EventReader(path) as log:
        assert log._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        found: dict[int, tuple[str, str]] = {}
        for one in log.slates(mature=False):
            round_, number = map(int, one.served.slate_id.split("-"))
            assert one.served == slate(round_, number)
            found[one.seq] = (one.served.slate_id, "")
            found |= {r.seq: (r.outcome.slate_id, r.outcome.name) for r in one.received}
        for seq, slate_id, name in said:
            assert found[seq] == (slate_id, name), f"{seq} was acknowledged and is lost"
        # what is acknowledged ends the log but for what was not yet said when the kill came
        assert sorted(found) == list(range(1, log.last_seq + 1))
        return len(found)


def run(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills a writer `kills` times."""
    draw, path = random.Random(seed), folder / "events.sqlite"
    said: list[tuple[int, str, str]] = []
    entries = 0
    for round_ in range(kills):
        said += acknowledged(path, round_, draw.uniform(0, 0.04))
        entries = check(path, said)
    return {"kills": kills, "acknowledged": len(said), "entries": entries}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(json.dumps(run(asked.folder, asked.kills, asked.seed)))
