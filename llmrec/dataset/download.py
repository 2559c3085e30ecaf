"""Fetching a public data set from its public address, as its recipe under data/ describes it.

Nothing is fetched before its terms were shown and accepted, and a folder appears only when all its files are there.
"""

from __future__ import annotations

import shutil
import stat
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmrec.config_tree import from_tree, read_yaml
from llmrec.errors import DataError
from llmrec.files import check_writable, new_folder
from llmrec.progress import Bar, console
from llmrec.storage import resolve

_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where a public data set is, what it holds and on what terms.

    `kind` names the importer, `layout` says in words what the archive holds, and `expects` lists the files that must
    be there after unpacking. `{category}` in `urls` and `expects` stands for one of `categories`. A zip is unpacked.
    """

    name: str
    kind: str
    layout: str
    page: str
    terms: str
    citation: str
    urls: tuple[str, ...]
    expects: tuple[str, ...]
    size: str = ""
    categories: tuple[str, ...] = ()


def recipes_folder() -> Path:
    """The recipes: data/ in a checkout, llmrec/_data_recipes in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_data_recipes", package.parent / "data"):
        if folder.is_dir() and any(folder.glob("*.yaml")):
            return folder
    raise DataError("This installation has no data recipes; install llmrec anew.")


def load_recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    recipes = {}
    for path in sorted(recipes_folder().glob("*.yaml")):
        tree = read_yaml(path)
        recipe = from_tree(Recipe, tree, str(path))
        recipes[recipe.name] = recipe
    return recipes


def download(
    name: str, dest: Path | str, url: str | None = None, accept_terms: bool = False, *, category: str | None = None
) -> Path:
    """Fetches the data set `name` into the new folder `dest` and returns that folder.

    Args:
        name: A recipe's name; "amazon-reviews-2023/All_Beauty" names a category as well.
        dest: The folder to make; it must not hold anything yet.
        url: Another address: of the file, or of the folder of files where the recipe has several.
        accept_terms: Without it the terms are printed and nothing is fetched.
        category: The category, for recipes that have them.

    Raises:
        DataError: Unknown name or category, terms not accepted, an address that does not answer, a file that is
            incomplete or holds something else than expected. Nothing is left at `dest` then.
    """
    name, _, inner = name.partition("/")
    recipe, category = _find(name, category or inner or None)
    folder = resolve(dest)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise DataError(f"{folder} is there already; name a folder that does not exist yet.")
    addresses = _addresses(recipe, category, url)
    console.print(f"{recipe.name} ({recipe.page})\nTerms: {recipe.terms}\nCite: {recipe.citation}")
    if not accept_terms:
        raise DataError(
            f"{recipe.name} comes with the terms printed above; repeat with --accept-terms if you accept."
        )
    check_writable(folder)
    with new_folder(folder) as work:
        for address in addresses:
            path = work / _file_name(address)
            _fetch(address, path)
            if path.suffix == ".zip":
                unzip(path, work)
                path.unlink()
        _lift(work)
        _check(recipe, category, work, ", ".join(addresses))
    return folder


def _find(name: str, category: str | None) -> tuple[Recipe, str | None]:
    recipes = load_recipes()
    if name not in recipes:
        raise DataError(f"There is no recipe for {name!r}; known are {', '.join(recipes)}.")
    recipe = recipes[name]
    if recipe.categories and category not in recipe.categories:
        wrong = f"has no category {category!r}" if category else "comes in categories"
        raise DataError(f"{name} {wrong}; name it as {name}/CATEGORY with one of {', '.join(recipe.categories)}.")
    if category and not recipe.categories:
        raise DataError(f"{name} has no categories; leave {category!r} out.")
    return recipe, category


def _addresses(recipe: Recipe, category: str | None, url: str | None) -> list[str]:
    addresses = [address.replace("{category}", category or "") for address in recipe.urls]
    if url is not None:
        several = len(addresses) > 1
        addresses = [f"{url.rstrip('/')}/{_file_name(a)}" for a in addresses] if several else [url]
    for address in addresses:
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise DataError(f"Address {address!r} is not http or https; give the address of a web server.")
    return addresses


def _file_name(address: str) -> str:
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    if not name or name.startswith(".") or "\\" in name:
        raise DataError(f"Address {address!r} names no file; give the address of the file itself.")
    return name


def _fetch(address: str, path: Path) -> None:
    """Streams an address to a file; what is shorter than announced is an error."""
    request = urllib.request.Request(address, headers={"User-Agent": "llmrec"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer, path.open("wb") as file:
            announced = answer.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdigit() else None
            with Bar(f"Fetching {path.name} (bytes)", total) as bar:
                while block := answer.read(_BLOCK):
                    file.write(block)
                    bar.advance(len(block))
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{address} answers {error.code} {error.reason}; look for its new address and give --url."
        ) from None
    except OSError as error:
        raise DataError(f"{address} cannot be fetched ({error}); check the connection or fetch it by hand.") from None
    if total is not None and path.stat().st_size != total:
        raise DataError(f"{address} broke off after {path.stat().st_size} of {total} bytes; try again.")


def unzip(path: Path, folder: Path) -> None:
    """Unpacks a zip into `folder`, which no entry may leave; links, and more than the disk holds, are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                _refuse_entry(entry, path)
            needed, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
            if needed > free:
                raise DataError(
                    f"{path.name} unpacks to {needed >> 20} MiB and the disk has {free >> 20}; make room."
                )
            archive.extractall(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path.name} is not a sound zip file ({error}); fetch it again.") from None


def _refuse_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = PurePosixPath(entry.filename)
    outside = name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename
    if outside or stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(
            f"{path.name} holds the entry {entry.filename[:80]!r}, which is not safe to unpack; do not use it."
        )


def _lift(work: Path) -> None:
    """Moves the files of a single top folder up, so that `dest` itself is the data set's folder."""
    inner = list(work.iterdir())
    if len(inner) != 1 or not inner[0].is_dir():
        return
    aside = inner[0].rename(work / ".lifted")
    for path in list(aside.iterdir()):
        path.rename(work / path.name)
    aside.rmdir()


def _check(recipe: Recipe, category: str | None, work: Path, origin: str) -> None:
    for name in recipe.expects:
        expected = name.replace("{category}", category or "")
        if not (work / expected).is_file():
            there = ", ".join(sorted(p.name for p in work.iterdir())[:12])
            raise DataError(f"{origin} brought no {expected} (but {there or 'nothing'}); is it {recipe.name}?")
