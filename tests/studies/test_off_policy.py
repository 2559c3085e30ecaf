"""The studies on real data: their worlds are what they say, and the script runs as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrec.errors import DataError
from llmrec.studies.off_policy.hillstrom import POLICIES, HillstromWorld, run_hillstrom
from llmrec.studies.off_policy.jester import Drawer, JesterWorld, run_jester, softmax
from llmrec.studies.off_policy.open_bandit import item_position
from tests import forked
from tests.dataset.test_importers_bandit import jester
from tests.dataset.tiny import real_data

ROOT = Path(__file__).parents[2]


def test_items_are_drawn_as_the_policy_says():
    chance = softmax(np.random.default_rng(0).normal(size=(3, 4)))
    chance[1] = [0.0, 0.5, 0.0, 0.5]
    users = np.repeat(np.arange(3), 40_000)
    item = Drawer(chance).draw(users, np.random.default_rng(1))
    shares = np.array([np.bincount(item[users == u], minlength=4) / 40_000 for u in range(3)])
    assert np.abs(shares - chance).max() < 4 * np.sqrt(0.25 / 40_000)
    assert shares[1, 0] == shares[1, 2] == 0.0


def full_ratings(folder, users=260, seed=0):
    """Users whose taste is one number; the first half rated all jokes, the second half left one out."""
    rng = np.random.default_rng(seed)
    taste, joke = rng.normal(size=users), rng.normal(size=100)
    rows = ["user,joke,rating"]
    for u in range(users):
        for n in range(100):
            if u >= users // 2 and n == 20 + u % 80:
                continue
            rating = np.clip(2 * taste[u] * joke[n] + rng.normal(0, 0.5), -10, 10)
            rows.append(f"{u},{n},{rating:.2f}")
    jester(folder, "\n".join(rows) + "\n", [f"Joke number {n}." for n in range(100)])


def test_jesters_world_and_figures(tmp_path):
    from llmrec.dataset.importers import import_dataset

    full_ratings(tmp_path)
    dataset = import_dataset("jester", tmp_path)
    world = JesterWorld.of(dataset)
    assert world.rating_UN.shape == (130, 90)
    assert np.isfinite(world.rating_UN).all()
    correlation = np.corrcoef(world.score_UN.ravel(), world.rating_UN.ravel())[0, 1]
    assert correlation > 0.9  # the scorer never saw these users
    (rating, liked) = run_jester(world, logs=40, pairs=[("uniform", "soft 4")])
    pi_UN = world.policy("soft 4")
    assert rating["truth"] == pytest.approx((pi_UN * world.rating_UN).sum(axis=1).mean())
    assert liked["truth"] == pytest.approx((pi_UN * (world.rating_UN > 0)).sum(axis=1).mean())
    for found in (rating, liked):
        estimators = found["estimators"]
        for figures in estimators.values():
            assert abs(figures["bias"]) < 4 * figures["bias_error"]
        assert estimators["DR"]["rmse"] < estimators["IPS"]["rmse"]
    for figures in liked["estimators"].values():  # ratings of products of tastes have too long tails for 130 users
        assert figures["coverage_high"] >= 0.95 >= figures["coverage_low"]
    again = run_jester(world, logs=3, pairs=[("uniform", "soft 4")])
    assert again == run_jester(world, logs=3, pairs=[("uniform", "soft 4")])
    with pytest.raises(DataError, match="needs Jester's 100 jokes"):
        jester(tmp_path)
        JesterWorld.of(import_dataset("jester", tmp_path))


def experiment(rows=24_000, seed=0) -> HillstromWorld:
    """An experiment of known effects: men's e-mail adds 0.1 for buyers of men's goods, women's 0.2 for the others."""
    rng = np.random.default_rng(seed)
    arm, mens, new = rng.integers(3, size=rows), rng.random(rows) < 0.5, rng.random(rows) < 0.4
    rate = 0.2 + 0.1 * (arm == 0) * mens + 0.2 * (arm == 1) * ~mens + 0.1 * new
    state = np.column_stack([mens, new]).astype(float)
    return HillstromWorld(arm, {"visit": (rng.random(rows) < rate).astype(float)}, state, mens, new)


def test_thinning_an_experiment_gives_the_log_of_the_policy():
    world = experiment()
    mu_B3 = world.logging()
    assert mu_B3.sum(axis=1) == pytest.approx(1.0)
    assert mu_B3.min() >= 0.15
    rng = np.random.default_rng(1)
    stays = rng.random(24_000) < mu_B3[np.arange(24_000), world.arm_B] / mu_B3.max()
    for mens in (False, True):
        for new in (False, True):
            group = (world.mens_B == mens) & (world.new_B == new)
            share = np.bincount(world.arm_B[group & stays], minlength=3) / (group & stays).sum()
            assert share == pytest.approx(mu_B3[group][0], abs=0.03)
            assert (group & stays).sum() / stays.sum() == pytest.approx(group.mean(), abs=0.01)


def test_hillstroms_estimates_meet_the_other_half():
    found = run_hillstrom(experiment(), logs=60, rewards=["visit"])
    # all men's: 0.2 + 0.1 / 2 + 0.1 x 0.4; by goods: 0.2 + 0.1 / 2 + 0.2 / 2 + 0.04
    for result, truth in zip(found, (0.29, 0.39), strict=True):
        assert result["policy"] in POLICIES
        assert result["truth"] == pytest.approx(truth, abs=0.02)
        for figures in result["estimators"].values():
            assert figures["coverage_high"] >= 0.95 >= figures["coverage_low"]


def test_places_are_added_up():
    found = item_position(np.array([1.0, 3.0, 2.0, 2.0, 1.0, 1.0]), np.array([1.0, 1, 0, 1, 0, 0]), np.arange(6) // 2)
    assert found["value"] == pytest.approx((1 + 3) / 2 + 2 / 2 + 0)
    assert found["high"] - found["value"] == pytest.approx(found["value"] - found["low"])


def run_script(out: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "eval" / "off_policy.py"), "--out", str(out), *map(str, arguments)]
    return forked.run(command, cwd=ROOT, env=forked.environment())


def test_the_script_refuses_in_one_sentence(tmp_path):
    done = run_script(tmp_path, "jester", "--source", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_on_open_bandit(tmp_path):
    done = run_script(tmp_path, "open-bandit", "--source", real_data("open-bandit-small"))
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "study.json").read_text())
    by_name = {result["pair"]: result for result in figures["results"]}
    assert set(by_name) == {f"{c}: {d}" for c in ("men", "women") for d in ("random → bts", "bts → random")}
    to_bts = by_name["men: random → bts"]
    assert to_bts["own_log"]["mean"] == pytest.approx(0.0069)
    ips = to_bts["estimates"]["IPS"]["interval"]
    assert ips["low"] < to_bts["own_log"]["mean"] < ips["high"]
    assert "effective samples" in by_name["women: bts → random"]["refusal"]  # one propensity of 1e-6
    assert "women: bts → random: The overlap is too small" in done.stdout


def coverages(figures: Path) -> dict[tuple[str, str], float]:
    results = json.loads(figures.read_text())["results"]
    return {(r["pair"], name): r["estimators"][name]["coverage"] for r in results for name in ("IPS", "SNIPS", "DR")}


@pytest.mark.slow
def test_coverage_and_gain_of_dr_on_real_jokes(tmp_path):
    done = run_script(tmp_path, "jester", "--source", real_data("jester5k"), "--pairs", 1, 2, 3)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "study-overlap.svg").stat().st_size > 10_000
    assert all(0.925 <= share <= 0.975 for share in coverages(tmp_path / "study.json").values()), done.stdout
    for result in json.loads((tmp_path / "study.json").read_text())["results"]:
        assert result["estimators"]["DR"]["rmse"] < result["estimators"]["IPS"]["rmse"]


@pytest.mark.slow
def test_coverage_on_a_real_experiment(tmp_path):
    source = real_data("hillstrom")
    done = run_script(tmp_path, "hillstrom", "--source", source, "--rewards", "visit")
    assert done.returncode == 0, done.stderr
    assert all(0.925 <= share <= 0.975 for share in coverages(tmp_path / "study.json").values()), done.stdout
