from __future__ import annotations

import gzip
import json

import polars as pl
import pytest

from llmrec.dataset.examples import examples
from llmrec.dataset.importers import IMPORTERS, import_dataset
from llmrec.dataset.importers.amazon import prices
from llmrec.dataset.importers.minionerec import list_text
from llmrec.dataset.importers.movielens import plain_title
from llmrec.dataset.importers.reading import ReadOptions, read_csv_rows, read_lines
from llmrec.dataset.split import make_split
from llmrec.errors import ConfigError, DataError
from tests.dataset.tiny import real_data


def test_unknown_kind_and_missing_source(tmp_path):
    with pytest.raises(ConfigError, match="'netflix' is unknown; choose one of movielens"):
        import_dataset("netflix", tmp_path)
    for kind in IMPORTERS:
        with pytest.raises(DataError, match="does not exist"):
            import_dataset(kind, tmp_path / "nowhere")
        with pytest.raises(DataError, match=str(tmp_path)):
            import_dataset(kind, tmp_path)  # an empty folder


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Shawshank Redemption, The (1994)", "The Shawshank Redemption (1994)"),
        ("Postino, Il (1994)", "Il Postino (1994)"),
        ("American in Paris, An (1951)", "An American in Paris (1951)"),
        ("Avventura, L' (Adventure, The) (1960)", "L'Avventura (The Adventure) (1960)"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en) (1995)"),
        ("Legend, The (a.k.a. Long Night, A) (1995)", "The Legend (a.k.a. A Long Night) (1995)"),
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly (1966)"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("unknown", "unknown"),
    ],
)
def test_titles_as_people_write_them(raw, plain):
    assert plain_title(raw) == plain


def _movielens_100k(folder):
    flags = ["0"] * 19
    flags[5] = flags[8] = "1"  # Comedy, Drama
    rows = [
        ["1", "Été, L' (1995)", "01-Jan-1995", "", "http://x", *flags],
        ["2", "unknown", "", "", "", "1", *["0"] * 18],
    ]
    (folder / "u.item").write_text("".join("|".join(r) + "\n" for r in rows), encoding="latin-1")
    (folder / "u.user").write_text("7|24|M|technician|85711\n8|18|F|other|94043\n", encoding="latin-1")
    (folder / "u.data").write_text("7\t1\t4\t881250949\n8\t2\t3\t881250950\n7\t2\t1\t881250949\n", encoding="latin-1")


def test_movielens_100k_layout(tmp_path):
    (tmp_path / "ml-100k").mkdir()
    _movielens_100k(tmp_path / "ml-100k")
    dataset = import_dataset("movielens", tmp_path)
    assert dataset.items.rows(named=True)[0] == {
        "item_id": "1",
        "title": "L'Été (1995)",
        "description": "Comedy, Drama film of 1995.",
        "categories": ["Comedy", "Drama"],
        "brand": "",
        "price": None,
    }
    assert dataset.items["categories"].to_list()[1] == []
    assert dataset.users.rows() == [
        ("7", "A 24-year-old man; occupation: technician."),
        ("8", "An 18-year-old woman."),
    ]
    events = dataset.events.select("user_id", "item_id", "kind", "value", "time").rows()
    assert events == [
        ("7", "1", "rating", 4.0, 881250949),
        ("7", "2", "rating", 1.0, 881250949),
        ("8", "2", "rating", 3.0, 881250950),
    ]
    manifest = dataset.manifest
    assert (manifest.name, manifest.domain, manifest.repeat) == ("movielens-100k", "film", "exclude")
    assert (manifest.click, manifest.conversion) == ("rating", "rating>=4")
    assert "stands for a click" in manifest.proxy


def test_movielens_1m_layout(tmp_path):
    (tmp_path / "movies.dat").write_text("1::Misérables, Les (1995)::Drama|War\n", encoding="latin-1")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::0::70072\n", encoding="latin-1")
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n2::1::3::978302109\n", encoding="latin-1")
    dataset = import_dataset("movielens", tmp_path)
    assert dataset.items["title"].to_list() == ["Les Misérables (1995)"]
    assert dataset.users["profile"].to_list() == [
        "A woman, under 18 years old; occupation: K-12 student.",
        "A man, 56 or more years old.",
    ]
    assert dataset.events["value"].to_list() == [5.0, 3.0]
    assert dataset.manifest.name == "movielens-1m"


def _movielens_csv(folder):
    movies = 'movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n11,"American President, The (1995)",(no genres listed)\n'
    (folder / "movies.csv").write_text(movies, encoding="utf-8")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,11,4.5,964982703\n2,1,0.5,964981247\n")
    (folder / "tags.csv").write_text('userId,movieId,tag,timestamp\n2,1,Funny,1\n3,1,funny,2\n3,1,"pixar, old",3\n')


def test_movielens_csv_layout(tmp_path):
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    _movielens_csv(folder)
    dataset = import_dataset("movielens", folder)
    assert dataset.items["title"].to_list() == ["Toy Story (1995)", "The American President (1995)"]
    assert dataset.items["categories"].to_list() == [["Animation", "Comedy"], []]
    assert dataset.items["description"].to_list() == ["Animation, Comedy film of 1995.", "Film of 1995."]
    assert dataset.events.select("user_id", "value", "time").rows() == [("2", 0.5, 964981247), ("1", 4.5, 964982703)]
    assert dataset.users["user_id"].to_list() == ["1", "2"]
    assert dataset.manifest.name == "movielens-latest-small"
    tagged = import_dataset("movielens", folder, tags=True)
    assert tagged.items["description"][0] == "Animation, Comedy film of 1995. Tagged funny, pixar, old."


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("u.data", "7\t1\t4\t881250949\n7\tx\t3\t5\n", r"u\.data, line 2: item_id is 'x'"),
        ("u.data", "7\t1\t4\n", r"u\.data, line 1 has 3 fields where 4 numbers"),
        ("u.data", "7\t1\tnan\t5\n", r"u\.data, line 1"),
        ("u.data", "7\t\t4\t5\n", r"u\.data, line 1"),
        ("u.data", "", r"u\.data is empty"),
        ("u.item", "1|Title|x\n", r"u\.item, line 1 has 3 fields where 24"),
        ("u.user", "7|24|M\n", r"u\.user, line 1 has 3 fields"),
        ("u.data", "7\t99\t4\t5\n", "'99'"),  # an item that u.item does not list
    ],
)
def test_movielens_broken_lines(tmp_path, file, text, message):
    _movielens_100k(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        import_dataset("movielens", tmp_path)


def _json_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


REVIEWS_2018 = [
    {"reviewerID": "u1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1500000000, "reviewText": "good"},
    {"reviewerID": "u1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1500000000, "reviewText": "good"},
    {"reviewerID": "u2", "asin": "B2", "overall": 2.0, "unixReviewTime": 1400000000},
    {"reviewerID": "u2", "asin": "B9", "overall": 2.0, "unixReviewTime": 1400000000},
]
META_2018 = [
    {"asin": "B2", "title": "Nuts &amp; <b>Bolts</b>", "description": ["Steel.", "Steel.", "Zinc."], "brand": "Acme"},
    {
        "asin": "B1",
        "title": "Tape",
        "category": ["Home", "Home", "x" * 90],
        "price": "$1,012.99",
        "feature": ["Long"],
    },
    {"asin": "B7", "title": "Never reviewed"},
]


@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_amazon_2018(tmp_path, ending, capsys):
    _json_lines(tmp_path / f"Tools_5.{ending}", REVIEWS_2018)
    _json_lines(tmp_path / f"meta_Tools.{ending}", META_2018)
    dataset = import_dataset("amazon", tmp_path)
    assert dataset.items.select("item_id", "title", "description", "categories", "brand", "price").rows() == [
        ("B2", "Nuts & Bolts", "Steel. Zinc.", [], "Acme", None),
        ("B1", "Tape", "Long", ["Home"], "", 1012.99),
    ]
    events = dataset.events.select("user_id", "item_id", "value", "time").rows()
    assert events == [("u2", "B2", 2.0, 1400000000), ("u1", "B1", 5.0, 1500000000)]
    assert dataset.manifest.name == "amazon-2018-Tools_5"
    shown = capsys.readouterr().err
    assert "1 exact copies" in shown
    assert "1 reviews of 1 items that have no title" in shown


def test_amazon_2023(tmp_path):
    review = {"user_id": "u1", "asin": "C1", "parent_asin": "P1", "rating": 4.0, "timestamp": 1658365030365}
    meta = {
        "parent_asin": "P1",
        "title": "Cream",
        "features": ["Soft"],
        "description": ["For skin."],
        "store": "Glow",
    }
    _json_lines(tmp_path / "All_Beauty.jsonl", [{**review, "title": "Great", "text": "…"}])
    _json_lines(tmp_path / "meta_All_Beauty.jsonl", [{**meta, "categories": ["Beauty"], "price": 12.5}])
    dataset = import_dataset("amazon", tmp_path)
    assert dataset.items.rows() == [("P1", "Cream", "For skin. Soft", ["Beauty"], "Glow", 12.5)]
    assert dataset.events.select("item_id", "time", "value").rows() == [("P1", 1658365030, 4.0)]
    assert dataset.manifest.source == "https://amazon-reviews-2023.github.io/"


def test_amazon_core(tmp_path):
    rows = [
        {"reviewerID": u, "asin": i, "overall": 5, "unixReviewTime": n}
        for n, (u, i) in enumerate(["aP", "aQ", "bP", "bQ", "cP", "cR", "dR"])
    ]
    # c keeps only P once R falls (d leaves first), so c leaves too: the 2-core is {a, b} x {P, Q}
    _json_lines(tmp_path / "r.json", rows)
    _json_lines(tmp_path / "m.json", [{"asin": i, "title": i} for i in "PQR"])
    dataset = import_dataset("amazon", tmp_path, core=2)
    assert sorted(dataset.events.select("user_id", "item_id").rows()) == [*zip("aabb", "PQPQ", strict=True)]


@pytest.mark.parametrize(
    ("value", "dollars"),
    [
        ("$12.99", 12.99),
        ("$5.00 - $9.00", 5.0),
        (3, 3.0),
        ("", None),
        (None, None),
        ("—", None),
        (True, None),
        (-1, None),
        ("from 14.99", 14.99),
        (".a-box-inner{width:5px}", None),
        (float("nan"), None),
        ("$" * 100 + "5", None),
    ],
)
def test_prices(value, dollars):
    assert prices([value]).to_list() == [dollars]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"reviewerID": "u"', r"r\.json, line 2 is not JSON"),
        (b"[1]", r"r\.json, line 2 is list, not an object"),
        (b'{"reviewerID": "u", "asin": "B1", "overall": "x", "unixReviewTime": 1}', "line 2: overall is 'x'"),
        (b'{"reviewerID": "u", "asin": "B1", "overall": NaN, "unixReviewTime": 1}', "line 2: overall is 'nan'"),
        (b'{"reviewerID": null, "asin": "B1", "overall": 1, "unixReviewTime": 1}', "line 2: 'reviewerID' is None"),
        (b'{"reviewerID": "\xff"}', r"r\.json, line 2: byte \d+ \(0xff\) is not UTF-8"),
        (b"[" * 100000, "line 2 is not JSON"),
    ],
)
def test_amazon_broken_lines(tmp_path, bad, message):
    first = json.dumps(REVIEWS_2018[0]).encode()
    (tmp_path / "r.json").write_bytes(first + b"\n" + bad + b"\n")
    _json_lines(tmp_path / "m.json", META_2018)
    with pytest.raises(DataError, match=message):
        import_dataset("amazon", tmp_path)


def test_amazon_missing_and_ambiguous_files(tmp_path):
    _json_lines(tmp_path / "r.json", REVIEWS_2018)
    with pytest.raises(DataError, match="0 files of Amazon meta"):
        import_dataset("amazon", tmp_path)
    _json_lines(tmp_path / "m.json", META_2018)
    _json_lines(tmp_path / "m2.json", META_2018)
    with pytest.raises(DataError, match=r"2 files of Amazon meta \(m.json, m2.json\)"):
        import_dataset("amazon", tmp_path)
    assert import_dataset("amazon", tmp_path / "r.json", meta=tmp_path / "m2.json").n_items == 2


def test_truncated_gzip(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"line\n" * 100_000)[:-20])
    with pytest.raises(DataError, match=r"broken gzip file .* \(after line \d+\)"):
        list(read_lines(tmp_path / "x.gz"))


def _minionerec(folder):
    items = [{"id": n, "asin": f"B{n}", "title": f"Tool {n}", "description": "['One.', 'Two.']"} for n in range(4)]
    _json_lines(folder / "items.jsonl.gz", [*items, {"id": 4, "asin": "", "title": "No id", "description": ""}])
    names = [("B0", 10, "train"), ("B1", 20, "train"), ("B2", 30, "valid"), ("B3", 40, "test")]
    events = [{"asin": a, "ts": t, "rating": 5.0, "split": s} for a, t, s in names]
    lone = [{"asin": "B2", "ts": 31, "rating": 1.0, "split": "first_event_after_boundary"}]
    _json_lines(folder / "users.jsonl", [{"user": "AAA", "events": events}, {"user": "BBB", "events": lone}])
    head = "user_id,history_item_title,item_title,history_item_id,item_id\n"
    (folder / "valid.csv").write_text(head + "A7,\"['a, b', 'c']\",Tool 2,\"[0, 1]\",2\n")
    (folder / "test.csv").write_text(head + 'A7,[],Tool 3,"[0, 1, 2]",3\nA9,[],Tool 1,"[4, 4]",1\n')


def test_minionerec_files(tmp_path):
    _minionerec(tmp_path)
    dataset = import_dataset("amazon-minionerec", tmp_path)
    assert dataset.items["item_id"].to_list() == ["0", "1", "2", "3", "4"]
    assert dataset.items["description"].to_list() == ["One. Two."] * 4 + [""]
    assert dataset.events.select("item_id", "time", "split").rows() == [
        ("0", 10, "train"),
        ("1", 20, "train"),
        ("2", 30, "valid"),
        ("2", 31, "valid"),  # of no published part, but earlier than all of test
        ("3", 40, "test"),
    ]
    assert dataset.rows.rows() == [
        ("valid", "AAA", ["0", "1"], "2", 30),
        ("test", "AAA", ["0", "1", "2"], "3", 40),
        ("test", "A9", ["4", "4"], "1", None),
    ]
    split = make_split(dataset, "given")
    test = examples(dataset, split, "test")
    assert [[i.value for i in e.state.history] for e in test] == [[5.0, 5.0, 5.0], [None, None]]
    assert len(examples(dataset, split, "train")) == 2


def test_minionerec_keeps_the_published_order_within_a_day(tmp_path):
    _minionerec(tmp_path)
    events = [{"asin": f"B{n}", "ts": 86400, "rating": 5.0, "split": "train"} for n in (3, 0, 2)]
    late = [{"asin": "B1", "ts": 172800, "rating": 5.0, "split": "first_event_after_boundary"}]
    test = [{"asin": "B0", "ts": 100000, "rating": 5.0, "split": "test"}]
    _json_lines(tmp_path / "users.jsonl", [{"user": "AAA", "events": events + test}, {"user": "B", "events": late}])
    rows = import_dataset("amazon-minionerec", tmp_path).events.select("item_id", "time", "split").rows()
    assert rows == [
        ("3", 86400, "train"),
        ("0", 86401, "train"),
        ("2", 86402, "train"),
        ("0", 100000, "test"),
        ("1", 172800, None),
    ]
    plain = import_dataset("amazon-minionerec", tmp_path, order="day")
    assert [row[0] for row in plain.events.select("time").rows()] == [86400, 86400, 86400, 100000, 172800]


def test_minionerec_broken_rows(tmp_path):
    _minionerec(tmp_path)
    head = "user_id,history_item_id,item_id\n"
    for row, message in (
        ("A7,\"['x']\",2", "line 2: history_item_id"),
        ("A7,[0],9", r"line 2: item '9' is not in the items"),
        ("A7,[0]", "line 2 has 2 fields where its header has 3"),
    ):
        (tmp_path / "test.csv").write_text(head + row + "\n")
        with pytest.raises(DataError, match=message):
            import_dataset("amazon-minionerec", tmp_path)


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ("['One &amp; two.', 'Three.']", "One & two. Three."),
        ("plain", "plain"),
        ("", ""),
        ("['it's broken']", "it's broken"),
        ("[1, 'x']", "x"),
        ("[" * 5000, ""),
        ("[__import__('os').system('echo')]", "__import__('os').system('echo')"),
    ],
)
def test_printed_lists_are_read_and_never_run(printed, text):
    assert list_text(printed) == text


EVENTS = "customer,sku,at,action\nu1,A,2024-05-01T00:00:10,view\nu1,A,2024-05-01T02:00:20+02:00,buy\nu2,B,2024-05-02,drop\n"
MAPPING = """\
name: shop
events: {file: log.csv, columns: {user_id: customer, item_id: sku, time: at, kind: action}}
items: {file: products.jsonl, columns: {item_id: sku, title: name, categories: groups}}
kinds: {view: click, buy: conversion, drop: ignore}
"""


def _own(folder):
    (folder / "log.csv").write_text(EVENTS)
    _json_lines(
        folder / "products.jsonl",
        [{"sku": "A", "name": "Pen", "price": 2, "groups": ["Office"]}, {"sku": "B", "name": "Ink", "groups": None}],
    )
    (folder / "mapping.yaml").write_text(MAPPING)


def test_own_tables_with_a_mapping(tmp_path):
    _own(tmp_path)
    dataset = import_dataset("table", tmp_path)
    midnight = 1714521600  # 2024-05-01T00:00:00Z
    assert dataset.events.select("user_id", "item_id", "kind", "time").rows() == [
        ("u1", "A", "click", midnight + 10),
        ("u1", "A", "conversion", midnight + 20),
    ]
    assert dataset.items.select("title", "price", "categories").rows() == [
        ("Pen", 2.0, ["Office"]),
        ("Ink", None, []),
    ]
    assert (dataset.manifest.name, dataset.manifest.click, dataset.manifest.proxy) == ("shop", "click", "")
    assert import_dataset("table", tmp_path / "mapping.yaml").manifest == dataset.manifest


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "csv.gz"])
def test_own_tables_without_a_mapping(tmp_path, ending):
    tables = {
        "events": pl.DataFrame({"user_id": ["1", "2"], "item_id": ["7", "7"], "time": [5, 6], "value": [4.5, 1.0]}),
        "items": pl.DataFrame({"item_id": ["7"], "title": ["Ünïque, really"], "extra": [None]}),
        "users": pl.DataFrame({"user_id": ["1"], "profile": ["Likes tea."]}),
    }
    for name, frame in tables.items():
        path = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            frame.write_parquet(path)
        elif ending == "jsonl":
            frame.write_ndjson(path)
        else:
            text = frame.write_csv(separator="\t" if ending == "tsv" else ",").encode()
            path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    dataset = import_dataset("table", tmp_path)
    assert dataset.events.select("user_id", "kind", "time", "value").rows() == [
        ("1", "rating", 5, 4.5),
        ("2", "rating", 6, 1.0),
    ]
    assert dataset.items["title"].to_list() == ["Ünïque, really"]
    assert dataset.users.rows() == [("1", "Likes tea."), ("2", "")]
    assert dataset.manifest.click == "rating"
    assert "stands for a click" in dataset.manifest.proxy


def test_milliseconds(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n7,X\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,time\n1,7,1714521600123\n")
    mapping = {"events": {"file": "events.csv"}, "items": {"file": "items.csv"}}
    for given in ({}, {"time_unit": "ms"}):
        events = import_dataset("table", tmp_path, mapping={**mapping, **given}).events
        assert events.select("time", "order").rows() == [(1714521600, 123_000_000)]
    with pytest.raises(DataError, match=r"events\.csv, line 2: 'time' is '1714521600123', but it must be seconds"):
        import_dataset("table", tmp_path, mapping={**mapping, "time_unit": "s"})


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "log.csv",
            "customer,at,action\nu1,5,view\n",
            r"lacks the column 'sku' for 'item_id' \(it has: customer, at, action\)",
        ),
        ("log.csv", "customer,sku,at,action\nu1,A,soon,view\n", r"log\.csv, column 'time': 'soon' is neither"),
        ("log.csv", "customer,sku,at,action\nu1,A,5,steal\n", "kind 'steal' is not known"),
        ("log.csv", "customer,sku,at,action\nu1,A,5,view,x,y\n", "line 2 has 6 fields"),
        ("log.csv", "customer,sku,at,action\nu1,Q,5,view\n", "'Q'"),
        ("log.csv", "", "log.csv"),
        ("products.jsonl", '{"sku": "A"}\n', "lacks the column 'name' for 'title'"),
        (
            "products.jsonl",
            '{"sku": "A", "name": "Pen", "price": "cheap", "groups": []}\n',
            r"products\.jsonl, line 1: 'price' is 'cheap'",
        ),
        ("products.jsonl", '{"sku": "A", "name": "Pen"}\nx\n', r"products\.jsonl, line 2 is not JSON"),
        ("mapping.yaml", MAPPING + "tpyo: 1\n", "Unknown key 'tpyo'"),
        ("mapping.yaml", MAPPING.replace("file: log.csv", "file: none.csv"), "none.csv does not exist"),
        ("mapping.yaml", MAPPING.replace("user_id:", "usr:"), "'usr' is no column of events"),
        ("mapping.yaml", "name: x\n", "needs the key 'events.file'"),
        ("mapping.yaml", "a: [\n", "is not YAML"),
    ],
)
def test_own_tables_bad_input(tmp_path, file, text, message):
    _own(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises((DataError, ConfigError), match=message):
        import_dataset("table", tmp_path)


def test_western_text_is_read_and_said_and_a_named_encoding_is_kept_to(tmp_path):
    _own(tmp_path)
    (tmp_path / "log.csv").write_bytes(b"customer,sku,at,action\nm\xfcller,A,5,view\n")
    dataset = import_dataset("table", tmp_path)
    assert dataset.events["user_id"].to_list() == ["müller"]
    assert any("log.csv: CP1252" in text for text in dataset.manifest.account["assumed"])
    with pytest.raises(DataError, match=r"log\.csv, line 2: byte 0xfc is not of the file's encoding; .*--skip-bad"):
        import_dataset("table", tmp_path, reading=ReadOptions(encoding="utf-8"))


def test_csv_fields_with_line_breaks(tmp_path):
    (tmp_path / "x.csv").write_text('a,b\n"one\ntwo",3\n')
    assert [row for _, row in read_csv_rows(tmp_path / "x.csv")] == [{"a": "one\ntwo", "b": "3"}]


def test_real_movielens_100k():
    dataset = import_dataset("movielens", real_data("movielens-100k"))
    assert (dataset.users.height, dataset.n_items, dataset.events.height) == (943, 1682, 100_000)
    assert (dataset.events["value"] >= 4).mean() == pytest.approx(0.55, abs=0.005)
    counts = make_split(dataset, valid_fraction=0.0, test_fraction=0.2).counts
    # the 80,000th and the 80,001st event have the same time, which the cut does not tear apart
    assert counts["test_events"] == 20_001
    assert counts["test_events_of_new_users"] == 17_048


def test_real_amazon_industrial():
    dataset = import_dataset("amazon-minionerec", real_data("amazon-industrial"))
    assert (dataset.n_items, dataset.events.height, dataset.events["user_id"].n_unique()) == (3686, 22_743, 3285)
    assert dict(dataset.rows["split"].value_counts().iter_rows()) == {"valid": 4532, "test": 4533}
    split = make_split(dataset, "given")
    assert split.train.height == 13_229
    test = examples(dataset, split, "test")
    assert len(test) == 4533
    assert max(len(e.state.history) for e in test) == 10
    repeated = sum(e.target in e.state.seen() for e in test) / len(test)
    assert repeated == pytest.approx(0.028, abs=0.0005)
    assert split.train["time"].max() <= dataset.rows.filter(pl.col("split") == "test")["time"].min()


ARMS = """\
recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend
10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,1,1,29.99
1,"7) $1,000 +",1329.08,1,1,Rural,1,Multichannel,No E-Mail,0,0,0
7,1) $0 - $100,29.99,0,0,Urban,1,Web,Mens E-Mail,1,0,0
"""


def test_hillstrom_is_a_log_of_arms(tmp_path):
    (tmp_path / "hillstrom.csv").write_text(ARMS)
    dataset = import_dataset("hillstrom", tmp_path)
    assert dataset.items["item_id"].to_list() == ["mens-email", "womens-email", "no-email"]
    assert dataset.users["profile"].to_list() == [
        "Last order 10 months ago. Spent $100 - $200 in a year. Buys men's goods. Lives in a suburban area. Orders by phone. Old customer.",
        "Last order 1 month ago. Spent $1,000 + in a year. Buys men's goods and women's goods. Lives in a rural area. Orders by several channels. New customer.",
        "Last order 7 months ago. Spent $0 - $100 in a year. Buys other goods. Lives in a urban area. Orders by web. New customer.",
    ]
    events = dataset.events.select("user_id", "item_id", "kind", "value", "position").rows()
    assert events == [
        ("1", "womens-email", "impression", None, 0),
        ("1", "womens-email", "click", None, 0),
        ("1", "womens-email", "conversion", 29.99, 0),
        ("2", "no-email", "impression", None, 0),
        ("3", "mens-email", "impression", None, 0),
        ("3", "mens-email", "click", None, 0),
    ]
    assert set(dataset.events["propensity"]) == {1 / 3}
    assert set(dataset.events["split"]) <= {"train", "valid", "test"}
    assert dataset.events.group_by("user_id").agg(pl.col("split").n_unique())["split"].to_list() == [1, 1, 1]
    assert import_dataset("hillstrom", tmp_path / "hillstrom.csv").manifest == dataset.manifest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Mens E-Mail", "Post", "line 4: segment is 'Post'"),
        (",1,0,0\n", ",2,0,0\n", "line 4: visit is '2'"),
        (",1,0,0\n", ",0,1,0\n", "line 4: a conversion without a visit"),
        ("1,1,29.99", "1,1,dear", "line 2: spend is 'dear'"),
        ("recency,", "months,", "lacks the column 'recency'"),
        (ARMS[ARMS.index("\n") + 1 :], "", "holds no customer"),
    ],
)
def test_hillstrom_broken_lines(tmp_path, old, new, message):
    (tmp_path / "hillstrom.csv").write_text(ARMS.replace(old, new))
    with pytest.raises(DataError, match=message):
        import_dataset("hillstrom", tmp_path)


PRODUCTS = """\
product_id,manufacturer_id,department,brand,product_category,product_type,package_size
11,2,GROCERY,National,FRZN ICE,ICE - CRUSHED,22 LB
12,69,PASTRY,Private,BREAD,BREAD:ITALIAN,NA
13,69,GROCERY,Private,BREAD,BREAD:ITALIAN,1   LB
14,2,MISC,National,,,
"""
SALES = """\
household_id,store_id,basket_id,product_id,quantity,sales_value,week,transaction_timestamp
1,9,500,12,1,1.50,1,2017-01-28 19:06:53
1,9,500,13,1,2.25,1,2017-01-28 19:06:53
2,9,501,11,2,4,1,2017-01-29 00:00:00
2,9,501,14,2,4,1,2017-01-29 00:00:00
2,9,501,99,2,4,1,2017-01-29 00:00:00
"""
HOMES = """\
household_id,age,income,home_ownership,marital_status,household_size,household_comp,kids_count
1,65+,35-49K,Homeowner,Married,2,2 Adults No Kids,0
"""


def _journey(folder):
    (folder / "products.csv").write_text(PRODUCTS)
    (folder / "transactions_sample.csv").write_text(SALES)
    (folder / "demographics.csv").write_text(HOMES)


def test_complete_journey_products(tmp_path, capsys):
    _journey(tmp_path)
    dataset = import_dataset("complete-journey", tmp_path)
    assert dataset.items.select("item_id", "title", "categories", "brand").rows() == [
        ("11", "Ice - crushed, 22 lb", ["Grocery", "Frzn ice"], "National brand, maker 2"),
        ("12", "Bread:italian", ["Pastry", "Bread"], "Private brand, maker 69"),
        ("13", "Bread:italian, 1 lb", ["Grocery", "Bread"], "Private brand, maker 69"),
        ("14", "Misc", ["Misc"], "National brand, maker 2"),
    ]
    assert dataset.events.select("user_id", "item_id", "kind", "value", "time", "session").rows()[:2] == [
        ("1", "12", "conversion", 1.5, 1485630413, "500"),  # date -u -d '2017-01-28 19:06:53' +%s
        ("1", "13", "conversion", 2.25, 1485630413, "500"),
    ]
    assert dataset.users.rows() == [
        ("1", "A household of 2 adults no kids; aged 65+; income 35-49K; homeowner; married."),
        ("2", ""),
    ]
    assert dataset.manifest.repeat == "allow"
    assert "Left out 1 sales of products that are not in the products file" in capsys.readouterr().err


def test_complete_journey_product_types(tmp_path, capsys):
    _journey(tmp_path)
    dataset = import_dataset("complete-journey", tmp_path, level="type")
    assert dataset.items.select("item_id", "title", "categories").rows() == [
        ("BREAD:ITALIAN", "Bread:italian", ["Pastry", "Bread", "Grocery"]),
        ("ICE - CRUSHED", "Ice - crushed", ["Grocery", "Frzn ice"]),
    ]
    assert dataset.events.select("user_id", "item_id", "value").rows() == [
        ("1", "BREAD:ITALIAN", 3.75),
        ("2", "ICE - CRUSHED", 4.0),
    ]
    assert "Left out 1 lines of products without a type" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("transactions_sample.csv", "1.50", "cheap", "line 2: sales_value is 'cheap'"),
        (
            "transactions_sample.csv",
            "2017-01-28 19:06:53\n1",
            "yesterday\n1",
            "line 2: transaction_timestamp is 'yest",
        ),
        ("transactions_sample.csv", "sales_value", "paid", "lacks the column 'sales_value'"),
        ("products.csv", "department", "dept", "lacks the column 'department'"),
        ("products.csv", PRODUCTS[PRODUCTS.index("\n") + 1 :], "", "no sale of a product of the products file"),
    ],
)
def test_complete_journey_broken_files(tmp_path, file, old, new, message):
    _journey(tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        import_dataset("complete-journey", tmp_path)
    with pytest.raises(DataError, match="is a file; give the folder"):
        import_dataset("complete-journey", tmp_path / file)


def _coat(folder):
    (folder / "train.ascii").write_text("0 5 0\n3 0 0\n")
    (folder / "test.ascii").write_text("1 0 0\n0 4 2\n")
    features = folder / "user_item_features"
    features.mkdir()
    (features / "user_features_map.txt").write_text("gender:men\ngender:women\nage:20-30\nfashioninterest:very")
    (features / "user_features.ascii").write_text("0 1 1 1\n1 0 0 0\n")
    (features / "item_features_map.txt").write_text("gender:women\njackettype:rain\ncolor:red\nonfrontpage:yes\n")
    (features / "item_features.ascii").write_text("1 1 1 1\n1 0 1 0\n1 1 0 0\n")


def test_coat_ratings_keep_their_part(tmp_path):
    _coat(tmp_path)
    (tmp_path / "propensities.ascii").write_text("0.1 0.2 0.3\n0.4 0.5 0.6\n")
    dataset = import_dataset("coat", tmp_path)
    assert dataset.events.select("user_id", "item_id", "value", "time", "split").rows() == [
        ("u0", "c1", 5.0, 0, "train"),
        ("u1", "c0", 3.0, 0, "train"),
        ("u0", "c0", 1.0, 1, "test"),
        ("u1", "c1", 4.0, 1, "test"),
        ("u1", "c2", 2.0, 1, "test"),
    ]
    assert dataset.events["propensity"].to_list() == pytest.approx([0.2, 0.4, 1 / 3, 2 / 3, 2 / 3])
    assert dataset.items["title"].to_list()[0] == "Red rain coat for women (no. 0)"
    assert dataset.items["categories"].to_list()[1] == ["women", "other", "red"]
    assert dataset.users["profile"][0] == "A woman aged 20-30; lives in a unknown place; very interested in fashion."
    assert import_dataset("coat", tmp_path, propensities=False).events["propensity"].null_count() == 5


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.ascii", "0 5 0\n3 0\n", r"train\.ascii, line 2 must hold 3 numbers from 0 to 5"),
        ("train.ascii", "0 6 0\n3 0 0\n", r"train\.ascii, line 1 must hold"),
        ("train.ascii", "0 x 0\n", "line 1: a value is 'x'"),
        ("test.ascii", "1 0 0\n", r"shape \(1, 3\) where \(2, 3\) is expected"),
        ("user_item_features/item_features_map.txt", "gender women\n", "line 1 is not feature:value"),
        ("user_item_features/user_features.ascii", "1 0 0 0\n", "describes 1 users where the ratings have 2"),
        ("user_item_features/item_features_map.txt", "a:b\n", "has 4 columns for 1 feature names"),
    ],
)
def test_coat_broken_files(tmp_path, file, text, message):
    _coat(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        import_dataset("coat", tmp_path)


def test_real_hillstrom():
    dataset = import_dataset("hillstrom", real_data("hillstrom"))
    assert dataset.manifest.counts["impression"] == dataset.users.height == 64_000
    rates = dict.fromkeys(dataset.items["item_id"])
    for arm in rates:
        kinds = dict(dataset.events.filter(pl.col("item_id") == arm)["kind"].value_counts().iter_rows())
        rates[arm] = (100 * kinds["click"] / kinds["impression"], 100 * kinds["conversion"] / kinds["impression"])
    assert rates["mens-email"] == pytest.approx((18.3, 1.25), abs=0.05)
    assert rates["womens-email"] == pytest.approx((15.1, 0.88), abs=0.05)
    assert rates["no-email"] == pytest.approx((10.6, 0.57), abs=0.05)
    shares = dataset.events.filter(pl.col("kind") == "impression")["split"].value_counts(normalize=True)
    assert dict(shares.iter_rows())["test"] == pytest.approx(0.5, abs=0.01)


def test_real_complete_journey():
    source = real_data("complete-journey")
    products = import_dataset("complete-journey", source)
    # of 75,000 sales of 20,902 products by 2,377 households, 222 are of 5 products that the products file lacks
    assert (products.events.height, products.n_items, products.users.height) == (74_778, 20_897, 2_374)
    assert import_dataset("complete-journey", source, level="type").n_items == 1_707


def test_real_coat():
    dataset = import_dataset("coat", real_data("coat"))
    assert (dataset.users.height, dataset.n_items) == (290, 300)
    assert dict(dataset.events["split"].value_counts().iter_rows()) == {"train": 6_960, "test": 4_640}
    assert make_split(dataset, "given").train["propensity"].null_count() == 0
