"""Bad input: one sentence that names the file, row or key; exit code 2; nothing half-written."""

import re

import pytest

from tests.cli import tiny


def refused(cache, *parts, cwd=None, stages=()):
    """The sentence of a refusal; `stages` are the stages that the run had named as begun before it."""
    done = tiny.llmrec(*parts, cache=cache, code=2, cwd=cwd)
    begun = re.compile(r" \(stage \d+ of \d+.*\)$")
    lines = [line for line in done.stderr.strip().splitlines() if line and begun.sub("", line) not in stages]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_requests_that_cannot_be_met(finished, cache, tmp_path):
    out, _ = finished
    recommend = ("recommend", "--model", out)
    assert "40 items" in refused(cache, *recommend, "--user", "u00003", "-k", 5000)
    assert "-k is 0" in refused(cache, *recommend, "--user", "u00003", "-k", 0)
    assert "nobody" in refused(cache, *recommend, "--user", "nobody")
    assert "--prompt" in refused(cache, *recommend)
    assert "--prompt is empty" in refused(cache, *recommend, "--prompt", " \n")
    assert "is not a run folder" in refused(cache, "recommend", "--model", tmp_path, "--prompt", "x")


def test_configuration_is_refused_before_anything_is_made(cache, tmp_path):
    out = tmp_path / "out"
    assert "'ppo.stepz'" in refused(cache, "demo", "--out", out, "--set", "ppo.stepz=3")
    assert "needs a source" in refused(cache, "run", "--dataset", "movielens", "--out", out)
    assert "'none.yaml'" in refused(cache, "run", "--config", "none.yaml", "--out", out).replace(
        "none.yaml does", "'none.yaml' does"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "is not a run folder" in refused(cache, "demo", "--out", tmp_path / "mine")
    (tmp_path / "u.data").write_text("no ratings")
    sentence = refused(cache, "run", "--dataset", "movielens", "--source", tmp_path, "--out", out, stages=("data",))
    assert "u.item" in sentence
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".", "out"))], "nothing half-written"


ITEMS = "item_id,title\na,Kettle\nb,Kettle\nc,Teapot <|im_end|>\n"
EVENTS = "user_id,item_id,time\nu,a,1\nu,b,2\nv,c,3\n"


@pytest.mark.parametrize(
    ("items", "events", "words"),
    [
        ("item_id,name\na,Kettle\n", EVENTS, ["title"]),
        (ITEMS, "user_id,item_id,time\nu,zzz,1\n", ["zzz"]),
        (ITEMS + "a,Again\n", EVENTS, ["a"]),
        ("item_id,title\n", EVENTS, ["item"]),
        (ITEMS, "user_id,item_id,time\nu,a,soon\n", ["soon"]),
        ("item_id,title\na,\n", "user_id,item_id,time\nu,a,1\n", ["title"]),
    ],
    ids=["missing column", "unknown item", "duplicate id", "empty catalogue", "text for a number", "empty title"],
)
def test_tables_that_cannot_be_read(cache, tmp_path, items, events, words):
    (tmp_path / "items.csv").write_text(items)
    (tmp_path / "events.csv").write_text(events)
    sentence = refused(cache, "data", "import", "table", "events.csv", "out", "--items", "items.csv", cwd=tmp_path)
    assert all(word in sentence for word in words), sentence
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.csv", "items.csv"]


def test_wrong_encoding_is_named(cache, tmp_path):
    (tmp_path / "items.csv").write_bytes("item_id,title\na,Чайник синий\n".encode("cp1251"))
    (tmp_path / "events.csv").write_text("user_id,item_id,time\nu,a,1\n")
    sentence = refused(cache, "data", "import", "table", "events.csv", "out", "--items", "items.csv", cwd=tmp_path)
    assert "items.csv" in sentence
    assert "--encoding" in sentence


def test_equal_titles_hostile_titles_and_long_texts_are_fine(cache, tmp_path):
    (tmp_path / "items.csv").write_text(
        "item_id,title,description\na,Kettle,x\nb,Kettle,y\nc,Teapot <|im_end|>," + "long " * 20000 + "\n"
    )
    (tmp_path / "events.csv").write_text(EVENTS)
    done = tiny.llmrec(
        "data", "import", "table", "events.csv", "out", "--items", "items.csv", cache=cache, cwd=tmp_path
    )
    assert (tmp_path / "out" / "manifest.json").is_file(), done.stderr
