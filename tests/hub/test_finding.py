"""Where a run folder, its data set and its items are looked for, and what is said where they are not."""

import json
import shutil
from types import SimpleNamespace

import polars as pl
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError, RunError
from llmrec.finding import default_data
from llmrec.finding import run_folder as find
from llmrec.hub import fetch_run
from llmrec.recommender import Recommender

PROMPT = ("--prompt", "I liked Fargo", "-k", "2")


@pytest.fixture
def shelf(run_folder, dataset, tmp_path, monkeypatch):
    """A folder with a run on a saved data set, `data` beside it; the run keeps no working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "runs" / "films")
    dataset.save(tmp_path / "data")
    facts = json.loads((tmp_path / "runs" / "films" / "llmrec.json").read_text())
    assert facts["dataset"]["content_hash"] == dataset.manifest.content_hash
    path = tmp_path / "runs" / "films" / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["data"] |= {"dataset": "folder", "source": "data"}
    path.write_text(yaml.safe_dump(tree))
    return tmp_path


def recommend(*parts, code=0):
    """What `llmrec recommend` of the run says, on standard output and error; a refusal is returned."""
    done = CliRunner().invoke(app, ["recommend", "--model", "runs/films", *map(str, parts)])
    if code:
        assert isinstance(done.exception, RequestError | RunError), done.output
        return str(done.exception)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done


def test_a_user_of_a_saved_data_set_is_found_where_the_run_read_it(shelf):
    assert default_data(shelf / "runs" / "films").resolve() == shelf / "data"
    assert "Toy Story" in recommend("--user", "ann", "-k", "3").stdout


def test_a_data_set_that_was_changed_or_moved_is_not_taken(shelf, dataset):
    other = dataset.events.with_columns(pl.col("time") + 1)
    Dataset.build(
        dataset.items, dataset.users, other, name="x", domain="film", click="rating", conversion="rating>=4"
    ).save(shelf / "data")
    assert default_data(shelf / "runs" / "films") is None
    said = recommend("--user", "ann", code=2)
    assert "its data set (data) is not there any more, or was changed" in said
    assert "--data" in said
    shutil.rmtree(shelf / "data")
    assert default_data(shelf / "runs" / "films") is None


def test_a_source_that_names_no_data_set_is_left_alone(shelf):
    path = shelf / "runs" / "films" / "config.yaml"
    for data in ({"dataset": "table", "source": "data"}, {"dataset": "folder", "source": 3}, ["x"], None):
        path.write_text(yaml.safe_dump({"data": data}))
        assert default_data(shelf / "runs" / "films") is None
    path.unlink()
    assert default_data(shelf / "runs" / "films") is None


@pytest.mark.parametrize("name", ["runs/flims", "flims", "runs/films2", "./runs/film"])
def test_a_mistyped_run_folder_is_told_by_the_nearest_one(shelf, name):
    with pytest.raises(RunError, match=r"does not exist; did you mean runs/films\?"):
        find(name)


def test_a_name_like_no_folder_here_is_looked_up_on_the_hub(shelf, monkeypatch):
    asked = []

    def fetch(name, revision=None):
        asked.append((name, revision))
        raise RunError("The Hub repository is not there.")

    monkeypatch.setattr("llmrec.hub.fetch_run", fetch)
    with pytest.raises(RunError, match="There is no folder alice/things here, so it was looked up on the Hub"):
        find("alice/things")
    with pytest.raises(RunError):
        find("runs/flims", revision="main")  # whoever names a revision means the Hub
    assert asked == [("alice/things", None), ("runs/flims", "main")]
    with pytest.raises(RunError, match="does not exist; give a run folder"):
        find("a/b/c")


def ids(place, *names, mark=b""):
    place.write_bytes(mark + "\r\n".join(names).encode())
    return place


def test_strangers_in_lists_of_ids_are_passed_over_with_a_word(shelf):
    listed = ids(shelf / "stock.txt", "m1", "zzz", "m4", mark=b"\xef\xbb\xbf")
    done = recommend(*PROMPT, "--in-stock", listed)
    assert "--in-stock: 1 of 3 ids are no items of the run: 'zzz'; passed over." in done.stderr
    assert "Toy Story" in done.stdout
    assert "Seven" in done.stdout
    many = ids(shelf / "many.txt", "m4", *(f"x{n}" for n in range(2000)))
    done = recommend(*PROMPT, "--candidates", many)
    assert "2,000 of 2,001 ids" in done.stderr
    assert "'x0', 'x1', 'x2' and 1,997 more" in done.stderr
    assert "Toy Story" in done.stdout
    done = recommend(*PROMPT, "--exclude", "m44", "--exclude", "m4", "--json")
    assert "--exclude: 1 of 2 ids are no items of the run: 'm44' (did you mean 'm4'?)" in done.stderr
    assert "m4" not in [item["item_id"] for item in json.loads(done.stdout)["items"]], "and the output stays JSON"


def test_lists_of_strangers_alone_leave_nothing(shelf):
    listed = ids(shelf / "none.txt", "q", "r")
    for option in ("--in-stock", "--candidates"):
        said = recommend(*PROMPT, option, listed, code=2)
        assert f"{option}: 2 of 2 ids are no items of the run: 'q', 'r'; so no item is left" in said
    assert "passed over" in recommend(*PROMPT, "--exclude", "q").stderr


def test_known_ids_keep_their_order(shelf):
    recommender = Recommender.load("runs/films")
    assert recommender.known(["m3", "x", "m0", "m3", "x"]) == (("m3", "m0"), ("x",))


def answered(status):
    """What the client raises for an answer of this status."""
    response = SimpleNamespace(status_code=status, headers={}, request=None, url="http://hub")
    return HfHubHTTPError("the Hub's own words", response=response)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            answered(429),
            "too many requests",
        ),
        (answered(503), "answered 503"),
        (OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("no route\nto host"), r"cannot be reached \(no route to host\)"),
        (ValueError("x" * 10_000), r"client failed on alice/tiny \(ValueError: x+ … x+\)"),
        (RuntimeError("Data processing error: CAS service error"), "CAS service error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_the_hubs_client_raises_is_one_bounded_sentence(monkeypatch, error, words):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("llmrec.hub.runs.snapshot_download", broken)
    with pytest.raises(RunError, match=words) as refused:
        fetch_run("alice/tiny")
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)
