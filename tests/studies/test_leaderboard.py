"""The table: rows are measured once and kept, figures are means over seeds, claims are paired, bad input is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmrec.baselines.likeness import EmbeddingProfile
from llmrec.baselines.neural import GRU4RecSettings
from llmrec.baselines.neural.training import Trainer
from llmrec.baselines.registry import BASELINES
from llmrec.config import ModelConfig
from llmrec.errors import ConfigError, RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.files import read_json
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.mixture import Items, Mixture
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.studies.table import entries as entries_module
from llmrec.studies.table import policies as policies_module
from llmrec.studies.table.board import answers, measure
from llmrec.studies.table.entries import Answer, BaselineEntry, bench_key
from llmrec.studies.table.mixtures import MixtureEntry
from llmrec.studies.table.policies import ImprovedEntry, PolicyEntry, Trainings, UntrainedEntry
from llmrec.studies.table.protocol import PROTOCOLS, open_table, protocol_of
from llmrec.studies.table.roster import (
    LM,
    PRETRAINED,
    PRETRAINED_FUSED,
    PRETRAINED_NETWORKS,
    PRETRAINED_RL,
    RL,
    UNPROFILED,
    UNTRAINED,
    roster,
)
from llmrec.studies.table.scores import ScorePart
from llmrec.studies.table.writing import write
from tests import forked
from tests.overrides import given

SCRIPT = Path(__file__).parents[2] / "eval" / "table.py"
TINY = (
    "model.nano_hidden=32",
    "model.nano_layers=1",
    "model.nano_vocabulary=300",
    "model.nano_pretrain_sequences=16",
    "sft.examples=48",
    "sft.teacher.epochs=1",
    "sft.save_every=2",
    "simulator.epochs=1",
    "ppo.steps=2",
    "ppo.prompts=4",
    "ppo.draws=4",
    "ppo.save_every=1",
    "gate.users=8",
    "gate.events=20",
)


def films(folder: Path, users=40, items=24) -> Path:
    """The layout of MovieLens-100K: each user watches items one after another round a circle, from some start."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = "".join(f"{n + 1}|Film number {n} (1990)|01-Jan-1990|||{'|'.join('0' * 19)}\n" for n in range(items))
    (folder / "u.item").write_text(names, encoding="latin-1")
    (folder / "u.user").write_text("".join(f"{u + 1}|{20 + u}|F|writer|1\n" for u in range(users)))
    lines = []
    for user in range(users):
        start, time = int(rng.integers(items)), int(rng.integers(0, 10**6))
        for step in range(10):
            lines.append(f"{user + 1}\t{(start + step) % items + 1}\t4\t{time + 40_000 * step}\n")
    (folder / "u.data").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    place = tmp_path_factory.mktemp("table")
    return open_table(protocol_of("movielens-100k"), films(place / "ml"), place / "out")


def test_what_is_learnt_ends_before_what_is_ranked(bench):
    data, rows = bench.rows("before")
    assert data.split.train["time"].max() < min(e.state.time for e in rows)
    data, rows = bench.rows("after")
    assert data.split.train["time"].max() < min(e.state.time for e in rows)
    assert data.split.train.height == bench.before.split.until("valid").height


def test_fitted_once_the_test_rows_are_ranked_by_what_knows_the_training_part_alone(bench, tmp_path):
    """The rows are the same, what is learnt from ends earlier, and a policy has one folder for both moments."""
    protocol = dataclasses.replace(bench.protocol, refit=False)
    once = open_table(protocol, films(tmp_path / "ml"), tmp_path / "out")
    assert [(e.state.user_id, e.target) for e in once.test] == [(e.state.user_id, e.target) for e in bench.test]
    assert once.after.split.train.equals(bench.before.split.train)
    assert (once.fitting("after"), bench.fitting("after")) == ("before", "after")
    assert bench_key(once) != bench_key(bench)
    counts = Counter(once.dataset.item_index[item] for item in bench.before.split.train["item_id"])
    answer = BaselineEntry(BASELINES["popularity"]).answer(once, 0, Work(tmp_path / "row"))
    for items, seen in zip(answer.items_BK, once.test.seen, strict=True):
        best = max(count for item, count in counts.items() if item not in seen)
        assert counts[int(items[0])] == best


def test_within_a_span_nothing_has_an_order(tmp_path):
    """The same log with its times rounded down: states hold what lies in earlier spans, by item where they share one."""
    folder, span = films(tmp_path / "ml"), 100_000  # two or three films a span
    protocol = protocol_of("movielens-100k")
    plain = open_table(protocol, folder, tmp_path / "out")
    coarse = open_table(dataclasses.replace(protocol, span=span), folder, tmp_path / "out")
    assert bench_key(plain) != bench_key(coarse)
    assert set((coarse.after.split.train["time"] % span).to_list()) == {0}
    assert coarse.after.split.train["item_id"].to_list() == plain.after.split.train["item_id"].to_list()
    shorter = 0
    for one, other in zip(plain.test, coarse.test, strict=True):
        assert (one.target, one.state.time // span * span) == (other.target, other.state.time)
        kept = [(i.time // span * span, i.item) for i in one.state.history if i.time // span < one.state.time // span]
        assert [(i.time, i.item) for i in other.state.history] == sorted(kept)
        shorter += len(kept) < len(one.state.history)
    assert shorter


def test_a_finished_row_is_not_measured_again(bench, tmp_path, monkeypatch):
    entry = BaselineEntry(BASELINES["covisitation-counts"])
    first = entry.answer(bench, 0, Work(tmp_path / "row"))
    assert first.items_BK.shape == (len(bench.test), 20)
    assert first.facts["tried"] == first.facts["grid"] == len(entry.spec.grid)

    def never(*_):
        raise AssertionError("fitted again")

    again = BaselineEntry(dataclasses.replace(entry.spec, make=never)).answer(bench, 0, Work(tmp_path / "row"))
    assert np.array_equal(first.items_BK, again.items_BK)
    with pytest.raises(AssertionError, match="fitted again"):
        BaselineEntry(dataclasses.replace(entry.spec, make=never)).answer(bench, 1, Work(tmp_path / "row"))
    monkeypatch.setattr(entries_module, "VERSION", 99)
    with pytest.raises(AssertionError, match="fitted again"):
        BaselineEntry(dataclasses.replace(entry.spec, make=never)).answer(bench, 0, Work(tmp_path / "row"))


def test_the_circle_and_means_over_seeds_by_hand(bench, tmp_path):
    found, failed = answers(
        bench, {n: BaselineEntry(BASELINES[n]) for n in ("popularity", "covisitation")}, tmp_path, range(3)
    )
    assert not failed
    targets = np.array([e.target for e in bench.test])
    right = np.repeat(targets[:, None], 20, axis=1)
    right[:, 1:] = -1
    wrong = np.full_like(right, -1)
    late = wrong.copy()
    late[:, 9] = targets
    facts = {"settings": {}}
    found["by hand"] = [Answer(right, facts), Answer(wrong, facts), Answer(late, facts)]
    board = measure(bench, found, None, pairs=[("hand", "by hand", "covisitation"), ("none", "by hand", "absent")])
    cell = board.main.cells["by hand"]["NDCG@10"]
    assert cell.mean == pytest.approx((1 + 0 + 1 / np.log2(11)) / 3)
    assert board.main.cells["by hand"]["HR@5"].mean == pytest.approx(1 / 3)
    assert board.facts["by hand"]["by_seed"] == pytest.approx([1.0, 0.0, 1 / np.log2(11)])
    assert board.main.cells["covisitation"]["HR@5"].mean > board.main.cells["popularity"]["HR@5"].mean
    assert list(board.claims) == ["hand"]
    gain = cell.mean - board.main.cells["covisitation"]["NDCG@10"].mean
    assert board.claims["hand"]["NDCG@10"]["mean"] == pytest.approx(gain)
    write(board, bench, tmp_path, "python eval/table.py")
    text = (tmp_path / "table.md").read_text()
    assert "| by hand |" in text
    assert bench.dataset.manifest.content_hash[:12] in text
    assert read_json(tmp_path / "table.json")["rows"]["test"] == len(bench.test)


def test_a_row_that_fails_is_named_and_the_others_stand(bench, tmp_path):
    def unable(settings, seed):
        raise RequestError("This one cannot be fitted; give more events.")

    broken = dataclasses.replace(BASELINES["popularity"], name="broken", make=unable)
    rows = {"broken": BaselineEntry(broken), "popularity": BaselineEntry(BASELINES["popularity"])}
    found, failed = answers(bench, rows, tmp_path, range(1))
    assert list(found) == ["popularity"]
    assert "give more events" in failed["broken"]


def test_settings_of_the_chosen_algorithm_decide_its_rows(bench, tmp_path):
    def key(*overrides):
        return Trainings("rl", tmp_path, given(*overrides)).key(bench, 0)

    assert key("algorithm=grpo", "grpo.steps=3") != key("algorithm=grpo", "grpo.steps=4")
    assert key("grpo.steps=3") == key("grpo.steps=4")
    assert key("ppo.steps=3") != key("ppo.steps=4")


def test_the_policy_in_all_its_forms(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    policy = Trainings("policy", tmp_path, given(*TINY))
    blind = Trainings("blind", tmp_path, given(*TINY, "text.elapsed=false"))
    near, teacher = ScorePart("covisitation-fixed", tmp_path), ScorePart("interpolation", tmp_path)
    sharp = dataclasses.replace(near, powers=(1.0, 2.0, 3.0))
    warm = PolicyEntry(LM, "", policy)
    rows = {
        LM: warm,
        "mixed": MixtureEntry("mixed", "", tmp_path, (policy, blind), (near,), banded=True),
        "both": MixtureEntry("both", "", tmp_path, (policy, blind), (near, teacher), (0, 1), banded=True),
        "fused": MixtureEntry("fused", "", tmp_path, (policy,), (sharp,)),
        "ensemble": MixtureEntry("ensemble", "", tmp_path, (policy,), (sharp,), (0, 1)),
        RL: ImprovedEntry(RL, "", warm),
    }
    found, failed = answers(bench, rows, tmp_path, range(2))
    assert not failed
    seen = [set(s.tolist()) for s in bench.test.seen]
    for told in found.values():
        for answer in told:
            assert all(not seen[b] & set(items[items >= 0].tolist()) for b, items in enumerate(answer.items_BK))
    assert len(found[LM]) == 2
    assert len(found["ensemble"]) == 1
    shared = [found[name][0].facts["settings"] for name in ("fused", "ensemble")]
    for kept in ("weights", "forms", "valid_ndcg"):
        assert shared[0][kept] == shared[1][kept], "they are decided once, by the first seed's policy"
    assert [len(found[name]) for name in ("mixed", "both")] == [2, 1]
    mixed = found["mixed"][0].facts["settings"]
    assert mixed["parts"] == ["policy", "blind", "covisitation-fixed"]
    assert sum(mixed["valid_rows"]) == len(bench.valid)
    assert np.array(mixed["weights"]).sum(1) == pytest.approx(np.ones(len(mixed["weights"])))
    both = found["both"][0].facts["settings"]
    assert both["parts"] == ["policy", "blind", "covisitation-fixed", "interpolation"]
    assert both["members"] == 2
    assert "verdict" in found[RL][0].facts["settings"]
    # another mixture of a policy that was read for these states before searches none of them again
    read = []
    decode = LanguagePolicy.certified
    with monkeypatch.context() as patch:
        patch.setattr(
            LanguagePolicy,
            "certified",
            lambda self, states, *a, **o: read.append(states) or decode(self, states, *a, **o),
        )
        again, failed = answers(
            bench, {"more": MixtureEntry("more", "", tmp_path, (policy,), (near, teacher), (0, 1))}, tmp_path, (0,)
        )
    assert not failed
    assert not read
    assert again["more"][0].facts["settings"]["tried forms"] == 1
    board = measure(bench, found, policy.simulators(bench).judge, pairs=[("rl", RL, LM)])
    assert 0.0 <= board.main.cells[LM]["judge"].mean <= 1.0
    assert "judge" in board.claims["rl"]["sentence"]
    # where RL is refused, its row has the lists of its warm start, and nothing is searched again
    monkeypatch.setattr(ImprovedEntry, "_chosen", lambda *_: {"steps": 0, "verdict": "no gain"})
    monkeypatch.setattr(policies_module, "searched", None)
    place = Work(tmp_path / "rows" / "refused")
    refused = ImprovedEntry("refused", "", warm).answer(bench, 1, place)
    assert refused.items_BK.tolist() == found[LM][1].items_BK.tolist()
    assert refused.facts == {
        "settings": {"steps": 0, "verdict": "no gain"},
        "cpu_seconds": found[LM][1].facts["cpu_seconds"],
    }
    assert (place.folder / "seed-1" / "items.npy").is_file()


def test_baselines_are_mixed_and_ensembled_by_the_same_means(bench, tmp_path):
    lately = ScorePart("recent-popularity", tmp_path, options=({"half_life": 1.0}, {"half_life": 90.0}))
    near = ScorePart("covisitation-counts", tmp_path, powers=(1.0, 3.0))
    bandit = ScorePart("thompson", tmp_path, 0.01)
    rows = {
        "two": MixtureEntry("two", "", tmp_path, (), (near, lately)),
        "banded": MixtureEntry("banded", "", tmp_path, (), (near, bandit), banded=True),
        "ensemble": MixtureEntry("ensemble", "", tmp_path, (), (bandit,), (0, 1)),
    }
    found, failed = answers(bench, rows, tmp_path, range(2))
    assert not failed
    assert [len(found[name]) for name in rows] == [1, 2, 1]  # only what depends on chance is measured again
    settings = found["two"][0].facts["settings"]
    assert settings["parts"] == ["covisitation-counts", "recent-popularity"]
    assert settings["tried forms"] == 4
    assert settings["forms"][0]["power"] in (1.0, 3.0)
    assert settings["forms"][1]["half_life"] in (1.0, 90.0)
    assert np.shape(settings["weights"]) == (1, 2)
    states, targets = [e.state for e in bench.valid], [e.target for e in bench.valid]
    # nothing on the grid is better on the validation rows than what was chosen, the corners among it
    model = near.made(bench, "before", 0, (0,))
    corner = Mixture([model], items=Items(bench.dataset.n_items, "exclude"), depth=20)
    listed = corner.recommend(states, 10, seen=bench.valid.seen)
    gains = [
        1 / np.log2(s.items_K.index(t) + 2) if t in s.items_K else 0.0 for s, t in zip(listed, targets, strict=True)
    ]
    assert settings["valid_ndcg"][0] >= np.mean(gains) - 1e-12
    for b, answer in enumerate(found["two"][0].items_BK):
        assert not set(bench.test.seen[b].tolist()) & set(answer[answer >= 0].tolist())


def test_networks_of_a_table_are_fitted_once_for_all_commands_and_mixtures(bench, tmp_path, monkeypatch):
    settings = GRU4RecSettings(hidden=8, epochs=3, n_threads=1)
    spec = dataclasses.replace(BASELINES["gru4rec"], settings=settings, grid=())
    monkeypatch.setitem(BASELINES, "gru4rec", spec)

    def entries(out):
        """Those of a command of its own."""
        network, near = ScorePart("gru4rec", out), ScorePart("covisitation-counts", out, powers=(1.0, 3.0))
        lately = ScorePart("recent-popularity", out)
        return {
            "two": MixtureEntry("two", "", out, (), (network, near)),
            "three": MixtureEntry("three", "", out, (), (network, near, lately)),
            "ensemble": MixtureEntry("ensemble", "", out, (), (network,), (0, 1)),
            "gru4rec": BaselineEntry(BASELINES["gru4rec"]),
        }

    fits = []
    fit = Trainer.fit

    def counted(self, *given):
        fits.append(self.seed)
        return fit(self, *given)

    monkeypatch.setattr(Trainer, "fit", counted)
    first, failed = answers(bench, {"two": entries(tmp_path)["two"]}, tmp_path, range(2))
    assert not failed
    assert fits == [0, 0, 1], "before the validation rows by the first seed, and before the test rows by both"
    shutil.rmtree(tmp_path / "rows" / "two")
    again, failed = answers(bench, entries(tmp_path), tmp_path, range(2))
    assert not failed
    assert fits == [0, 0, 1]
    assert [a.items_BK.tolist() for a in again["two"]] == [a.items_BK.tolist() for a in first["two"]]
    # the row of the network alone has its lists, and what it cost in the first command
    plain = [spec.make(settings, seed).fit(bench.dataset, bench.after.split.train) for seed in (0, 1)]
    states = [example.state for example in bench.test]
    for model, answer in zip(plain, again["gru4rec"], strict=True):
        listed = [list(slate.items_K) for slate in model.recommend(states, 20, seen=bench.test.seen)]
        assert [[item for item in row if item >= 0] for row in answer.items_BK.tolist()] == listed
        kept = next((tmp_path / "rows" / "gru4rec").glob(f"fitted-after-{model.seed}-*/spent.json"))
        assert answer.facts["cpu_seconds"]["fit"] >= read_json(kept)["cpu_seconds"] > 0
    # a table that is only read fits what it lacks and writes nothing
    shutil.rmtree(next((tmp_path / "rows" / "gru4rec").glob("fitted-after-0-*")))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reading = dataclasses.replace(bench, finished_only=True)
    entry = entries(tmp_path)["gru4rec"]
    system = entry.recommender(reading, 0, reading.work(tmp_path / "rows" / "gru4rec"))
    assert np.array_equal(system.score(states[:5]), plain[0].score(states[:5]))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    # other settings are another network
    del fits[:]
    monkeypatch.setitem(
        BASELINES, "gru4rec", dataclasses.replace(spec, settings=dataclasses.replace(settings, epochs=2))
    )
    entries(tmp_path)["gru4rec"].answer(bench, 1, Work(tmp_path / "rows" / "gru4rec"))
    assert fits == [1]


def test_rows_of_one_sentence_model_are_not_taken_for_those_of_another(bench, tmp_path, monkeypatch):
    """A network whose row is kept, and a likeness of texts, when LLMREC_EMBEDDINGS names another model."""
    small = GRU4RecSettings(hidden=4, epochs=1, n_threads=1)
    asked = {"variable": "LLMREC_EMBEDDINGS", "grid": ()}
    network = dataclasses.replace(BASELINES["gru4rec"], settings=small, **asked)

    def likeness(settings, seed):
        place = {"first": 0, "second": -1}[os.environ["LLMREC_EMBEDDINGS"]]
        return EmbeddingProfile(settings, encode=lambda texts: np.array([[ord(text[place]), 1.0] for text in texts]))

    monkeypatch.setitem(BASELINES, "embeddings", dataclasses.replace(BASELINES["embeddings"], make=likeness, grid=()))
    fits, fit = [], Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *given: (fits.append(1), fit(self, *given))[1])
    keys = []
    for model, fitted in (("first", 1), ("first", 1), ("second", 2)):
        monkeypatch.setenv("LLMREC_EMBEDDINGS", model)
        BaselineEntry(network).answer(bench, 0, Work(tmp_path / "rows" / "network"))
        assert len(fits) == fitted, model
        answer = BaselineEntry(BASELINES["embeddings"]).answer(bench, 0, Work(tmp_path / "rows" / "embeddings"))
        own = likeness(BASELINES["embeddings"].settings, 0).fit(bench.dataset, bench.after.split.train)
        states = [example.state for example in bench.test]
        listed = slates_to_items(own.recommend(states, 20, seen=bench.test.seen), 20)
        assert answer.items_BK.tolist() == listed.tolist(), model
        keys.append(ScorePart("embeddings", tmp_path).key(bench))
    assert keys[0] == keys[1] != keys[2]


def test_an_ensemble_of_baselines_is_the_mean_of_their_distributions(bench, tmp_path):
    bandit = ScorePart("thompson", tmp_path, 0.01)
    entry = MixtureEntry("ensemble", "", tmp_path, (), (bandit,), (0, 1))
    states = [e.state for e in bench.test][:7]
    slates = entry.recommender(bench, 0, Work(tmp_path / "rows" / "e")).recommend(states, 5, exclude_seen=False)
    single = BaselineEntry(BASELINES["thompson"], 0.01)
    models = [single.recommender(bench, seed, Work(tmp_path / "rows" / "thompson")).system for seed in (0, 1)]
    mean_BN = np.mean([model.distribution(states) for model in models], axis=0)
    for b, slate in enumerate(slates):
        assert slate.items_K == tuple(np.argsort(-mean_BN[b], kind="stable")[:5].tolist())
        assert np.exp(slate.log_probs_K) == pytest.approx(mean_BN[b, list(slate.items_K)])


def test_the_row_of_rl_says_what_it_is_rewarded_with(tmp_path):
    for protocol in PROTOCOLS.values():
        rows = roster(protocol, tmp_path, range(3), only=[RL])
        assert "rewarded with the logged next item too" in rows[RL].description


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no table of 'netflix'; choose one of amazon-industrial"):
        protocol_of("netflix")
    with pytest.raises(ConfigError, match="no row 'sasrek'"):
        roster(PROTOCOLS["movielens-100k"], tmp_path, range(3), only=["sasrek"])
    assert UNPROFILED in roster(PROTOCOLS["movielens-100k"], tmp_path, range(3))
    assert UNPROFILED not in roster(PROTOCOLS["amazon-industrial"], tmp_path, range(3))
    for protocol in PROTOCOLS.values():
        assert (Path(__file__).parents[2] / "train" / "recipes" / f"{protocol.recipe}.yaml").is_file()


def run(*arguments: str, **environment: str):
    given = {k: v for k, v in forked.environment().items() if k != "LLMREC_DATA"} | environment
    command = [sys.executable, str(SCRIPT), *arguments]
    return forked.run(command, env=given)


def test_the_command(tmp_path):
    folder = films(tmp_path / "ml")
    common = ("--dataset", "movielens-100k", "--out", str(tmp_path / "out"))
    done = run(*common, "--source", str(folder), "--only", "random", "popularity", "--no-judge")
    assert done.returncode == 0, done.stderr
    assert "popularity" in done.stdout
    assert (tmp_path / "out" / "table.md").is_file()
    for arguments, said in (
        (common, "--source, or set LLMREC_DATA"),
        ((*common, "--source", str(folder), "--only", "nothing"), "no row 'nothing'"),
        ((*common, "--source", str(folder), "--seeds", "0"), "--seeds is 0"),
        (("--dataset", "x", "--out", "y"), "no table of 'x'"),
        ((*common, "--source", str(tmp_path / "nowhere")), "does not exist"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert said in " ".join(refused.stderr.split())


def test_the_row_before_sft_ranks_by_likelihood_and_is_kept(bench, tmp_path):
    tokenizer = train_tokenizer([item.title for item in bench.dataset.item_list] * 2, 300)
    save_causal_lm(make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0), tokenizer, tmp_path / "base")
    named = {"model.name": str(tmp_path / "base"), "evaluation.before_sft": 10}
    named |= {"identifiers.scheme": "title", "text.history": "title"}
    entry = UntrainedEntry(UNTRAINED, "", Trainings("read", tmp_path, named))
    work = Work(tmp_path / "work")
    told = entry.answer(bench, 0, work)
    system = entry.recommender(bench, 0, work)
    assert told.facts["settings"] == dataclasses.asdict(system.shares)
    scores = system.score([example.state for example in bench.test])
    for b, seen in enumerate(bench.test.seen):
        shown = told.items_BK[b][told.items_BK[b] >= 0]
        hidden = np.setdiff1d(np.arange(bench.dataset.n_items), np.concatenate([shown, seen]))
        assert not set(shown.tolist()) & set(seen.tolist())
        assert np.all(np.diff(scores[b, shown]) <= 1e-6)
        assert not len(hidden) or scores[b, hidden].max() <= scores[b, shown[-1]] + 1e-6
    again = UntrainedEntry(UNTRAINED, "", Trainings("gone", tmp_path / "gone", named)).answer(bench, 0, work)
    assert np.array_equal(again.items_BK, told.items_BK), "a finished answer is found by its key and not made again"
    with pytest.raises(ConfigError, match="titles as names"):
        nameless = Trainings("atomic", tmp_path, named | {"identifiers.scheme": "atomic"})
        UntrainedEntry(UNTRAINED, "", nameless).recommender(bench, 0, work)


def test_a_pretrained_model_has_rows_of_its_own_by_its_own_recipe(bench, tmp_path):
    plain, found = (
        roster(bench.protocol, tmp_path, (0, 1), pretrained=given) for given in (None, {"model.name": "some/model"})
    )
    assert set(found) - set(plain) == {UNTRAINED, PRETRAINED, PRETRAINED_RL, PRETRAINED_FUSED, PRETRAINED_NETWORKS}
    config = found[PRETRAINED].trainings.config(bench, 0)
    assert (config.model.name, config.data.dataset, config.text.history) == ("some/model", "folder", "title")
    assert plain[LM].trainings.config(bench, 0).text.history == "id"
    assert not any(found[name].random for name in (PRETRAINED, PRETRAINED_RL, PRETRAINED_NETWORKS))
    with pytest.raises(ConfigError, match="no recipe for a pretrained model"):
        roster(protocol_of("complete-journey"), tmp_path, (0,), pretrained={"model.name": "some/model"})
