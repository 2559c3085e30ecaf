"""Robustness tables against planted systems whose losses are known, and a small policy that reads what it is shown."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from llmrec.baselines import Covisitation, Popularity
from llmrec.baselines.covisitation import COUNTS_ONLY
from llmrec.catalogue import Catalogue
from llmrec.config import WorldConfig
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.world import generate_world
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.ranking import illegal_share
from llmrec.pipeline.systems import Policy
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.studies.robustness_table import robustness_table, standard_perturbations
from llmrec.studies.views import Refitted, reworded, under, with_texts
from llmrec.text.hostile import Hostile
from llmrec.text.perturb import DroppedHistory, OtherWording, ShuffledHistory, Typos
from llmrec.text.render import StateRenderer
from llmrec.types import Example, Slate, State
from tests import forked
from tests.cli.tiny import environment, llmrec
from tests.policy.tiny import BASE, byte_tokenizer
from tests.text.conftest import clicks

K = 5
TEXT_ONLY = ("typos 5%", "typos 20%", "wording of shop", "titles renamed", "titles gone")


@pytest.fixture(scope="module")
def data():
    """A world that excludes repeats, its training events, and test events of users with a history."""
    world = generate_world(WorldConfig(domain="film", users=120, items=24, slates_per_user=4), 0).dataset
    manifest = dataclasses.replace(world.manifest, repeat="exclude")
    dataset = Dataset(world.items, world.users, world.events, manifest)
    split = make_split(dataset, "time")
    found = examples(dataset, split, "test")
    kept = [row for row, example in enumerate(found) if len(example.state.history) > 2][:12]
    return dataset, split.train, Examples([found.rows[row] for row in kept], [found.seen[row] for row in kept])


@pytest.fixture(scope="module")
def policy(data):
    torch.manual_seed(0)
    dataset, tokenizer = data[0], byte_tokenizer()
    config = transformers.Qwen3Config(**{**BASE, "vocab_size": len(tokenizer), "max_position_embeddings": 512})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    renderer = StateRenderer(dataset.item_list, tokenizer, domain="film", language="en", max_tokens=150)
    catalogue = Catalogue.from_titles(
        dataset.items["item_id"].to_list(), renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix
    )
    return LanguagePolicy(model, tokenizer, catalogue, renderer, dataset.manifest.repeat)


class Successor:
    """Recommends the item behind the last one of the history; nothing to nobody."""

    def recommend(self, states, k, *, seen=None):
        return [Slate((s.history[-1].item + 1,), (0.0,)) if s.history else Slate((), ()) for s in states]


class Gullible:
    """Recommends item 0, and every item whose title stands in another item's title of the history."""

    def __init__(self, items):
        self.items = items

    def under(self, view):
        return Gullible(view.items)

    def recommend(self, states, k, *, seen=None):
        named = [
            [j for j, item in enumerate(self.items) for i in s.history if i.item != j and item.title in self.text(i)]
            for s in states
        ]
        return [Slate(tuple(dict.fromkeys([*row[:1], 0])), (0.0,) * len({*row[:1], 0})) for row in named]

    def text(self, interaction):
        return self.items[interaction.item].title


def planted(dataset, count=200):
    """Events whose target is the successor of the last item, two to a user."""
    rows = [
        Example(State(f"u{n // 2}", history=clicks(*((n + j) % 20 for j in range(3))), time=n), (n + 2) % 20 + 1)
        for n in range(count)
    ]
    return Examples(rows, [np.array(sorted(r.state.seen()), dtype=np.int64) for r in rows])


def test_the_loss_of_a_planted_system_is_the_share_of_rows_that_lose_what_it_reads(data):
    dataset, rows = data[0], planted(data[0])
    found = robustness_table(
        {"successor": Successor()}, rows, dataset, [DroppedHistory(share=0.4), ShuffledHistory()], k=K
    )
    table = found.tables["successor"]
    assert table.cells["clean"][f"HR@{K}"].mean == 1.0
    for perturbation in (DroppedHistory(share=0.4), ShuffledHistory()):
        seen = perturbation.view([e.state for e in rows], dataset.item_list).states
        last = [s.history[-1].item if s.history else None for s in seen]
        kept = np.mean([now == e.state.history[-1].item for now, e in zip(last, rows, strict=True)])
        cell = table.cells[perturbation.name][f"NDCG@{K}"]
        assert 0.2 < kept < 0.8
        assert cell.mean == pytest.approx(kept)
        assert cell.difference.mean == pytest.approx(kept - 1)
        assert cell.difference.below_zero
        assert table.cells[perturbation.name]["changed"].mean == pytest.approx(1 - kept)
        relative = found.relative["successor"][perturbation.name]
        assert relative.mean == pytest.approx(kept - 1)
        assert relative.low < relative.mean < relative.high < 0


def test_attack_success_counts_the_lists_that_gain_the_promoted_item(data):
    dataset, rows = data[0], planted(data[0])
    attack = Hostile(kind="orders", promoted=22)
    by_default = Hostile(kind="orders", promoted=0)
    cells = robustness_table({"g": Gullible(dataset.item_list)}, rows, dataset, [attack], k=K).tables["g"].cells
    assert {name: cells[attack.name][name].mean for name in ("promoted", "promoted, clean", "attack success")} == {
        "promoted": 1.0,
        "promoted, clean": 0.0,
        "attack success": 1.0,
    }
    cells = robustness_table({"g": Gullible(dataset.item_list)}, rows, dataset, [by_default], k=K).tables["g"].cells
    assert cells[by_default.name]["promoted, clean"].mean == 1.0
    assert cells[by_default.name]["attack success"].mean == 0.0


def test_systems_that_know_no_text_lose_nothing_to_text(data):
    dataset, train, rows = data
    systems = {
        "popularity": Popularity().fit(dataset, train),
        "counts": Covisitation(COUNTS_ONLY).fit(dataset, train),
        "text": Refitted(lambda d: Covisitation().fit(d, train), dataset),
    }
    found = robustness_table(systems, rows, dataset, standard_perturbations("film"), k=K)
    for name, table in found.tables.items():
        assert all(row["illegal"].mean == 0 for row in table.cells.values())
        for perturbation in TEXT_ONLY:
            changed = table.cells[perturbation]["changed"].mean
            if name != "text" or perturbation.startswith("wording"):
                assert changed == 0
            elif perturbation != "titles renamed":  # a title turned about a comma has the same words
                assert changed > 0
    assert found.tables["popularity"].cells["history dropped 50%"]["changed"].mean == 0
    assert found.tables["counts"].cells["history dropped 50%"]["changed"].mean > 0
    assert found.tables["counts"].cells["history shuffled"]["changed"].mean > 0
    assert json.loads(json.dumps(found.to_json()))["promoted_items"].keys() == found.promoted.keys()


def test_a_policy_reads_the_view_and_recommends_legal_items_only(data, policy):
    dataset, rows = data[0], data[2][:6]
    wanted = [DroppedHistory(share=0.5), Typos(rate=0.2), OtherWording(domain="shop"), Hostile(kind="control")]
    systems = {"policy": Policy(policy, 8), "same twice": Mixture.ensemble([policy, policy], depth=8)}
    found = robustness_table(systems, rows, dataset, wanted, k=K, samples=50)
    table = found.tables["policy"]
    assert all(row["illegal"].mean == 0 for row in table.cells.values())
    assert all(table.cells[p.name]["changed"].mean > 0 for p in wanted)
    clean = policy.recommend([e.state for e in rows], K, beams=8, seen=rows.seen)
    hits = [e.target in slate.items_K for e, slate in zip(rows, clean, strict=True)]
    assert table.cells["clean"][f"HR@{K}"].mean == pytest.approx(np.mean(hits))
    for name, row in found.tables["same twice"].cells.items():  # the ensemble sees what its members see
        assert row[f"HR@{K}"].mean == pytest.approx(table.cells[name][f"HR@{K}"].mean)


def test_dropping_the_history_does_not_make_seen_items_legal(data, policy):
    dataset, _, rows = data
    shown = Policy(policy, dataset.n_items)
    assert policy.repeat == "exclude"
    assert any(len(seen) for seen in rows.seen)
    states = DroppedHistory(share=1.0).view([e.state for e in rows], dataset.item_list).states
    slates = shown.recommend(states, dataset.n_items, seen=rows.seen)
    assert illegal_share(slates, dataset.n_items, rows.seen) == 0


@pytest.mark.parametrize("perturbation", standard_perturbations("film"), ids=lambda p: p.name)
def test_prompts_are_of_the_view_within_the_budget_and_answers_are_the_same(data, policy, perturbation):
    dataset, _, rows = data
    states = [e.state for e in rows]
    view = perturbation.view(states, dataset.item_list)
    seen = reworded(policy, view)
    assert (seen.model, seen.catalogue, seen.repeat) == (policy.model, policy.catalogue, policy.repeat)
    before, after = policy.renderer.prompts(states), seen.renderer.prompts(view.states)
    assert before != after
    assert all(len(ids) <= 150 for ids in seen.renderer.token_ids_many(view.states))
    if isinstance(perturbation, OtherWording):
        assert all("Next product" in prompt and "Next film" not in prompt for prompt in after)
    else:
        assert all(prompt.endswith("Next film:") for prompt in after)
    if isinstance(perturbation, (DroppedHistory, ShuffledHistory)):
        assert seen is policy


def test_a_mixture_is_seen_through_its_policy(data, policy):
    dataset, train, rows = data
    counts = Covisitation(COUNTS_ONLY).fit(dataset, train)
    view = Typos(rate=0.5).view([e.state for e in rows], dataset.item_list)
    mixed = under(Mixture([policy, counts.score], [0.3, 0.7]), view)
    assert (mixed.weights_GP.tolist(), mixed.parts[1]) == ([[0.3, 0.7]], counts.score)
    assert mixed.parts[0].renderer.wording.items == view.items
    assert under(counts, view) is counts


def test_texts_put_into_a_data_set_change_nothing_else(data):
    dataset = data[0]
    assert with_texts(dataset, dataset.item_list) is dataset
    other = with_texts(dataset, Typos(rate=0.5).view([], dataset.item_list).items)
    assert other.items["title"].to_list() != dataset.items["title"].to_list()
    assert other.items.drop("title", "description").equals(dataset.items.drop("title", "description"))
    assert other.events.equals(dataset.events)


def test_what_cannot_be_compared_is_refused(data):
    dataset, _, rows = data
    with pytest.raises(RequestError, match="called 'typos 10%'"):
        robustness_table({}, rows, dataset, [Typos(), Typos(seed=1)])
    with pytest.raises(DataError, match="no held-out event"):
        robustness_table({}, Examples([], []), dataset, [Typos()])


@pytest.mark.slow
def test_the_script_prints_tables_and_refuses_what_is_no_run(tmp_path):
    from tests.cli.tiny import arguments

    cache, run = tmp_path / "cache", tmp_path / "run"
    llmrec("run", "--dataset", "world", "--out", run, *arguments(), cache=cache)

    def script(*parts):
        command = [sys.executable, "eval/robustness.py", *map(str, parts)]
        return forked.run(command, env=environment(cache))

    done = script(run, "--test-events", 20, "--k", 5, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["tables"].keys() == {"popularity", "covisitation, counts", "covisitation", "SFT", "run"}
    assert all(
        row["illegal"]["mean"] == 0 for table in figures["tables"].values() for row in table["systems"].values()
    )
    bad = script(tmp_path)
    assert bad.returncode == 2
    assert "is not a run folder" in bad.stderr
    assert "Traceback" not in bad.stderr
