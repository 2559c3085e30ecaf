"""Examples a CPU-second of the warm start on timelines against one row an example, on the same examples.

    python eval/benchmark_timelines.py MODEL --dataset movielens --source FOLDER --windows 20 50 --json FILE

For each length T some windows of T choices are drawn as in a run. Their examples are learnt as rows (batches of
`--batch` rows of about one length, the head for labelled columns alone, as under `sft.layout: rows`) and packed, by
the loss over the vocabulary and over legal tokens: forward and backward of the model with LoRA on all linear
layers. Sides run in turn in one process, `--rounds` times; a figure is CPU time of the process, its median over
rounds. The losses of rows and of packed ones over the vocabulary stand beside: one number. `--layers` keeps the
model's first layers only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from llmrec.cli.guard import guarded

SIDES = ("rows", "packed, vocabulary", "packed, catalogue")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hub id or a folder")
    parser.add_argument("--dataset", default="movielens")
    parser.add_argument("--source", help="the data set's folder; a generated world needs none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--windows", nargs="+", type=int, default=(20, 50), metavar="T")
    parser.add_argument("--count", type=int, default=1, help="windows of each length")
    parser.add_argument("--batch", type=int, default=8, help="rows at once where each example is one")
    parser.add_argument("--layers", type=int, help="keep the first layers of the model only")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the frozen weights")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args(arguments)


def loss_of_rows(model: Any, rows: Sequence[Any], batch: int) -> float:
    """Learns rows of about one length together; the sum of their losses."""
    import torch
    from torch.nn.functional import cross_entropy, pad

    total = 0.0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        width = max(len(row.input_ids) for row in some)
        ids, labels = (
            torch.stack([pad(torch.tensor(values), (0, width - len(values)), value=fill) for values in table])
            for table, fill in (([row.input_ids for row in some], 0), ([row.labels() for row in some], -100))
        )
        columns = (labels[:, 1:] != -100).any(0).nonzero().squeeze(1)
        logits = model(input_ids=ids, logits_to_keep=columns, use_cache=False).logits.flatten(0, 1).float()
        loss = cross_entropy(logits, labels[:, columns + 1].flatten(), reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total


def loss_of_packed(model: Any, windows: Sequence[Sequence[Any]], index: Any) -> tuple[float, int]:
    """Learns windows packed; the sum of their losses, and the tokens that were read."""
    from llmrec.policy.modes import base_model
    from llmrec.training.packed import collate, pack
    from llmrec.training.trl_seam.sft import predictions

    packed = pack([[window] for window in windows], index=index)
    total = 0.0
    for element in packed.data:
        loss = predictions(collate([element]), index).answer(base_model(model))["loss"]
        loss.backward()
        total += float(loss.detach())
    return total, packed.packing.packed


def measure(
    model: Any, windows: Sequence[Sequence[Any]], index: Any, batch: int, rounds: int
) -> list[dict[str, Any]]:
    """A row a side: CPU seconds, examples a CPU-second, tokens and loss of the same examples.

    Args:
        model: a PEFT model.
        windows: rows of each window.
        index: the catalogue's prefixes.
        batch: rows at once.
        rounds: over all sides in turn.
    """
    rows = sorted((row for window in windows for row in window), key=lambda row: len(row.input_ids))
    tokens = sum(len(row.input_ids) for row in rows)
    work: dict[str, Callable[[], tuple[float, int]]] = {
        "rows": lambda: (loss_of_rows(model, rows, batch), tokens),
        "packed, vocabulary": lambda: loss_of_packed(model, windows, None),
        "packed, catalogue": lambda: loss_of_packed(model, windows, index),
    }
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    found: dict[str, tuple[float, int]] = {}
    for _ in range(rounds):
        for side in SIDES:
            start = time.process_time()
            found[side] = work[side]()
            seconds[side].append(time.process_time() - start)
            model.zero_grad(set_to_none=True)
    taken = {side: statistics.median(seconds[side]) for side in SIDES}
    return [
        {
            "side": side,
            "examples": len(rows),
            "tokens": found[side][1],
            "CPU seconds": taken[side],
            "examples a CPU-second": len(rows) / taken[side],
            "times rows": taken["rows"] / taken[side],
            "loss a row": found[side][0] / len(rows),
        }
        for side in SIDES
    ]


def main() -> None:
    options = parse()
    import dataclasses

    import torch

    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.config import RunConfig
    from llmrec.dataset.timelines import timelines
    from llmrec.files import write_json
    from llmrec.pipeline.base_model import make_renderer
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.recipes import overrides_of
    from llmrec.pipeline.work import Work
    from llmrec.policy.loading import load_causal_lm, load_tokenizer
    from llmrec.screen import results
    from llmrec.seeding import numpy_stream
    from llmrec.training.lora import make_lora
    from llmrec.training.sft_data import RowEncoder
    from llmrec.training.timelines import windows

    torch.set_num_threads(options.threads)
    given = {"data.dataset": options.dataset, "data.source": options.source, "model.name": options.model}
    config = RunConfig.read(None, overrides_of(given, [f"model.dtype={options.dtype}", *options.set]))
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(config, Work(Path(folder) / "work"))
    tokenizer, model = load_tokenizer(options.model), load_causal_lm(options.model, dtype=options.dtype)
    if options.layers:
        model.get_decoder().layers = model.get_decoder().layers[: options.layers]
        model.config.num_hidden_layers = options.layers
    renderer = make_renderer(config, data, tokenizer)
    items = data.dataset.item_list
    names = [item.item_id for item in items]
    catalogue = Catalogue.from_titles(names, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
    encoder = RowEncoder(items, catalogue, renderer, tokenizer)
    users = timelines(data.dataset, data.split, history_events=config.data.history_events)
    trained = make_lora(model, config.sft.lora)
    rows = []
    for length in options.windows:
        settings = dataclasses.replace(config.sft, window=length)
        drawn = windows(users, renderer, settings, numpy_stream(config.seed, "bench", length))
        whole = (window for window in drawn if len(window) == length)
        chosen = [encoder.next_items(next(whole)) for _ in range(options.count)]
        for row in measure(trained, chosen, catalogue.index, options.batch, options.rounds):
            rows.append({"T": length, **row})
            results().print(str(rows[-1]))
    if options.json:
        write_json(options.json, {"model": options.model, "layers": options.layers, "rows": rows})


if __name__ == "__main__":
    guarded(main)()
