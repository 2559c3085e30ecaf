"""Does a mixture of policy and co-visitation rank held-out events better than either alone?

    python eval/fusion.py runs/ml --json fusion.json

RUN is a run folder; the data set is the one in RUN.work or --data. No model is trained: co-visitation counts the
training period, its settings and the weight of the mixture are chosen on the validation period, and the tables are of
the test period, with paired bootstrap intervals clustered by user.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="data set folder, where RUN.work is not there")
    parser.add_argument("--valid-events", type=int, default=2000, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--test-events", type=int, default=2000, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--depth", type=int, help="candidates from each side; by default 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.baselines import Covisitation
    from llmrec.baselines.covisitation import FIXED_GRID
    from llmrec.config import RunConfig
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset
    from llmrec.errors import DataError, RequestError
    from llmrec.evaluation.offline import rank_systems
    from llmrec.export import read_bundle
    from llmrec.files import write_json
    from llmrec.pipeline.data import RunData
    from llmrec.pipeline.sft import targets
    from llmrec.policy.mixture import Mixture
    from llmrec.policy.mixture_weights import fit
    from llmrec.recommender import default_data
    from llmrec.screen import results

    policy = read_bundle(options.run).policy
    place = options.data or default_data(options.run)
    if place is None:
        raise DataError(f"{options.run}.work holds no data set; give its folder with --data.")
    dataset, config = Dataset.load(place), RunConfig.read(options.run / "config.yaml")
    if list(dataset.items["item_id"]) != list(policy.catalogue.item_ids):
        raise RequestError(
            f"The items of {place} are not those of the run; give the data set of the run with --data."
        )
    split = make_split(dataset, config.data.split, config.data.valid_fraction, config.data.test_fraction)
    data = RunData(dataset, split)
    valid = targets(config, data, "valid", options.valid_events or None)
    test = targets(config, data, "test", options.test_events or None)
    covisitation = Covisitation(seed=options.seed)
    covisitation.fit_selected(dataset, split.train, valid.rows, seen=valid.seen, grid=FIXED_GRID)
    states, chosen = [e.state for e in valid], [e.target for e in valid]
    top = min(10, dataset.n_items)
    cutoffs = sorted({1, min(5, top), top})
    fitted = fit(Mixture([policy, covisitation.score], depth=options.depth), states, chosen, k=top, seen=valid.seen)
    weight = float(fitted.mixture.weights_GP[0, 0])
    tried = {float(own): float(ndcg) for own, ndcg in zip(fitted.grid_WP[:, 0], fitted.ndcg_W, strict=True)}
    systems = {
        "policy": policy,
        "covisitation": covisitation,
        "fusion": fitted.mixture,
    }
    test_states = [e.state for e in test]
    shown = {name: Given(system.recommend(test_states, top, seen=test.seen)) for name, system in systems.items()}
    figures = {}
    for reference in ("policy", "covisitation"):
        table = rank_systems(shown, test, dataset, k=cutoffs, reference=reference, seed=options.seed)
        figures[f"against {reference}"] = table.to_json()
        results().print(
            table.select([f"{m}@{k}" for m in ("HR", "NDCG") for k in cutoffs if (m, k) != ("NDCG", 1)]).to_rich()
        )
        gain = table.cells["fusion"][f"NDCG@{top}"].difference
        results().print(
            f"fusion - {reference}, NDCG@{top}: {gain.mean:+.4f} (95%: {gain.low:+.4f} to {gain.high:+.4f})"
        )
    curve = ", ".join(f"{own:g}: {value:.4f}" for own, value in sorted(tried.items()))
    results().print(f"policy's weight {weight:g} by NDCG@{top} on {len(valid)} validation events ({curve})")
    if options.json:
        settings = {"weight": weight, "curve": {str(own): ndcg for own, ndcg in sorted(tried.items())}}
        counts = {"valid_events": len(valid), "test_events": len(test), "seed": options.seed}
        write_json(options.json, settings | counts | {"covisitation": asdict(covisitation.settings)} | figures)


class Given:
    """Slates that are computed already, in the place of the system that gave them."""

    def __init__(self, slates):
        self.slates = slates

    def recommend(self, states, k, *, seen=None):
        """The slates."""
        return self.slates


if __name__ == "__main__":
    main()
