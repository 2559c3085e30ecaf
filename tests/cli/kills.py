"""Kills a tiny run again and again, at random moments and with two writers at once, and looks for what is lost.

    python -m tests.cli.kills FOLDER --kills 50 --seed 0

Each round forks one or two processes that do the same run on the same `--out` and kills them with SIGKILL: after a
random time, or as the run folder is being written. Between the rounds a person puts notes into the run folder. In the
end the run must be byte-equal to an undisturbed one, with all notes there and nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

from llmrec.cli.guard import set_environment
from tests.cli import tiny

SAME = ("model.safetensors", "metrics.json", "items.parquet", "config.yaml", "catalogue/catalogue.arrow")
STAGES = ("sft", "simulator", "ppo")
FINISH_SHARE, TWO_WRITERS = 0.2, 0.35
SETTINGS = tiny.SETTINGS | {
    "model.nano_pretrain_sequences": 64,
    "sft.examples": 128,
    "ppo.steps": 4,
    "gate.users": 10,
    "gate.events": 10,
    "evaluation.users": 10,
    "evaluation.test_events": 15,
    "evaluation.bootstrap": 20,
}
"""Smaller than the tiny run, as it is made some dozen times."""


def start(out: Path, log: Path) -> int:
    """Forks a process that does the run; exit code 0 at its end, 2 for a refusal, 1 for anything else."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from llmrec.errors import LLMRecError
        from llmrec.pipeline.recipes import demo_config
        from llmrec.pipeline.run import run_job

        try:
            run_job(demo_config(0, SETTINGS), out)
            code = 0
        except LLMRecError as error:
            print(f"REFUSED {error}", flush=True)
            code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code; minus the signal for one that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_random(out: Path, log: Path, rng: random.Random, longest: float) -> list[int]:
    """One round; returns the exit codes."""
    children = [start(out, log)]
    if rng.random() < TWO_WRITERS:
        time.sleep(rng.uniform(0, 0.3))
        children.append(start(out, log))
    if rng.random() < FINISH_SHARE:
        deadline = time.monotonic() + 10 * longest
        while time.monotonic() < deadline and not list(out.parent.glob(f".{out.name}.*-*")):
            if all(os.waitid(os.P_PID, c, os.WEXITED | os.WNOHANG | os.WNOWAIT) for c in children):
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
    else:
        time.sleep(math.exp(rng.uniform(math.log(0.05), math.log(longest))))
    for child in children:
        os.kill(child, signal.SIGKILL)
    return [wait(child) for child in children]


def disturbed(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kills until there were `kills`, then ends the run; returns how often what happened.

    Raises:
        AssertionError: something was lost, or is left that should not be.
    """
    rng, log = random.Random(seed), folder / "log.txt"
    began = time.monotonic()
    assert wait(start(folder / "undisturbed" / "run", log)) == 0, log.read_text()[-3000:]
    longest = 1.2 * (time.monotonic() - began)
    out, notes = folder / "place" / "run", {}
    out.parent.mkdir()
    shutil.rmtree(os.environ["LLMREC_CACHE"])
    notes[out.parent / "notes.txt"] = "beside the run"
    (out.parent / "notes.txt").write_text("beside the run")
    seen: Counter[str] = Counter(rounds=0, kills=0, ended=0, refused=0, notes=1)
    while seen["kills"] < kills:
        codes = kill_at_random(out, log, rng, longest)
        assert set(codes) <= {0, 2, -signal.SIGKILL}, log.read_text()[-3000:]
        seen.update(rounds=1, kills=codes.count(-9), ended=codes.count(0), refused=codes.count(2))
        seen["two writers"] += len(codes) == 2
        seen["while written"] += bool(list(out.parent.glob(f".{out.name}.*-*")))
        if out.is_dir() and rng.random() < 0.5:
            name = out / f"note-{seen['notes']}.txt"
            notes[name] = f"mine, {seen['notes']}"
            name.write_text(notes[name])
            seen["notes"] += 1
        if 0 in codes:  # there is work again
            shutil.rmtree(out.with_name(f"{out.name}.work") / rng.choice(STAGES), ignore_errors=True)
    assert wait(start(out, log)) == 0, log.read_text()[-3000:]
    for note, text in notes.items():
        assert note.read_text() == text, note
    assert sorted(p.name for p in out.parent.iterdir()) == ["notes.txt", "run", "run.work"]
    check_equal(folder / "undisturbed" / "run", out, set(notes))
    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("REFUSED") == text.count("in use by process"), text[-3000:]
    return dict(seen)


def check_equal(one: Path, two: Path, notes: set[Path]) -> None:
    """Weights, figures and lists of files of two runs."""
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    works = [run.with_name(f"{run.name}.work") for run in (one, two)]
    listed = [{p.relative_to(run).as_posix() for p in run.rglob("*") if p not in notes} for run in (one, two)]
    assert listed[0] == listed[1]
    debris = [p for p in works[1].rglob("*") if p.name.startswith(".") or p.suffix == ".partial"]
    assert not debris, debris
    for weights in works[0].rglob("*.safetensors"):
        again = works[1] / weights.relative_to(works[0])
        assert again.read_bytes() == weights.read_bytes(), weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_environment()
    options.folder.mkdir(parents=True)
    os.environ["LLMREC_CACHE"] = str(options.folder / "cache")
    import llmrec.pipeline.run  # noqa: F401  (once, for all that are forked)

    print(json.dumps(disturbed(options.folder.resolve(), options.kills, options.seed)))


if __name__ == "__main__":
    main()
