"""What a catalogue of N items costs: to build, hash, save, load, change, and in bytes an item.

    python eval/benchmark_catalogue.py --items 10000 100000 1000000

Two kinds of items, drawn from a fixed seed: titles of 5 to 19 tokens (12 on average, few first words), and four codes
as a semantic scheme gives them. Times are CPU seconds of this process; loading runs in a process of its own, which
prints its wall seconds and by how much its resident memory grew. 1,000 items are added and removed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.catalogue import Catalogue, PrefixIndex
from llmrec.catalogue.store import arrays_of

CHANGED, END = 1_000, 1
LOAD = """
import sys, time
from pathlib import Path
from llmrec.catalogue import Catalogue
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
before, start = resident(), time.perf_counter()
catalogue = Catalogue.load(Path(sys.argv[1]))
catalogue.index, catalogue.titles[len(catalogue) // 2], catalogue.token_ids(len(catalogue) - 1)
print(f"{time.perf_counter() - start:.3f} {resident() - before:.1f}")
"""


def draw(kind: str, items: int) -> np.ndarray:
    """Distinct token rows without end token, padded with -1: (N, L)."""
    random = np.random.default_rng(0)
    side = round(np.ceil(items ** (1 / 3)))
    distinct = np.stack(np.unravel_index(random.permutation(side**3)[:items], (side,) * 3), axis=1)
    if kind == "codes":
        return np.concatenate([distinct + side * np.arange(3) + 2, random.integers(0, 4, (items, 1)) + 5_000], axis=1)
    tokens = 2 + np.minimum(random.zipf(1.3, (items, 18)), 30_000)
    tokens[:, 1:4] = distinct + 2
    tokens[np.arange(18) >= random.integers(4, 19, items)[:, None]] = -1
    return tokens


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def measure(kind: str, items: int) -> dict[str, float]:
    rows = draw(kind, items + CHANGED)
    ids = [f"item-{n:07}" for n in range(len(rows))]
    titles = [f"A title of some length, number {n}" for n in range(len(rows))]
    out: dict[str, float] = {}
    old, out["make s"] = timed(
        lambda: Catalogue.from_sequences(ids[:items], titles[:items], rows[:items], END, scheme=kind)
    )
    index, out["index s"] = timed(lambda: PrefixIndex.from_tokens(old.tokens_NL, old.lengths_N))
    _, out["hash s"] = timed(lambda: old.content_hash)
    _, out["add s"] = timed(lambda: old.with_sequences(ids[items:], titles[items:], rows[items:]))
    _, out["remove s"] = timed(lambda: old.removed(ids[: min(CHANGED, items // 2)]))
    with tempfile.TemporaryDirectory() as folder:
        _, out["save s"] = timed(lambda: old.save(Path(folder)))
        loaded = subprocess.run([sys.executable, "-c", LOAD, folder], check=True, capture_output=True, text=True)
        out["load s"], out["load MiB"] = map(float, loaded.stdout.split())
        out["disk B/item"] = sum(path.stat().st_size for path in Path(folder).iterdir()) / items
    out["nodes/item"] = index.n_nodes / items
    out["index B/item"] = sum(array.nbytes for array in arrays_of(index).values()) / items
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    head = True
    for items in parser.parse_args().items:
        for kind in ("titles", "codes"):
            figures = measure(kind, items)
            if head:
                print(f"{'items':>9} {'kind':>7} " + " ".join(f"{name:>12}" for name in figures))
                head = False
            print(f"{items:>9} {kind:>7} " + " ".join(f"{value:>12.3f}" for value in figures.values()), flush=True)


if __name__ == "__main__":
    main()
