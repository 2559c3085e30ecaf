"""`llmrec enrich` and `llmrec review` as commands: killed and resumed, and every refusal one sentence."""

import json
import os
import signal
import subprocess
import threading

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, LLMRecError, RequestError, RunError
from tests.cli import tiny
from tests.enrich.data import REVIEWS, dataset
from tests.enrich.models import tiny_folder
from tests.enrich.serving import chat, serving


@pytest.fixture
def data(tmp_path):
    place = tmp_path / "data"
    dataset().save(place)
    return place


@pytest.fixture
def many(tmp_path):
    """Twelve users with some choices each."""
    small = dataset()
    events = [
        (f"u{u:02}", str((u + i) % 5), "rating", 20 * u + i, 4.0 + u / 100) for u in range(12) for i in range(3)
    ]
    table = pl.DataFrame(events, schema=["user_id", "item_id", "kind", "time", "value"], orient="row")
    manifest = {"name": "many", "domain": "shop", "click": "rating", "conversion": "rating>=4"}
    found = Dataset.build(small.items, None, table, **manifest)
    place = tmp_path / "many"
    found.save(place)
    return place


def run(*parts, error=None):
    done = CliRunner().invoke(app, [*map(str, parts)])
    if error is None:
        assert done.exit_code == 0, (done.output, done.exception)
    else:
        assert isinstance(done.exception, error), (done.output, done.exception)
    return done


def test_by_rule_with_reviews_and_a_report(data, tmp_path):
    reviews = tmp_path / "reviews.jsonl"
    lines = [{"user_id": r.user_id, "item_id": r.item_id, "text": r.text, "time": r.time} for r in REVIEWS]
    reviews.write_text("\n".join(map(json.dumps, lines)))
    out, report = tmp_path / "out", tmp_path / "report.json"
    done = run(
        "enrich", data, out, "--write", "users,items", "--reviews", reviews, "--recent", "2", "--test-fraction", "0.13",
        "--json", report,
    )  # fmt: skip
    assert "100.0% of them grounded" in done.output
    assert "2 of 3 belong to the training part" in done.output
    found = Dataset.load(out)
    assert found.manifest.written == json.loads(report.read_text())
    assert "Lately chose Tea" in found.users["profile"][0]
    opinions = pl.read_parquet(out / "opinions.parquet")
    assert opinions["praised"].to_list() == [["quality"], ["design"]]
    assert not (tmp_path / "out.work").exists()  # nothing to keep where nothing costs
    run("enrich", data, out, error=DataError)
    run("enrich", data, out, "--force")
    run("enrich", out, tmp_path / "twice", error=DataError)
    run("data", "check", out)


def test_killed_with_9_in_the_middle_it_goes_on_where_it_was(many, tmp_path):
    hanging, release = threading.Event(), threading.Event()

    def answer(number, body):
        if number == 6 and not hanging.is_set():
            hanging.set()
            release.wait(60)
        words = body["messages"][0]["content"]
        return chat(f"Likes Tea {len(words)} times. Likes Tea, a lot of it, {'and ' * (len(words) % 7)}Tools.")

    options = ("--model", "m", "--parallel", "1", "--write", "users")
    with serving(answer) as (endpoint, address):
        line = tiny.command("enrich", many, tmp_path / "out", "--endpoint", address, *options)
        process = subprocess.Popen(line, env=tiny.environment(tmp_path / "cache"), stderr=subprocess.PIPE)
        assert hanging.wait(100)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        release.set()
        assert not (tmp_path / "out").exists()
        assert len(list((tmp_path / "out.work").rglob("*.json"))) == 4  # the first batch
        first = len(endpoint.requests)
        run("enrich", many, tmp_path / "out", "--endpoint", address, *options)
        texts = Dataset.load(tmp_path / "out").manifest.written["writers"][0]["texts"]
        assert len(endpoint.requests) == first + texts - 4
        run("enrich", many, tmp_path / "again", "--endpoint", address, *options)
        killed, whole = (pl.read_parquet(tmp_path / name / "texts.parquet") for name in ("out", "again"))
        assert killed.equals(whole)
        before = len(endpoint.requests)
        run("enrich", many, tmp_path / "out", "--endpoint", address, *options, "--force")
        assert len(endpoint.requests) == before  # all from the cache


def test_the_key_is_written_nowhere(data, tmp_path, monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("MY_KEY", key)
    with serving(lambda number, body: chat("Likes Tea.")) as (endpoint, address):
        done = run(
            "enrich", data, tmp_path / "out", "--endpoint", address, "--model", "m", "--key-variable", "MY_KEY"
        )
    assert endpoint.requests[0][1]["Authorization"] == f"Bearer {key}"
    assert key not in done.output
    for place in tmp_path.rglob("*"):
        assert place.is_dir() or key.encode() not in place.read_bytes()


def test_a_local_model_writes_and_what_it_cannot_is_left_to_the_rule(data, tmp_path):
    folder = tiny_folder(tmp_path / "model")
    done = run("enrich", data, tmp_path / "out", "--model", folder, "--tokens", "12", "--recent", "2")
    assert "model model:" in done.output
    assert "left to the rule" in done.output
    found = Dataset.load(tmp_path / "out")
    assert {w["writer"] for w in found.manifest.written["writers"]} == {"model", "extractive"}
    assert "Lately" in found.users["profile"][0]


def test_review_lists_decides_and_says_what_then(data, tmp_path):
    out = tmp_path / "out"
    with serving(lambda number, body: chat("Likes Tea. Is drawn to suicide.")) as (_, address):
        options = ("--endpoint", address, "--model", "m", "--write", "users")
        run("enrich", data, out, *options)
        listed = run("review", out, "--json").output.splitlines()
        entry = json.loads(listed[0])
        assert entry["words"] == "suicide"
        assert "open" in run("review", out).output
        assert "--force" in run("review", out, "--accept", entry["id"]).output
        assert f"{entry['id']}  accept" in run("review", out).output
        run("enrich", data, out, *options, "--force")
    texts = pl.read_parquet(out / "texts.parquet").filter(pl.col("subject") == entry["subject"])
    assert any("suicide" in text for text in texts["text"])
    run("review", out, "--accept", "x", "--refuse", "x", error=ConfigError)
    run("review", out, "--accept", "nobody", error=RequestError)
    run("review", data, error=RunError)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--write", "reviews"), ConfigError),
        (("--write", ""), ConfigError),
        (("--endpoint", "http://localhost:1/v1"), ConfigError),
        (("--endpoint", "nonsense", "--model", "m"), ConfigError),
        (("--model", "/no/such/folder"), RunError),
        (("--split", "given"), DataError),
        (("--reviews", "/no/such/file"), DataError),
        (("--forbidden", "/no/such/file"), RequestError),
        (("--test-fraction", "1.5"), ConfigError),
    ],
)
def test_refusals_come_before_anything_is_made(data, tmp_path, options, error):
    run("enrich", data, tmp_path / "out", *options, error=error)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["data"]
    assert issubclass(error, LLMRecError)


def test_a_place_that_is_taken_is_refused(data, tmp_path):
    run("enrich", data, data, "--force", error=DataError)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "own.txt").write_text("mine")
    run("enrich", data, tmp_path / "notes", "--force", error=DataError)
    assert (tmp_path / "notes" / "own.txt").read_text() == "mine"
