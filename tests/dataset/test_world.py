"""The generated world: its log follows its truth, its propensities are exact, its text is fit for use."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmrec.config import WorldConfig
from llmrec.dataset.world import World, WorldParameters, WorldTruth, generate_world
from llmrec.dataset.world.slates import sequential_propensity
from llmrec.dataset.world.truth import click_logit, conversion_logit, logging_policy_BN
from llmrec.dataset.world.wording import entries, words
from llmrec.dataset.world.world import LANGUAGES
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.text.profiles import stated_age

DOMAINS = ("shop", "film", "music", "news", "course", "social")
SMALL = WorldConfig(users=6, items=20, slates_per_user=3, slate_size=4)
ALMOST_NEVER = 1e-4


def _counts(world: World, kind: str) -> np.ndarray:
    """Number of events of a kind, shape (users, items)."""
    events = world.dataset.events.filter(pl.col("kind") == kind)
    users = {user: row for row, user in enumerate(world.dataset.users["user_id"])}
    table = np.zeros((len(users), world.dataset.n_items))
    rows = [users[u] for u in events["user_id"]]
    np.add.at(table, (rows, [world.dataset.item_index[i] for i in events["item_id"]]), 1)
    return table


def _chi_square_p(successes: np.ndarray, trials: np.ndarray, probability: np.ndarray, axis: int) -> float:
    """p-value of independent binomial cells pooled along an axis (normal approximation)."""
    expected = (trials * probability).sum(axis)
    variance = (trials * probability * (1 - probability)).sum(axis)
    kept = expected > 5
    return float(stats.chi2.sf(((successes.sum(axis) - expected)[kept] ** 2 / variance[kept]).sum(), kept.sum()))


@pytest.fixture(scope="module")
def long_log() -> World:
    return generate_world(WorldConfig(users=30, items=24, slates_per_user=300, slate_size=8), 5)


@pytest.fixture(scope="module")
def default_world() -> World:
    return generate_world(WorldConfig(), 1)


def test_log_follows_the_truth_by_item_and_by_user(long_log: World) -> None:
    users = long_log.dataset.users["user_id"].to_list()
    shown, clicks = _counts(long_log, "impression"), _counts(long_log, "click")
    bought = _counts(long_log, "conversion")
    for axis in (0, 1):
        assert _chi_square_p(clicks, shown, long_log.expected_click_BN(users), axis) > ALMOST_NEVER
        assert _chi_square_p(bought, clicks, long_log.expected_conversion_BN(users), axis) > ALMOST_NEVER
    # Negative control: another user's truth is noticed.
    assert _chi_square_p(clicks, shown, long_log.expected_click_BN(users[::-1]), 1) < ALMOST_NEVER


def _tiny_truth() -> WorldTruth:
    """One user who likes topic 1 and style 0, two items."""
    return WorldTruth(
        topic_N=np.array([0, 1]),
        style_N=np.array([0, 1]),
        appeal_N=np.array([0.5, -0.5]),
        quality_N=np.array([-1.0, 1.0]),
        topic_interest_UT=np.array([[-1.0, 2.0]]),
        style_interest_UY=np.array([[1.0, 0.0]]),
        buying_interest_UY=np.array([[0.5, -0.5]]),
        logged_topic_UT=np.array([[0.0, 0.0]]),
        logged_style_UY=np.array([[0.0, 0.0]]),
    )


def test_equations_by_hand() -> None:
    parameters = WorldParameters(
        click_bias=-2.0, click_affinity=math.sqrt(1.36), conversion_bias=-1.0, conversion_affinity=math.sqrt(1.25),
        logging_appeal=math.log(3.0), uniform_share=0.2,
    )  # fmt: skip
    user, items = np.array([[0]]), np.array([0, 1])
    # -2 + (-1 + 0.6) + 0.5 and -2 + (2 + 0) - 0.5
    np.testing.assert_allclose(click_logit(_tiny_truth(), parameters, user, items), [[-1.9, -0.5]])
    # -1 + (-0.5 + 0.5) - 1 and -1 + (1 - 0.5) + 1
    np.testing.assert_allclose(conversion_logit(_tiny_truth(), parameters, user, items), [[-2.0, 0.5]])
    # appeal differs by 1, so the softmax is 3 : 1
    mu = logging_policy_BN(_tiny_truth(), parameters, np.array([0]))
    np.testing.assert_allclose(mu, [[0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1]])


def test_value_optimum_and_slate_value_agree(long_log: World) -> None:
    users = long_log.dataset.users["user_id"].to_list()[:5]
    click, buy = long_log.expected_click_BN(users), long_log.expected_conversion_BN(users)
    assert ((click > 0) & (click < 1)).all()
    assert ((buy > 0) & (buy < 1)).all()
    value = long_log.value_BN(users, click=2.0, conversion=5.0)
    assert value[3, 7] == pytest.approx(2 * click[3, 7] + 5 * click[3, 7] * buy[3, 7])
    best = long_log.optimum(users, 3, click=2.0, conversion=5.0)
    for row in range(5):
        assert best.value_BK[row].tolist() == pytest.approx(sorted(value[row].tolist(), reverse=True)[:3])
        assert value[row, best.items_BK[row]].tolist() == pytest.approx(best.value_BK[row].tolist())
    every = np.tile(np.arange(long_log.dataset.n_items), (5, 1))
    np.testing.assert_allclose(long_log.value_of_BK(users, every), long_log.value_BN(users))


def test_propensities_are_exact_by_enumeration() -> None:
    world = generate_world(WorldConfig(users=1, items=4, slates_per_user=6000, slate_size=3), 3)
    (mu,) = world.logging_policy_BN(["u00000"])
    assert mu.sum() == pytest.approx(1, abs=1e-12)
    chance, logged = {}, {}
    for slate in itertools.permutations(range(4), 3):
        left, chance[slate], logged[slate] = set(range(4)), 1.0, 1.0
        for item in slate:
            place = mu[item] / sum(mu[other] for other in left)
            chance[slate] *= place
            logged[slate] *= float(np.float32(place))  # what an event holds of it
            left.remove(item)
    assert sum(chance.values()) == pytest.approx(1, abs=1e-12)

    shown = world.dataset.events.filter(pl.col("kind") == "impression").sort("time", "position")
    items = np.array([world.dataset.item_index[i] for i in shown["item_id"]]).reshape(-1, 3)
    recorded = shown["propensity"].to_numpy().reshape(-1, 3).prod(axis=1)
    drawn = [tuple(row) for row in items.tolist()]
    np.testing.assert_allclose(recorded, [logged[slate] for slate in drawn], rtol=1e-12)
    observed = [drawn.count(slate) for slate in chance]
    assert stats.chisquare(observed, np.array(list(chance.values())) * len(drawn)).pvalue > ALMOST_NEVER


def test_propensities_of_each_position_sum_to_one() -> None:
    world = generate_world(SMALL, 2)
    policy = world.logging_policy_BN(world.dataset.users["user_id"].to_list())
    earlier = [3, 11]
    rest = [i for i in range(20) if i not in earlier]
    slates = np.array([[*earlier, item] for item in rest])
    chance = sequential_propensity(policy, np.full(len(rest), 4), slates)
    assert chance[:, 2].sum() == pytest.approx(1, abs=1e-12)


def test_a_slate_may_show_the_whole_catalogue() -> None:
    world = generate_world(WorldConfig(users=3, items=5, slates_per_user=4, slate_size=5), 0)
    last = world.dataset.events.filter(pl.col("kind") == "impression", pl.col("position") == 4)
    assert last["propensity"].to_list() == pytest.approx([1.0] * 12)


def test_appeal_and_quality_are_opposed_and_styles_cover_topics(default_world: World) -> None:
    truth = default_world.truth
    correlation = np.corrcoef(truth.appeal_N, truth.quality_N)[0, 1]
    assert correlation == pytest.approx(WorldParameters().appeal_quality_correlation, abs=1e-9)
    assert np.bincount(truth.topic_N, minlength=12).tolist() == [25] * 12
    assert set(np.bincount(truth.style_N, minlength=8)) <= {37, 38}


def test_default_log_is_rich_enough(default_world: World) -> None:
    counts = default_world.dataset.manifest.counts
    assert counts["impression"] == 240_000
    assert 0.08 <= counts["click"] / counts["impression"] <= 0.14
    assert 0.15 <= counts["conversion"] / counts["click"] <= 0.35
    shown = default_world.dataset.events.filter(pl.col("kind") == "impression")
    assert shown["item_id"].n_unique() == 300
    assert shown["item_id"].value_counts()["count"].min() >= 60
    span = default_world.dataset.events["time"].max() - default_world.dataset.events["time"].min()
    assert 80 * 86_400 < span < 91 * 86_400


def test_profiles_hint_at_favourites(default_world: World) -> None:
    """Most hints are true, about a fifth of the profiles name nothing."""
    names = [name for name, _ in entries(LANGUAGES["en"][1]["shop"].topics)]
    profiles = default_world.dataset.users["profile"].to_list()
    named = [re.search(r"Likes ([^.]+)\.", profile) for profile in profiles]
    assert 0.17 < sum(n is None for n in named) / len(named) < 0.23
    interest = default_world.truth.topic_interest_UT
    favourites = [set(np.argsort(-row)[:2]) for row in interest]
    hits = [
        names.index(topic) in favourites[u] for u, found in enumerate(named) if found
        for topic in found[1].split(" and ")
    ]  # fmt: skip
    assert 0.87 < np.mean(hits) < 0.97  # 0.9 right by design, some of the wrong ones by luck


def test_position_bias_thins_clicks_only() -> None:
    config = WorldConfig(users=20, items=20, slates_per_user=300, slate_size=4, position_bias=1.0)
    world = generate_world(config, 4)
    fair = generate_world(WorldConfig(users=20, items=20, slates_per_user=300, slate_size=4), 4)
    users = world.dataset.users["user_id"].to_list()
    np.testing.assert_array_equal(world.expected_click_BN(users), fair.expected_click_BN(users))
    click = pl.DataFrame(
        {
            "user_id": np.repeat(users, 20),
            "item_id": world.dataset.items["item_id"].to_list() * 20,
            "p": world.expected_click_BN(users).ravel(),
        }
    )
    events = world.dataset.events.join(click, on=["user_id", "item_id"])
    for position in range(4):
        here = events.filter(pl.col("position") == position)
        p = here.filter(pl.col("kind") == "impression")["p"].to_numpy() / (position + 1)
        clicks = here.filter(pl.col("kind") == "click").height
        assert abs(clicks - p.sum()) < 4 * math.sqrt((p * (1 - p)).sum())


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_speaks_every_language(domain: str, language: str) -> None:
    config = WorldConfig(domain=domain, language=language, users=40, slates_per_user=1)  # type: ignore[arg-type]
    world = generate_world(config, 1)
    items, profiles = world.dataset.items, world.dataset.users["profile"].to_list()
    titles = items["title"].to_list()
    assert len(set(titles)) == 300
    assert all(title.strip() == title and title for title in titles)
    assert (items["description"].str.len_chars() > 10).all()
    assert all(len(categories) == 2 for categories in items["categories"])
    assert items["price"].is_null().all() == (domain in ("news", "social"))
    assert (items["price"].drop_nulls() > 0).all()
    everything = "".join(titles) + "".join(items["description"]) + "".join(profiles)
    assert "{" not in everything
    chinese = sum("\u4e00" <= c <= "\u9fff" for c in everything) / len(everything)
    if language == "zh":
        assert chinese > 0.7
        assert not re.search("[A-Za-z]", everything)
        assert all(2 <= len(title) <= 12 for title in titles)
    else:
        assert chinese == 0
        assert np.mean([2 <= len(title.split()) <= 5 for title in titles]) > 0.95
    manifest = world.dataset.manifest
    assert (manifest.domain, manifest.language, manifest.repeat) == (domain, language, "allow")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_words_tell_topic_and_style_apart(domain: str, language: str) -> None:
    wording = LANGUAGES[language][1][domain]
    for table, kinds, size in ((wording.topics, 12, 8), (wording.styles, 8, 3)):
        rows = entries(table)
        assert [len(words) for _, words in rows] == [size] * kinds
        flat = [word for _, words in rows for word in words]
        assert len(set(flat)) == len(flat)
        assert len({name for name, _ in rows}) == kinds


def test_titles_stay_distinct_when_words_run_out() -> None:
    world = generate_world(WorldConfig(users=1, items=8000, slates_per_user=1), 0)
    titles = world.dataset.items["title"]
    assert titles.n_unique() == 8000
    assert titles.str.contains(r" \d+$").any()


def test_same_seed_same_world_in_another_process() -> None:
    code = (
        "from llmrec.config import ScenarioSettings, WorldConfig; from llmrec.dataset.world import generate_world;"
        f"print(generate_world({SMALL!r}, 9).dataset.manifest.content_hash)"
    )
    root = Path(__file__).resolve().parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == generate_world(SMALL, 9).dataset.manifest.content_hash
    assert generate_world(SMALL, 10).dataset.manifest.content_hash != other.stdout.strip()


def test_streams_do_not_disturb_one_another() -> None:
    one = generate_world(SMALL, 9).dataset
    more_slates = generate_world(WorldConfig(users=6, items=20, slates_per_user=9, slate_size=4), 9).dataset
    more_users = generate_world(WorldConfig(users=9, items=20, slates_per_user=3, slate_size=4), 9).dataset
    assert one.items.equals(more_slates.items)
    assert one.users.equals(more_slates.users)
    assert one.items.equals(more_users.items)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_small_world_is_sound(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    config = WorldConfig(
        domain=data.draw(st.sampled_from(DOMAINS)),  # type: ignore[arg-type]
        language=data.draw(st.sampled_from(["en", "zh"])),  # type: ignore[arg-type]
        users=data.draw(st.integers(1, 5)),
        items=data.draw(st.integers(max(3, size), 40)),
        slates_per_user=data.draw(st.integers(1, 5)),
        slate_size=size,
    )
    world = generate_world(config, data.draw(st.integers(0, 1000)))
    events = world.dataset.events
    shown = events.filter(pl.col("kind") == "impression")
    assert shown.height == config.users * config.slates_per_user * size
    assert shown["propensity"].is_between(0, 1, closed="right").all()
    slates = shown.group_by("user_id", "time").agg(pl.col("item_id"), pl.col("position").sort(), pl.col("session"))
    assert slates.height == config.users * config.slates_per_user  # so times are strictly increasing for each user
    assert (slates["item_id"].list.n_unique() == size).all()
    assert (slates["session"].list.n_unique() == 1).all()
    assert all(row == list(range(size)) for row in slates["position"].to_list())
    key = ["user_id", "item_id", "time", "position", "session", "propensity"]
    clicked, bought = (events.filter(pl.col("kind") == kind).select(key) for kind in ("click", "conversion"))
    assert clicked.join(shown, on=key, how="anti").is_empty()
    assert bought.join(clicked, on=key, how="anti").is_empty()
    assert world.dataset.items["title"].n_unique() == config.items
    policy = world.logging_policy_BN(world.dataset.users["user_id"].to_list())
    np.testing.assert_allclose(policy.sum(axis=1), 1, atol=1e-12)
    assert np.isfinite(world.value_BN(world.dataset.users["user_id"].to_list())).all()


@pytest.mark.parametrize("order", ["drawn", "F"])
def test_saved_world_loads_equal(tmp_path: Path, order: str) -> None:
    # numpy lays large arrays out column by column where it saves a copy; what is saved must not depend on that
    world = generate_world(SMALL, 7)
    if order == "F":
        truth = WorldTruth(**{name: np.asfortranarray(array) for name, array in world.truth.arrays().items()})
        world = World(world.dataset, truth, world.config, world.seed)
    world.save(tmp_path / "world")
    found = World.load(tmp_path / "world")
    assert found.dataset.manifest == world.dataset.manifest
    assert (found.config, found.seed, found.parameters) == (world.config, 7, world.parameters)
    users = world.dataset.users["user_id"].to_list()
    np.testing.assert_array_equal(found.value_BN(users), world.value_BN(users))
    np.testing.assert_array_equal(found.logging_policy_BN(users), world.logging_policy_BN(users))


def test_a_saved_world_of_thousands_keeps_who_likes_what(tmp_path: Path) -> None:
    world = generate_world(WorldConfig(users=3000, items=20, slates_per_user=1, slate_size=3), 7)
    world.save(tmp_path / "world")
    found = World.load(tmp_path / "world")
    for name, array in world.truth.arrays().items():
        np.testing.assert_array_equal(found.truth.arrays()[name], array, err_msg=name)


@pytest.mark.parametrize("broken", ["missing", "truth", "format", "key", "other"])
def test_broken_world_folder_is_named(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "world"
    generate_world(SMALL, 7).save(folder)
    if broken == "missing":
        (folder / "world.json").unlink()
    elif broken == "truth":
        (folder / "truth.safetensors").write_bytes(b"nothing")
    elif broken == "format":
        (folder / "world.json").write_text("{}")
    elif broken == "key":
        path = folder / "world.json"
        path.write_text(path.read_text().replace('"click_bias"', '"clickbias"'))
    else:
        generate_world(SMALL, 8).dataset.save(folder / "dataset")
    with pytest.raises(RunError, match=re.escape(str(folder))):
        World.load(folder)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (WorldConfig(items=9), "world.items"),
        (WorldConfig(items=2, slate_size=1), "world.items"),
        (WorldConfig(users=0), "world.users"),
        (WorldConfig(slates_per_user=0), "world.slates_per_user"),
        (WorldConfig(slate_size=0), "world.slate_size"),
        (WorldConfig(position_bias=-1.0), "world.position_bias"),
        (WorldConfig(language="fr"), "language 'fr'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_config_is_refused(config: WorldConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        generate_world(config, 0)


def test_bad_questions_are_refused() -> None:
    world = generate_world(SMALL, 0)
    with pytest.raises(RequestError, match="'nobody'"):
        world.value_BN(["nobody"])
    for k in (0, 21):
        with pytest.raises(RequestError, match="between 1 and 20"):
            world.optimum(["u00000"], k)


def test_documented_parameters_are_the_defaults() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "world.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\w+) \| (-?[\d.]+) \|$", text, flags=re.MULTILINE))
    assert WorldParameters(**{name: float(value) for name, value in table.items()}) == WorldParameters()
    assert set(table) == set(WorldParameters.__dataclass_fields__)


@pytest.mark.parametrize("language", sorted(LANGUAGES))
@given(
    domain=st.sampled_from(DOMAINS), seed=st.integers(0, 2**31), age=st.integers(1, 120), pick=st.integers(0, 10_000)
)
@settings(max_examples=15, deadline=None)
def test_the_age_that_a_world_writes_is_read_from_every_profile(
    language: str, domain: str, seed: int, age: int, pick: int
) -> None:
    people = LANGUAGES[language][0]
    facts = (
        re.escape(people.facts).replace(r"\{age\}", r"(\d+)").replace(r"\{job\}", ".+").replace(r"\{place\}", ".+")
    )
    config = dataclasses.replace(SMALL, users=30, domain=domain, language=language)
    for profile in generate_world(config, seed).dataset.users["profile"]:
        told = re.match(facts, profile)
        assert told is not None
        assert stated_age(profile) == int(told[1])
        assert stated_age(profile.replace(told[1], "", 1)) is None, "what else it says is no age"
    jobs, places = words(people.jobs), words(people.places)
    job, place = jobs[pick % len(jobs)], places[pick % len(places)]
    assert stated_age(people.facts.format(age=age, job=job, place=place)) == age
