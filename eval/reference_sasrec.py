"""SASRec here against RecBole's SASRec: the same training events, the same rows, sizes, loss and stopping rule.

    python eval/reference_sasrec.py write data/amazon reference     # RecBole's atomic files
    python eval/reference_sasrec.py theirs reference                # a Python with RecBole 1.2, pandas < 3
    python eval/reference_sasrec.py ours data/amazon reference
    python eval/reference_sasrec.py compare reference

DATA is a folder written by `llmrec data import`, REFERENCE a folder for files and figures. Both sides train on the
events of the training part alone, stop by NDCG@10 on the validation rows and rank all items for the test rows once,
repeats allowed. RecBole makes a row of every prefix of a sequence; here one row predicts at all its places.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

from llmrec.cli.guard import guarded

NAME = "reference"
SIZES = {"hidden": 32, "layers": 1, "heads": 1, "history": 10, "dropout": 0.3}
FITTING = {"learning_rate": 5e-3, "batch_size": 256, "epochs": 25, "patience": 5}


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("write", "theirs", "ours", "compare"))
    parser.add_argument("folders", type=Path, nargs="+", help="[DATA] REFERENCE")
    parser.add_argument("--split", choices=("time", "leave-last-out", "given"), default="given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    steps = {"write": write, "theirs": theirs, "ours": ours, "compare": compare}
    wanted = 2 if options.step in ("write", "ours") else 1
    if len(options.folders) != wanted:
        parser.error(f"{options.step} needs {'DATA REFERENCE' if wanted == 2 else 'REFERENCE'}")
    steps[options.step](*options.folders, options)


def write(data: Path, out: Path, options: argparse.Namespace) -> None:
    """Atomic files: every prefix of the training sequences, the rows of valid and test, and all items."""
    from llmrec.baselines.base import positives
    from llmrec.files import write_text

    dataset, split, valid, test = _parts(data, options.split)
    length = SIZES["history"]
    rows: dict[str, list[tuple[str, list[int], int]]] = {
        part: [
            (str(e.state.user_id), [i.item for i in e.state.history][-int(length) :], e.target)
            for e in found
            if e.state.history  # a RecBole row needs a past
        ]
        for part, found in (("valid", valid), ("test", test))
    }
    rows["train"] = []
    for user, items in positives(dataset, split.train).group_by("user", maintain_order=True).agg("item").iter_rows():
        rows["train"] += [(f"t{user}", items[max(0, n - int(length)) : n], items[n]) for n in range(1, len(items))]
    folder = out / NAME
    for part, found in rows.items():
        lines = [f"{user}\t{' '.join(map(str, past))}\t{target}" for user, past, target in found]
        write_text(
            folder / f"{NAME}.{part}.inter",
            "user_id:token\titem_id_list:token_seq\titem_id:token\n" + "\n".join(lines) + "\n",
        )
        print(f"{part}: {len(lines)} rows")
    items = "\n".join(map(str, range(dataset.n_items)))
    write_text(folder / f"{NAME}.item", f"item_id:token\n{items}\n")


def theirs(out: Path, options: argparse.Namespace) -> None:
    """RecBole's SASRec on those files."""
    import numpy as np

    sys.modules.setdefault("ray", types.SimpleNamespace(tune=None))  # type: ignore[arg-type]  # tunes nothing here
    for old, new in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        setattr(np, old, new)  # RecBole 1.2 knows NumPy by the names that NumPy 2 dropped
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_logger, init_seed

    for seed in options.seeds:
        start = time.process_time()
        config = Config(model="SASRec", dataset=NAME, config_dict=_recbole_settings(out, seed))
        init_seed(seed, True)
        init_logger(config)
        parts = data_preparation(config, create_dataset(config))
        model = SASRec(config, parts[0].dataset).to(config["device"])
        trainer = Trainer(config, model)
        _, best = trainer.fit(parts[0], parts[1], saved=True, show_progress=False, verbose=True)
        # torch 2.6 loads weights alone unless told otherwise; RecBole's checkpoint holds its configuration too
        state = torch.load(trainer.saved_model_file, weights_only=False)
        model.load_state_dict(state["state_dict"])
        found = trainer.evaluate(parts[2], load_best_model=False)
        _keep(out / f"theirs-{seed}.json", found, best, state["epoch"] + 1, time.process_time() - start)
    print(f"RecBole {recbole.__version__}, torch {torch.__version__}")


def _recbole_settings(out: Path, seed: int) -> dict[str, Any]:
    return {
        "data_path": str(out),
        "checkpoint_dir": str(out / "checkpoints"),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "MAX_ITEM_LIST_LENGTH": SIZES["history"],
        "hidden_size": SIZES["hidden"],
        "inner_size": 4 * int(SIZES["hidden"]),
        "n_layers": SIZES["layers"],
        "n_heads": SIZES["heads"],
        "hidden_dropout_prob": SIZES["dropout"],
        "attn_dropout_prob": SIZES["dropout"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "learning_rate": FITTING["learning_rate"],
        "train_batch_size": FITTING["batch_size"],
        "eval_batch_size": 256,
        "epochs": FITTING["epochs"],
        "stopping_step": FITTING["patience"],
        "eval_args": {"group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 6,
        "use_gpu": False,
        "seed": seed,
        "state": "INFO",
    }


def ours(data: Path, out: Path, options: argparse.Namespace) -> None:
    """SASRec of this package on the same events and rows."""
    import numpy as np

    from llmrec.baselines.neural import SASRecSettings
    from llmrec.baselines.neural.recommenders import SASRec
    from llmrec.evaluation.ranking import score_metrics

    dataset, split, valid, test = _parts(data, options.split)
    for seed in options.seeds:
        start = time.process_time()
        model = SASRec(SASRecSettings(**SIZES, **FITTING), seed=seed)  # type: ignore[arg-type]
        model.fit_until(dataset, split.train, valid.rows)
        rows = [e for e in test if e.state.history]
        found = score_metrics(model.score([e.state for e in rows]), np.array([e.target for e in rows]), k=(10,)).means
        figures = {"hit@10": found["HR@10"], "ndcg@10": found["NDCG@10"]}
        best = {"ndcg@10": max(model.record.valid_ndcg)}
        _keep(out / f"ours-{seed}.json", figures, best, model.record.kept, time.process_time() - start)


def compare(out: Path, options: argparse.Namespace) -> None:
    """Means over the seeds of both sides, and the ratio."""
    from llmrec.errors import RunError
    from llmrec.files import read_json

    mean: dict[str, dict[str, float]] = {}
    for side in ("ours", "theirs"):
        files = sorted(out.glob(f"{side}-*.json"))
        if not files:
            raise RunError(f"{out} has no figures of {side}; run that step first.")
        found = [read_json(file)["test"] for file in files]
        mean[side] = {key: sum(f[key] for f in found) / len(found) for key in ("hit@10", "ndcg@10")}
        print(f"{side:7} {len(files)} seeds  HR@10 {mean[side]['hit@10']:.4f}  NDCG@10 {mean[side]['ndcg@10']:.4f}")
    print(f"ratio of NDCG@10: {mean['ours']['ndcg@10'] / mean['theirs']['ndcg@10']:.3f}")


def _parts(data: Path, split_name: str) -> tuple[Any, Any, Any, Any]:
    from llmrec.dataset.examples import examples
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset

    dataset = Dataset.load(data)
    split = make_split(dataset, split_name)  # type: ignore[arg-type]
    kept = {"history_events": int(SIZES["history"])}
    return dataset, split, examples(dataset, split, "valid", **kept), examples(dataset, split, "test", **kept)


def _keep(path: Path, test: Any, valid: Any, epochs: int, seconds: float) -> None:
    from llmrec.files import write_json

    found = {"test": dict(test), "valid": dict(valid), "epochs": epochs, "cpu_seconds": round(seconds, 1)}
    write_json(path, found)
    print(path.name, json.dumps(found))


if __name__ == "__main__":
    main()
