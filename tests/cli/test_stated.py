"""A run that learns to read what to weigh, and lists that ask for it, as processes."""

import json

import polars as pl
import pytest

from llmrec.recommender.recommender import UNREWARDED
from tests.cli import tiny


@pytest.fixture(scope="module")
def stated(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("stated") / "run"
    own = {"algorithm": "tilted", "tilted.states": 64, "tilted.batch_size": 16, "tilted.save_every": 4}
    own |= {"reward.stated": "[click,conversion]", "tilted.lora.rank": 4}
    kept = {key: value for key, value in tiny.SETTINGS.items() if not key.startswith("ppo")} | own
    tiny.llmrec("run", "--out", out, *(f"--set={key}={value}" for key, value in kept.items()), cache=cache)
    return out


def test_the_run_says_how_it_follows(stated):
    found = tiny.metrics(stated)
    assert set(found["stated"]) == {"click", "conversion"}
    assert len(found["stated"]["click"]["means"]) == 4
    assert "are shown to follow" in found["changed"]
    assert "are shown to follow" in (stated / "report.html").read_text(encoding="utf-8")


def test_lists_ask_for_weights(stated, cache):
    def asked(*words):
        done = tiny.llmrec("recommend", "--model", stated, "--prompt", "a gift", "--json", *words, cache=cache)
        answer = json.loads(done.stdout)
        return [item["log_prob"] for item in answer["items"]], answer["note"]

    plain, one, two = (
        asked(),
        asked("--prefer", "conversion=3"),
        asked("--prefer", "conversion=3", "--prefer", "click=1"),
    )
    assert plain[0] != one[0]
    assert one[0] != two[0]
    # who asks is told where nothing was learnt of it
    told = [UNREWARDED in note for _, note in (plain, one, two)]
    assert told == [False, *[tiny.metrics(stated)["deployed"] == "SFT"] * 2]


def test_a_file_of_lists_asks_for_weights(stated, tmp_path, cache):
    data = stated.with_name("run.work") / "data" / "world" / "dataset"
    made = {}
    for name, words in {"plain": (), "heard": ("--prefer", "conversion=3")}.items():
        done = tiny.llmrec(
            "batch",
            "--model",
            stated,
            "--data",
            data,
            "-k",
            "3",
            "--out",
            tmp_path / f"{name}.parquet",
            *words,
            cache=cache,
        )
        made[name] = pl.read_parquet(tmp_path / f"{name}.parquet")
        unheard = name == "heard" and tiny.metrics(stated)["deployed"] == "SFT"
        assert (UNREWARDED in " ".join(done.stderr.split())) == unheard
    assert made["plain"]["log_prob"].to_list() != made["heard"]["log_prob"].to_list()
    user = made["heard"]["user_id"][0]
    asked = ("--user", user, "--data", data, "--prefer", "conversion=3", "-k", "3", "--json")
    alone = json.loads(tiny.llmrec("recommend", "--model", stated, *asked, cache=cache).stdout)
    own = made["heard"].filter(pl.col("user_id") == user)
    assert own["item_id"].to_list() == [item["item_id"] for item in alone["items"]]
    out = tmp_path / "other.parquet"
    asked = ("batch", "--model", stated, "--data", data, "--out", out, "--prefer", "revenue=1")
    done = tiny.llmrec(*asked, cache=cache, code=2)
    assert "'revenue' is no objective" in done.stderr
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("revenue=3",), "'revenue' is no objective; choose among click, conversion."),
        (("click=4",), "The weight of click is 4; give 0 to 3, a whole number."),
        (("click",), "give NAME=WEIGHT"),
        (("click=-1",), "give NAME=WEIGHT"),
        (("click=" + "9" * 5000,), "give NAME=WEIGHT"),
        (("click=1", "click=2"), "'click' twice"),
    ],
)
def test_weights_that_cannot_be_are_refused(stated, cache, words, said):
    asked = [part for word in words for part in ("--prefer", word)]
    done = tiny.llmrec("recommend", "--model", stated, "--prompt", "a gift", *asked, cache=cache, code=2)
    assert said in " ".join(done.stderr.split())


def test_a_run_that_reads_none_says_so(finished, cache):
    out, _ = finished
    asked = ("recommend", "--model", out, "--prompt", "a gift", "--prefer", "click=1")
    done = tiny.llmrec(*asked, cache=cache, code=2)
    assert "does not read what to prefer" in " ".join(done.stderr.split())


def test_timelines_cannot_ask(tmp_path, cache):
    asked = ("--set=reward.stated=[click,conversion]", "--set=algorithm=tilted", "--set=sft.layout=timelines")
    done = tiny.llmrec("run", "--out", tmp_path / "run", *asked, cache=cache, code=2)
    assert "sft.layout" in done.stderr
    assert not (tmp_path / "run").exists()
