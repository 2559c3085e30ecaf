"""Downloads against a web server on loopback; no test reaches any other address."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmrec.dataset.download import download, load_recipes, unzip
from llmrec.dataset.importers import IMPORTERS, import_dataset
from llmrec.errors import DataError

FILES = {
    "ml-100k/u.data": "7\t1\t4\t881250949\n",
    "ml-100k/u.item": "1|Toy Story (1995)||||" + "|".join(["0"] * 19) + "\n",
    "ml-100k/u.user": "7|24|M|technician|85711\n",
}


def _zip(files: dict[str, str]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return held.getvalue()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    sound = _zip(FILES)
    answers = {
        "/ml-100k.zip": sound,
        "/flat.zip": _zip({name.split("/")[1]: text for name, text in FILES.items()}),
        "/other.zip": _zip({"readme.txt": "nothing"}),
        "/evil.zip": _zip({"ml-100k/u.data": "x", "../escaped.txt": "x"}),
        "/page.zip": b"<html>not a zip</html>",
        "/short.zip": sound,
        "/Gift_Cards.jsonl.gz": b"reviews",
        "/meta_Gift_Cards.jsonl.gz": b"meta",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            body = body or b""
            self.send_header("Content-Length", str(len(body) + (100 if self.path == "/short.zip" else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


def _names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize("file", ["ml-100k.zip", "flat.zip"])
def test_a_zip_becomes_a_folder_that_imports(server, tmp_path, capsys, file):
    folder = download("movielens-100k", tmp_path / "ml", url=f"{server}/{file}", accept_terms=True)
    assert _names(tmp_path) == ["ml", "ml/u.data", "ml/u.item", "ml/u.user"]
    assert import_dataset("movielens", folder).items["title"].to_list() == ["Toy Story (1995)"]
    shown = " ".join(capsys.readouterr().err.split())
    assert "no commercial use" in shown
    assert "Harper" in shown


def test_nothing_is_fetched_before_the_terms_are_accepted(tmp_path, capsys):
    with pytest.raises(DataError, match="--accept-terms"):
        download("movielens-100k", tmp_path / "ml", url="http://127.0.0.1:9/never.zip")
    assert "no redistribution" in " ".join(capsys.readouterr().err.split())
    assert _names(tmp_path) == []


def test_a_category_with_two_files(server, tmp_path):
    folder = download("amazon-reviews-2023/Gift_Cards", tmp_path / "a", url=server, accept_terms=True)
    assert _names(folder) == ["Gift_Cards.jsonl.gz", "meta_Gift_Cards.jsonl.gz"]
    assert (folder / "meta_Gift_Cards.jsonl.gz").read_bytes() == b"meta"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.zip", "answers 404"),
        ("other.zip", r"brought no u\.data"),
        ("evil.zip", r"'\.\./escaped\.txt', which is not safe"),
        ("page.zip", "not a sound zip file"),
        ("short.zip", "broke off after"),
        ("", "names no file"),
    ],
)
def test_what_goes_wrong_leaves_nothing(server, tmp_path, file, message):
    with pytest.raises(DataError, match=message):
        download("movielens-100k", tmp_path / "ml", url=f"{server}/{file}", accept_terms=True)
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("netflix", None, "no recipe for 'netflix'; known are amazon-reviews-2018"),
        ("amazon-reviews-2018", None, "comes in categories"),
        ("amazon-reviews-2018/Cars", None, "no category 'Cars'"),
        ("movielens-1m/Cars", None, "has no categories"),
        ("movielens-1m", "file:///etc/passwd.zip", "not http or https"),
        ("movielens-1m", "http://127.0.0.1:9/x.zip", "cannot be fetched"),
    ],
)
def test_bad_requests(tmp_path, name, url, message):
    with pytest.raises(DataError, match=message):
        download(name, tmp_path / "x", url=url, accept_terms=True)
    assert _names(tmp_path) == []


def test_a_folder_with_content_is_never_replaced(server, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        download("movielens-100k", tmp_path, url=f"{server}/ml-100k.zip", accept_terms=True)
    assert _names(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize("name", ["/absolute", "a/../../b", "..\\b", "C:/x"])
def test_entries_that_leave_the_folder(tmp_path, name):
    (tmp_path / "x.zip").write_bytes(_zip({"fine": "1", name: "2"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="not safe to unpack"):
        unzip(tmp_path / "x.zip", tmp_path / "out")
    assert _names(tmp_path / "out") == []


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="not safe to unpack"):
        unzip(tmp_path / "x.zip", tmp_path)


def test_recipes_are_complete():
    recipes = load_recipes()
    wanted = {f"movielens-{k}" for k in ("100k", "1m", "latest-small", "25m", "32m")}
    assert set(recipes) == wanted | {"amazon-reviews-2018", "amazon-reviews-2023", "coat", "hillstrom"}
    for recipe in recipes.values():
        assert recipe.kind in IMPORTERS
        assert recipe.terms
        assert recipe.citation
        assert all(url.startswith("https://") for url in recipe.urls)
        assert len(recipe.urls) == len(recipe.expects) or recipe.urls[0].endswith(".zip")
        assert ("{category}" in "".join(recipe.urls)) == bool(recipe.categories)
