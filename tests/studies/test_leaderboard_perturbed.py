"""A table under perturbed states: its own systems and figures, nothing made by surprise, texts reach what reads them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrec.baselines import Covisitation
from llmrec.baselines.covisitation import CovisitationSettings
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.registry import BASELINES, BaselineSpec
from llmrec.errors import RunError
from llmrec.evaluation.offline import list_figures
from llmrec.files import read_json
from llmrec.pipeline.work import Unfinished
from llmrec.studies.robustness_table import robustness_table
from llmrec.studies.table.board import answers
from llmrec.studies.table.entries import READ_TEXT, BaselineEntry
from llmrec.studies.table.mixtures import MixtureEntry
from llmrec.studies.table.perturbed import as_kept, finished_rows, run_perturbed
from llmrec.studies.table.policies import ImprovedEntry, PolicyEntry, Trainings
from llmrec.studies.table.protocol import open_table, protocol_of
from llmrec.studies.table.scores import ScorePart
from llmrec.studies.views import under, with_texts
from llmrec.text.perturb import OtherWording, Typos
from tests import forked
from tests.cli.tiny import environment
from tests.overrides import given
from tests.studies.test_leaderboard import TINY, films

SCRIPT = Path(__file__).parents[2] / "eval" / "robustness.py"
COMMAND = "python eval/table.py --out OUT"
CLASSIC = ("popularity", "covisitation", "interpolation", "content")
FORMS = ("LM", "RL", "fused", "ensemble", "both", "mixed")
MISTYPED = Typos(rate=0.5)


def entries(out: Path, *, budget=1.0, seeds=(0, 1)):
    policy = Trainings("policy", out, given(*TINY))
    near, teacher = ScorePart("covisitation-fixed", out, budget), ScorePart("interpolation", out, budget)
    sharp = dataclasses.replace(near, powers=(1.0, 2.0, 3.0))
    warm = PolicyEntry("LM", "", policy)
    return {name: BaselineEntry(BASELINES[name], budget) for name in CLASSIC} | {
        "LM": warm,
        "RL": ImprovedEntry("RL", "", warm),
        "fused": MixtureEntry("fused", "", out, (policy,), (sharp,)),
        "ensemble": MixtureEntry("ensemble", "", out, (policy,), seeds=seeds),
        "both": MixtureEntry("both", "", out, (policy,), (sharp,), seeds),
        "mixed": MixtureEntry("mixed", "", out, (policy, policy), (near, teacher), seeds, banded=True),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished table: its folder, bench, kept answers, and the rows as they are found again."""
    place = tmp_path_factory.mktemp("table")
    out = place / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMREC_CACHE", str(place / "cache"))
        bench = open_table(protocol_of("movielens-100k"), films(place / "ml"), out)
        given, failed = answers(bench, entries(out, budget=0.5), out, range(1))
        assert not failed
        before = files(out)
        found = finished_rows(bench, entries(out, seeds=(0,)), out, COMMAND)
        assert files(out) == before, "reading changes nothing"
        yield out, bench, given, *found


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_clean_figures_are_those_of_the_table(made):
    _, bench, given, rows, systems = made
    assert list(systems) == [*CLASSIC, *FORMS]
    perturbations = [MISTYPED, OtherWording(domain="shop")]
    found = robustness_table(systems, bench.test, bench.dataset, perturbations, places=20, samples=20)
    targets = [e.target for e in bench.test]
    for name in systems:
        figures = list_figures(given[name][0].items_BK, targets, bench.dataset.n_items, [10])
        clean = found.tables[name].cells["clean"]
        assert clean["HR@10"].mean == figures["HR@10"].mean()
        assert clean["NDCG@10"].mean == figures["NDCG@10"].mean()
        kept_BK = rows[name].answer.items_BK
        assert as_kept(found, name, kept_BK, bench.test)
        assert not as_kept(found, name, np.full_like(kept_BK, -1), bench.test)
        assert all(row["illegal"].mean == 0 for row in found.tables[name].cells.values())
    changed = {
        name: [table.cells[perturbation.name]["changed"].mean for perturbation in perturbations]
        for name, table in found.tables.items()
    }
    assert changed["popularity"] == [0, 0]
    assert changed["content"][0] > changed["content"][1] == 0
    assert changed["LM"][1] > changed["LM"][0] == 0, "it reads item ids, and its wording"


def test_whatever_reads_texts_is_fitted_anew_and_nothing_else(made):
    _, bench, *_ = made
    dataset, train = bench.dataset, bench.after.split.train
    view = MISTYPED.view([e.state for e in bench.test], dataset.item_list)
    states = view.states[:8]
    neural = {"ncf", "gru4rec", "sasrec", "sasrec-text"}
    for name, spec in BASELINES.items():
        if not spec.available or name in neural:
            continue
        pair = [
            # left to itself, interpolation may choose a co-visitation of counts alone
            Interpolation(CovisitationSettings()) if name.startswith("interpolation") else spec.make(spec.settings, 0)
            for _ in range(2)
        ]
        one_BN, other_BN = (
            model.fit(data, train).score(states)
            for model, data in zip(pair, (dataset, with_texts(dataset, view.items)), strict=True)
        )
        assert np.array_equal(one_BN, other_BN) == (name not in READ_TEXT), name


def test_settings_stay_when_texts_change(made, monkeypatch):
    out, bench, _, _, systems = made

    def never(*_, **__):
        raise AssertionError("chosen again")

    monkeypatch.setattr(BaselineSpec, "chosen", never)
    monkeypatch.setattr("llmrec.studies.table.mixtures.fit_forms", never)
    states = [e.state for e in bench.test][:8]
    view = MISTYPED.view(states, bench.dataset.item_list)
    train, dataset = bench.after.split.train, with_texts(bench.dataset, view.items)
    for name in ("covisitation", "content", "interpolation"):
        first, again = systems[name].system, systems[name].under(view)
        settings = first.covisitation.settings if name == "interpolation" else first.settings
        assert settings == (again.covisitation.settings if name == "interpolation" else again.settings)
        assert np.array_equal(again.score(states), type(first)(settings, seed=0).fit(dataset, train).score(states))
    kept = read_json(out / "mixtures" / "policy-covisitation-fixed-unbanded" / "weights" / "weights.json")
    chosen = CovisitationSettings(**kept["chosen"][0])
    counted = Covisitation(chosen).fit(dataset, train)
    for name in ("fused", "both"):
        first, again = systems[name], under(systems[name], view)
        assert np.array_equal(again.weights_GP, first.weights_GP)
        assert again.depth == first.depth
        assert np.array_equal(again.parts[1](states), counted.distribution(states, kept["forms"][0]["power"]))
        assert all(policy.renderer.wording.items == view.items for policy in again.policies)
        assert len(again.policies) == (1 if name == "fused" else 2)
    first, again = systems["mixed"], under(systems["mixed"], view)
    assert np.array_equal(again.weights_GP, first.weights_GP)
    assert np.array_equal(again.parts[2](states), counted.distribution(states))
    settings = Interpolation().fit(bench.dataset, train).covisitation.settings
    assert np.array_equal(again.parts[3](states), Interpolation(settings).fit(dataset, train).distribution(states))
    assert len(again.policies) == 4
    assert all(policy.renderer.wording.items == view.items for policy in again.policies)


def test_what_is_not_there_is_refused_with_the_command_that_makes_it(made):
    out, bench, *_ = made
    rows = {name: BaselineEntry(BASELINES[name]) for name in ("popularity", "ease")}
    with pytest.raises(RunError, match=r"Row 'ease' is not finished in .*make it with .* --only ease$"):
        finished_rows(bench, rows, out, COMMAND)
    assert list(finished_rows(bench, rows, out, COMMAND, strict=False)[1]) == ["popularity"]
    with pytest.raises(Unfinished, match="'ease'"):
        finished_rows(bench, {"ease": rows["ease"]}, out, COMMAND, strict=False)
    stage = out / "policy" / "after-0" / "sft"
    stage.rename(stage.with_name("away"))
    try:
        lm = {"LM, long": entries(out)["LM"]}
        (out / "rows" / "LM, long").symlink_to(out / "rows" / "LM")
        with pytest.raises(
            Unfinished, match=r"row 'LM, long' .*after-0/sft is not there.*remove.* --only 'LM, long'$"
        ):
            finished_rows(bench, lm, out, COMMAND)
    finally:
        stage.with_name("away").rename(stage)
    with pytest.raises(Unfinished, match="holds no table of movielens-100k"):
        run_perturbed(protocol_of("movielens-100k"), out.with_name("elsewhere"), source=out.with_name("ml"))
    assert not out.with_name("elsewhere").exists()


def test_the_command(made, tmp_path):
    out, bench, *_ = made

    def run(*arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return forked.run(command, env=environment(tmp_path))

    table = ("--table", out, "--dataset", "movielens-100k", "--source", out.with_name("ml"))
    done = run(*table, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    figures = read_json(tmp_path / "figures.json")
    assert list(figures["tables"]) == ["popularity", "covisitation", "interpolation"]
    assert "Row 'LM + RL' is not finished" in " ".join(done.stderr.split())
    assert figures["as in the table"] == dict.fromkeys(figures["tables"], True)
    assert (figures["events"], figures["test rows"]) == (len(bench.test), len(bench.test))
    for arguments, said in (
        ((tmp_path, *table), "Give run folders or a table's folder as --table"),
        ((*table, "--only", "ease"), "--only ease"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert said in " ".join(refused.stderr.split())
        assert "Traceback" not in refused.stderr
