"""One decoding step's legality work: the legal children of 1,000 prefixes, filters included.

    python eval/benchmark_masks.py --items 10000 100000 1000000

For each catalogue size and depth, the children of --rows random prefixes (one user each) are listed with no filter,
with a dense filter that lets half of the items through, with --seen seen items a user, and with both. The plain way,
a dictionary look-up and a mask over the vocabulary for each row, stands beside it. CPU time of one thread; the
smallest of --repeats rounds and their median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=(10_000, 100_000, 1_000_000))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seen", type=int, default=50, help="seen items of each user")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plain", action="store_true", help="also time dictionaries and masks (slow, much memory)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def steps(options: argparse.Namespace, items: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the index of one catalogue costs, and a row for each depth and filter."""
    import speed
    import torch

    from llmrec.seeding import torch_stream

    tokens = speed.four_codes(items, options.vocabulary)
    start = time.process_time()
    index = speed.index_of(tokens, options.device)
    built = {"items": items, "nodes": index.n_nodes, "build seconds": time.process_time() - start}
    built["bytes per item"] = sum(t.numel() * t.element_size() for t in tensors_of(index)) / items
    random = torch_stream(0, "benchmark", "masks", items)
    rows = torch.randint(items, (options.rows,), generator=random)
    users = torch.arange(options.rows, device=index.device)
    start = time.process_time()
    dense = index.item_filter(torch.rand(items, generator=random) < 0.5)
    built["dense filter ms"] = 1e3 * (time.process_time() - start)
    seen = torch.randint(items, (options.rows, options.seen), generator=random)
    # half of what a user has seen begins like the prefix at hand, so that it does matter
    near = (index.row_of_item_N[rows].unsqueeze(1) + torch.arange(options.seen // 2)).clamp(max=items - 1)
    seen[:, : options.seen // 2] = index.item_of_row_N[near]
    start = time.process_time()
    filters = {"none": None, "dense": index.allowed(dense=dense), "seen": index.allowed(seen)}
    built["seen keys ms"] = 1e3 * (time.process_time() - start)
    filters["dense and seen"] = index.allowed(seen, dense=dense)
    children = speed.legal_tokens(tokens) if options.plain else None
    out = []
    for depth in range(4):
        before, _ = index.prefixes(rows.to(index.device))
        nodes = before[:, depth].contiguous()
        for name, allowed in filters.items():
            seconds = timed(lambda nodes=nodes, allowed=allowed: legality(index, users, nodes, allowed), options)
            edges, opened = legality(index, users, nodes, allowed)
            median, legal = statistics.median(seconds), len(edges.child_E) if opened is None else int(opened.sum())
            row = {"items": items, "depth": depth, "filter": name, "legal children": legal}
            row |= {"ms": 1e3 * median, "least ms": 1e3 * min(seconds), "ns per child": 1e9 * median / max(legal, 1)}
            if children is not None and name == "none":
                row["plain ms"] = 1e3 * statistics.median(
                    timed(lambda depth=depth: plain(children, tokens, rows, depth), options, 3)
                )
            out.append(row)
    return built, out


def legality(index: Any, users: Any, nodes: Any, allowed: Any) -> tuple[Any, Any]:
    """What beam search asks for at each step: all legal continuations, and which of them the filter leaves open."""
    from llmrec.policy.edges import Edges

    edges = Edges.of(index, users, nodes, None)
    return edges, edges.is_open(index, allowed)


def tensors_of(index: Any) -> list[Any]:
    """The tensors of an index."""
    import dataclasses

    return [getattr(index, field.name) for field in dataclasses.fields(index)]


def plain(children: Any, tokens: Any, rows: Any, depth: int) -> Any:
    """A mask over the vocabulary, row by row."""
    import torch

    mask = torch.full((len(rows), 32_000), -1e6)
    for place, row in enumerate(rows.tolist()):
        mask[place, children[tuple(tokens[row, :depth].tolist())]] = 0
    return mask


def timed(run: Any, options: argparse.Namespace, repeats: int | None = None) -> list[float]:
    """CPU (or synchronised) seconds of each repetition."""
    import speed

    run()
    seconds = []
    for _ in range(repeats or options.repeats):
        start = speed.clock(options.device)
        run()
        seconds.append(speed.clock(options.device) - start)
    return seconds


def main() -> None:
    options = parse()
    import torch

    from llmrec.evaluation.facts import machine_facts, package_versions
    from llmrec.files import write_json
    from llmrec.screen import results

    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": machine_facts(), "packages": package_versions(), "catalogues": []}
    for items in options.items:
        built, rows = steps(options, items)
        results().print("  ".join(f"{key} {value:,.4g}" for key, value in built.items()))
        for row in rows:
            results().print(
                f"  depth {row['depth']}  {row['filter']:15s} {row['legal children']:7d} legal  {row['ms']:7.2f} ms  "
                f"(least {row['least ms']:.2f})  {row['ns per child']:8.1f} ns per child"
                + (f"  plain {row['plain ms']:.0f} ms" if "plain ms" in row else "")
            )
        figures["catalogues"].append({**built, "steps": rows})
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
