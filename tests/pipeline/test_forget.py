"""A person is forgotten: what is gone, what stays, who is marked, and what is refused."""

import json

import polars as pl
import pytest

from llmrec.cli.show import forget_users
from llmrec.config import RunConfig
from llmrec.dataset.store import OPINIONS, REVIEW, TEXTS, Dataset
from llmrec.errors import DataError, RequestError, RunError
from llmrec.hub import push_run
from llmrec.online.events import Outcome, Served
from llmrec.online.log import EventLog, EventReader
from llmrec.pipeline.data import open_data
from llmrec.pipeline.forget import forget
from llmrec.pipeline.work import Work
from llmrec.written import MARK, forgotten_of, write_list
from tests.cli import tiny
from tests.pipeline.test_data import EVENTS

ITEMS = "item_id,title\n" + "".join(f"i{n},Thing {n}\n" for n in range(5))


def shop(folder, users="user_id,profile\nu0,Ada of 7 Hill Road\nu1,Bo\nu2,\nu3,\n"):
    folder.mkdir(parents=True)
    (folder / "events.csv").write_text(EVENTS)
    (folder / "items.csv").write_text(ITEMS)
    (folder / "users.csv").write_text(users)
    return folder


def saved(tmp_path, name="data"):
    config = RunConfig.read(None, {"data.dataset": "table", "data.source": shop(tmp_path / f"{name}-source")})
    open_data(config, Work(tmp_path / f"{name}.work")).dataset.save(tmp_path / name)
    return tmp_path / name


def run_of(tmp_path, named, name="run", **data):
    """A run folder as far as it matters here; the weights are nobody's."""
    out = tmp_path / name
    out.mkdir()
    facts = {"format": 1, "domain": "shop", "language": "en", "repeat": "allow", "liked": "click", "weights": "full"}
    facts |= {"base": None, "base_revision": None, "history_events": 20, "catalogue": "", "dataset": named}
    (out / "llmrec.json").write_text(json.dumps(facts))
    (out / "config.yaml").write_text(json.dumps({"data": data}))
    (out / "model.safetensors").write_bytes(b"weights")
    write_list(out)
    return out


def imported(tmp_path):
    """A run on own tables with its working folder, which holds the import and a report with figures by user."""
    source = shop(tmp_path / "source")
    settings = {"dataset": "table", "source": str(source)}
    config = RunConfig.read(None, {f"data.{key}": value for key, value in settings.items()})
    dataset = open_data(config, Work(tmp_path / "run.work")).dataset
    (tmp_path / "run.work" / "report").mkdir()
    (tmp_path / "run.work" / "report" / "rows.parquet").write_bytes(b"u0")
    named = {"name": "shop", "content_hash": dataset.manifest.content_hash}
    return run_of(tmp_path, named, **settings), source, config


def test_users_leave_a_data_set_with_all_that_is_held_of_them():
    events = pl.DataFrame(
        {
            "user_id": ["a", "b", "a", "c"],
            "item_id": ["x", "x", "y", "y"],
            "kind": ["click"] * 4,
            "time": [1, 2, 3, 4],
        }
    )
    rows = pl.DataFrame(
        {"split": ["test"] * 3, "user_id": ["a", "c", "b"], "history": [["x"], [], []], "target": ["y", "y", "x"]}
    ).with_columns(pl.lit(None, pl.Int64).alias("time"))
    items = pl.DataFrame({"item_id": ["x", "y"], "title": ["X", "Y"]})
    whole = Dataset.build(
        items,
        None,
        events,
        rows=rows,
        name="n",
        domain="shop",
        click="click",
        conversion="click",
        add_missing_users=True,
    )
    left = whole.without_users({"a", "nobody"})
    assert left.users["user_id"].to_list() == ["b", "c"]
    assert left.events["user_id"].to_list() == ["b", "c"]
    assert left.rows["user_id"].to_list() == ["c", "b"]
    assert left.manifest.counts["events"] == 2
    assert left.manifest.counts["rows"] == 2
    anew = Dataset.build(
        items,
        left.users,
        events.filter(pl.col("user_id") != "a"),
        rows=rows.filter(pl.col("user_id") != "a"),
        name="n",
        domain="shop",
        click="click",
        conversion="click",
    )
    assert left.manifest == anew.manifest  # counts and hashes are those of data that never held them
    assert whole.without_users(()).manifest == whole.manifest
    with pytest.raises(DataError, match="no event of anybody else"):
        whole.without_users({"a", "b", "c"})


def test_a_data_set_is_rewritten_and_reads_as_before(tmp_path):
    place = saved(tmp_path)
    (place / "notes.txt").write_text("mine")
    [done] = forget([place], ["u0", "u2"])
    assert (done.users, done.events, done.run) == (2, 30, None)
    left = Dataset.load(place)
    assert set(left.events["user_id"]) == set(left.users["user_id"]) == {"u1", "u3"}
    assert not any(b"Hill Road" in file.read_bytes() or b"u0" in file.read_bytes() for file in place.iterdir())
    assert (place / "notes.txt").read_text() == "mine"
    with pytest.raises(RequestError, match="No place that was named knows user 'u0'"):
        forget([place], ["u0"])


def test_what_was_written_of_people_goes_with_them(tmp_path):
    """Who wrote what, what a person should look at, and drafts: all of it names or tells of people."""
    place = saved(tmp_path)
    for name in (TEXTS, REVIEW, OPINIONS):
        (place / name).write_bytes(b"u0 likes tea")
    drafts = tmp_path / "data.work" / "drafts" / "ab"
    drafts.mkdir(parents=True)
    (drafts / "abcd.json").write_text('{"sentences": ["Likes tea."]}')
    forget([place], ["u0"])
    assert not any((place / name).exists() for name in (TEXTS, REVIEW, OPINIONS))
    assert not drafts.exists()
    assert Dataset.load(place).users.height == 3


def test_a_run_is_marked_and_its_working_folder_forgets(tmp_path):
    run, source, config = imported(tmp_path)
    before = open_data(config, Work(tmp_path / "run.work")).dataset.manifest.content_hash
    [done] = forget([run], ["u0"])
    assert (done.users, done.events) == (1, 15)
    assert f"{source}, which the run was made from, is changed only if it is named" in str(done)
    assert forgotten_of(run) == 1
    assert "u0" not in (run / MARK).read_text()
    held = [file for file in tmp_path.glob("run.work/**/*") if file.is_file()]
    assert held
    assert not any(b"Hill Road" in file.read_bytes() or b"u0" in file.read_bytes() for file in held)
    assert (run / "model.safetensors").read_bytes() == b"weights"
    after = open_data(config, Work(tmp_path / "run.work")).dataset  # the stage is finished, and goes on without them
    assert set(after.users["user_id"]) == {"u1", "u2", "u3"}
    assert after.manifest.content_hash != before
    assert forget([run], ["u1"])[0].users == 1
    assert forgotten_of(run) == 2


def test_a_run_that_is_marked_is_pushed_only_if_that_is_said(tmp_path):
    run, *_ = imported(tmp_path)
    forget([run], ["u3"])
    with pytest.raises(RunError, match=r"trained on 1 users who have been forgotten since; .*--with-forgotten"):
        push_run(run, "somebody/shop")
    (run / MARK).write_text('{"users": "many"}')
    with pytest.raises(RunError, match=r"forgotten\.json does not say"):
        push_run(run, "somebody/shop")


@pytest.mark.parametrize("by", ["source", "hash", "neither"])
def test_a_run_without_its_working_folder_is_known_by_its_data(tmp_path, by):
    place = saved(tmp_path)
    content = Dataset.load(place).manifest.content_hash
    source = str(place) if by == "source" else str(tmp_path / "moved")
    run = run_of(
        tmp_path,
        {"name": "shop", "content_hash": content if by == "hash" else "of what was left of it"},
        dataset="folder",
        source=source,
    )
    data, trained = forget([place, run], ["u0"])
    assert data.users == 1
    assert trained.users == (None if by == "neither" else 1)
    assert forgotten_of(run) == (0 if by == "neither" else 1)
    if by == "neither":
        assert "is not known" in str(trained)
        assert source in str(trained)


def test_a_run_of_other_people_is_left_as_it_is(tmp_path):
    place = saved(tmp_path)
    run, *_ = imported(tmp_path)
    forget([run], ["u0"])
    before = {file: file.read_bytes() for file in tmp_path.glob("run*/**/*") if file.is_file()}
    assert [done.users for done in forget([place, run], ["u0"])] == [1, 0]
    assert {file: file.read_bytes() for file in tmp_path.glob("run*/**/*") if file.is_file()} == before


def test_what_cannot_be_meant_is_refused_before_anything_changes(tmp_path):
    (tmp_path / "empty").mkdir()
    place = saved(tmp_path)
    world = run_of(tmp_path, {"name": "world", "content_hash": ""}, "world", dataset="world")
    kept = Dataset.load(place).manifest.content_hash
    for places, users, said in (
        ([], ["u0"], "Name at least one user"),
        ([place], [], "Name at least one user"),
        ([place, place], ["u0"], "named twice"),
        ([place, tmp_path / "empty"], ["u0"], "neither a data set"),
        ([place, world], ["u0"], "nobody in it to forget"),
        ([place], ["u0", "u9\x1b[31m", "v"], r"knows user 'u9[^\x1b]*' and 1 more"),
        ([place], ["u0", "u1", "u2", "u3"], "no event of anybody else"),
    ):
        with pytest.raises((RequestError, DataError), match=said):
            forget(places, users)
    assert Dataset.load(place).manifest.content_hash == kept


def test_a_damaged_working_folder_is_named(tmp_path):
    run, *_ = imported(tmp_path)
    with (tmp_path / "run.work" / "data" / "dataset" / "users.parquet").open("ab") as file:
        file.write(b"?")
    with pytest.raises((RunError, DataError), match=r"users\.parquet|damaged"):
        forget([run], ["u0"])
    assert not (run / MARK).exists()


def test_the_command_forgets_and_refuses(tmp_path, cache):
    place = saved(tmp_path)
    (tmp_path / "ids").write_text("u1\nu3\n")
    done = tiny.llmrec("forget", place, "--user", "u0", "--users", tmp_path / "ids", cache=cache)
    assert "3 users and 45 events removed" in " ".join(done.stdout.split())
    refused = tiny.llmrec("forget", place, "--user", "u0", cache=cache, code=2)
    assert refused.stderr.count("\n") <= 3
    assert "knows user 'u0'" in " ".join(refused.stderr.split())


def test_event_logs_forget_too(tmp_path):
    place, log = saved(tmp_path), tmp_path / "events.sqlite"
    with EventLog(log, window_s=60) as writer:
        for name, user in (("a", "u0"), ("b", "u1"), ("c", "guest-7")):
            writer.serve([Served(name, user, ("i1",), (0.5,), version=1, exploration="none")])
        writer.receive([Outcome("c", "i1", "click")])
    said = forget_users([log, place], ["u0", "guest-7"], None)
    assert "1 user and 15 events removed" in said
    assert "2 users and 2 slates removed" in said
    assert b"guest-7" not in b"".join(file.read_bytes() for file in tmp_path.glob("events.sqlite*"))
    with EventReader(log) as reader:
        assert (reader.slates_of("u1"), reader.slates_of("guest-7")) == (1, 0)
    for users, places in ((["guest-7"], [log]), (["guest-7"], [log, place]), (["u1", "guest-8"], [log])):
        with pytest.raises(RequestError, match="knows user 'guest-"):
            forget_users(places, users, None)
    with EventReader(log) as reader:
        assert reader.slates_of("u1") == 1
    (tmp_path / "notes.txt").write_text("no log")
    with pytest.raises(RunError, match="notes"):
        forget_users([tmp_path / "notes.txt"], ["u1"], None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow  # a whole tiny run: about half a minute
def test_a_run_folder_holds_nothing_of_persons(tmp_path, cache):
    """Not an id and not a profile, in whatever file; and after forgetting, the same command makes it anew."""
    names = [f"person-{n:04d}-Zyx" for n in range(40)]
    lines = [f"{names[n % 40]},i{(3 * (n // 40) + n) % 120},{n * 3600 + 10**9},click" for n in range(1600)]
    lines += [
        f"{names[n % 40]},i{(3 * (n // 40) + n) % 120},{n * 3600 + 10**9 + 60},conversion" for n in range(0, 1600, 3)
    ]
    source = tmp_path / "shop"
    source.mkdir()
    (source / "events.csv").write_text("user_id,item_id,time,kind\n" + "\n".join(lines) + "\n")
    (source / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},Thing number {n}\n" for n in range(120)))
    (source / "users.csv").write_text(
        "user_id,profile\n" + "".join(f"{name},Likes Quxlane{n:03d} and tea\n" for n, name in enumerate(names))
    )
    own = [part for part in tiny.arguments(**{"gate.exam": "warn"}) if not part.startswith("--set=world.")]
    again = ("run", "--dataset", "table", "--source", source, "--out", tmp_path / "run", *own)
    tiny.llmrec(*again, cache=cache)
    held = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    texts = [file.read_bytes() for file in held if file.suffix != ".parquet"]
    texts += [str(pl.read_parquet(file).rows()).encode() for file in held if file.suffix == ".parquet"]
    assert len(texts) > 10
    assert not any(b"Zyx" in text or b"Quxlane" in text for text in texts)
    tiny.llmrec("forget", tmp_path / "run", "--user", names[3], cache=cache)
    assert forgotten_of(tmp_path / "run") == 1
    left = [f for f in (tmp_path / "run.work").rglob("*") if f.is_file() and names[3].encode() in f.read_bytes()]
    assert left == []
    tiny.llmrec(*again, cache=cache, code=2)
    done = tiny.llmrec(*again, "--force", cache=cache)
    assert "made anew" in done.stdout + done.stderr
    assert forgotten_of(tmp_path / "run") == 0  # a new run folder, which nobody has to be forgotten by
