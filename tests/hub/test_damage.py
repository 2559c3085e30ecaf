"""A run folder that was damaged or handed on by a stranger: one sentence, or the right answer, and nothing else.

Each file of a finished folder is damaged in each of several ways. With the list of its files every change must be
noticed that could change an answer. Without the list (a folder of an older version, or of somebody who took it away)
loading may still succeed, but must never end with any other error than ours.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.errors import LLMRecError
from llmrec.recommender import Recommender
from llmrec.written import LIST, TOLD, _matches, handed_on, write_list

PROMPT = "I liked Fargo"


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def random_bytes(path):
    path.write_bytes(random.Random(0).randbytes(max(64, path.stat().st_size)))


def flip(path):
    data = bytearray(path.read_bytes())
    for place in random.Random(1).sample(range(len(data)), min(len(data), 40)):
        data[place] ^= 0x55
    path.write_bytes(bytes(data))


def deep(path):
    path.write_text("[" * 200_000)


def wrong_encoding(path):
    path.write_bytes(b"\xff\xfe" + path.read_bytes()[:4000] + b"\xff")


def null(path):
    path.write_text("null")


def folder(path):
    path.unlink()
    path.mkdir()


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def missing(path):
    path.unlink()


WAYS = (truncate, empty, random_bytes, flip, deep, wrong_encoding, null, folder, loop, missing)
WEIGHTS = ("model.safetensors",)


@pytest.fixture(scope="module")
def whole(run_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole") / "tiny"
    shutil.copytree(run_folder, place)
    (place / "stray.txt").write_text("a person's own")
    (place / "report.json").write_text("{}")
    stray = place / "stray.txt"
    stray.unlink()
    write_list(place)
    return place


def refusal(place):
    """What is said of a folder, None where it answers."""
    try:
        asked(place)
    except LLMRecError as error:
        return str(error)
    return None


def asked(place):
    return Recommender.load(place).recommend(prompt=PROMPT, k=3).to_json()


@pytest.fixture(scope="module")
def right(whole):
    return asked(whole)


FILES = (
    "llmrec.json",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "items.parquet",
    "config.yaml",
    "metrics.json",
    "catalogue/catalogue.json",
    "catalogue/catalogue.safetensors",
    "catalogue/catalogue.arrow",
    "prompts/renderer.json",
    "prompts/state.jinja",
    "prompts/_common/lines.jinja",
    "files.json",
)


def test_the_files_here_are_those_of_a_run_folder(whole):
    there = {p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file()}
    assert set(FILES) <= there
    assert {name.split("/")[0] for name in there} - {name.split("/")[0] for name in FILES} <= {
        "README.md",
        "report.json",
        "generation_config.json",
        "special_tokens_map.json",
    }


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_in_one_sentence(whole, right, tmp_path, name, capfd):
    for way in WAYS:
        for listed in (True, False):
            place = tmp_path / f"{way.__name__}-{listed}"
            shutil.copytree(whole, place)
            if not listed and name != LIST:
                (place / LIST).unlink()
            way(place / name)
            said = refusal(place)
            if said is not None:
                assert len(said) < 700, said
                assert "\n" not in said
                assert (
                    str(place) in said
                    or Path(name).name in said
                    or "Template" in said
                    or "prompt" in said
                    or name.split("/")[0] in said
                )
            else:
                assert name == LIST or not listed, f"{name}, {way.__name__}: was not noticed"
                if name not in ("llmrec.json", "model.safetensors", "tokenizer.json", "prompts/state.jinja"):
                    assert asked(place) == right, (name, way.__name__)
            shutil.rmtree(place)
    assert "Traceback" not in capfd.readouterr().err


def edited(tree, key, value):
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = node[part]
    if value is KeyError:
        node.pop(last, None)
    else:
        node[last] = value
    return tree


WRONG = [
    *((("llmrec.json", key, KeyError)) for key in ("format", "weights", "repeat", "liked", "domain", "catalogue")),
    *((("llmrec.json", key, KeyError)) for key in ("dataset", "history_events", "language")),
    ("llmrec.json", "format", "1"),
    ("llmrec.json", "format", [1]),
    ("llmrec.json", "weights", "adapter"),
    ("llmrec.json", "weights", {"full": 1}),
    ("llmrec.json", "history_events", -1),
    ("llmrec.json", "history_events", "ten"),
    ("llmrec.json", "identifiers", "abc"),
    ("llmrec.json", "dataset", "films"),
    ("llmrec.json", "catalogue", "0" * 64),
    ("config.json", "num_hidden_layers", 3),
    ("config.json", "num_hidden_layers", 0),
    ("config.json", "num_hidden_layers", 10**9),
    ("config.json", "num_hidden_layers", "two"),
    ("config.json", "vocab_size", 7),
    ("config.json", "vocab_size", 10**9),
    ("config.json", "hidden_size", 10**7),
    ("config.json", "hidden_size", -1),
    ("config.json", "model_type", "unheard-of"),
    ("config.json", "model_type", KeyError),
    ("config.json", "quantization_config", {"quant_method": "awq"}),
    ("tokenizer_config.json", "tokenizer_class", "Nothing"),
    ("tokenizer_config.json", "eos_token", KeyError),
    ("tokenizer.json", "model", {"type": "BPE", "vocab": {}, "merges": []}),
    ("tokenizer.json", "model.vocab", {"a": -1}),
    ("tokenizer.json", "added_tokens", "x"),
    ("prompts/renderer.json", "max_tokens", 10**12),
    ("prompts/renderer.json", "max_tokens", -5),
    ("prompts/renderer.json", "max_tokens", "96"),
    ("prompts/renderer.json", "language", "xx"),
    ("prompts/renderer.json", "history", "both"),
    ("prompts/renderer.json", "chat", True),
    ("catalogue/catalogue.json", "end_token", 10**9),
    ("catalogue/catalogue.json", "items", 4),
    ("catalogue/catalogue.json", "content_hash", KeyError),
    ("catalogue/catalogue.json", "scheme", "semantic"),
]


@pytest.mark.parametrize(("name", "key", "value"), WRONG, ids=lambda v: getattr(v, "__name__", str(v)[:30]))
def test_wrong_values_end_with_a_sentence_even_without_the_list(whole, right, tmp_path, name, key, value):
    place = tmp_path / "tiny"
    shutil.copytree(whole, place)
    (place / LIST).unlink()
    tree = json.loads((place / name).read_text(encoding="utf-8"))
    (place / name).write_text(json.dumps(edited(tree, key, value)), encoding="utf-8")
    said = refusal(place)
    if said is not None:
        assert len(said) < 700
        return
    if key not in ("max_tokens", "language", "chat", "history"):  # those decide the wording, or what fits
        assert asked(place) == right, f"{name}: {key} = {value!r} was taken"


def test_swapped_titles_and_rows_too_few_or_too_many_are_noticed(whole, tmp_path):
    frame = pl.read_parquet(whole / "items.parquet")
    changes = {
        "swapped": frame.with_columns(pl.Series("title", frame["title"].to_list()[::-1])),
        "few": frame.head(3),
        "many": pl.concat([frame, frame.with_columns(pl.col("item_id") + "x")]),
        "other order": frame.reverse(),
        "other columns": frame.drop("title"),
        "other kind": frame.with_columns(price=pl.lit("dear")),
        "no title": frame.with_columns(title=pl.lit(None, pl.String)),
        "NUL": frame.with_columns(description=pl.lit("a\0b")),
        "endless": frame.with_columns(description=pl.lit("a" * 2_000_000)),
    }
    for listed in (True, False):
        for what, table in changes.items():
            place = tmp_path / f"{what}-{listed}"
            shutil.copytree(whole, place)
            table.write_parquet(place / "items.parquet")
            if not listed:
                (place / LIST).unlink()
            with pytest.raises(LLMRecError, match=r"items\.parquet|Table items"):
                asked(place)


def test_a_bomb_of_rows_is_refused_before_it_is_read(whole, tmp_path):
    place = tmp_path / "tiny"
    shutil.copytree(whole, place)
    (place / LIST).unlink()
    same = pa.DictionaryArray.from_arrays(np.zeros(2_000_000, dtype=np.int32), ["a" * 10_000])
    pq.write_table(pa.table({"item_id": same, "title": same}), place / "items.parquet")
    assert (place / "items.parquet").stat().st_size < 200_000
    with pytest.raises(LLMRecError, match="2,000,000 rows, not 5"):
        asked(place)


def test_the_list_itself_leads_nowhere(whole, tmp_path):
    for name in ("../secret", "/etc/passwd", "a\0b"):
        place = tmp_path / "tiny"
        shutil.copytree(whole, place)
        listed = json.loads((place / LIST).read_text())
        listed["sha256"][name] = "0"
        (place / LIST).write_text(json.dumps(listed))
        with pytest.raises(LLMRecError, match=r"outside of the folder|NUL"):
            asked(place)
        shutil.rmtree(place)


def test_a_card_may_be_written_anew(whole, right, tmp_path):
    place = tmp_path / "tiny"
    shutil.copytree(whole, place)
    (place / "README.md").write_text("# mine\n")
    assert _matches("README.md", TOLD)
    assert asked(place) == right


def test_an_adapter_of_another_base_or_rank_is_refused(coded_folders, tmp_path, monkeypatch):
    base, run, _ = coded_folders
    place = tmp_path / "coded"
    shutil.copytree(run, place)
    facts = json.loads((place / "llmrec.json").read_text())
    (place / "llmrec.json").write_text(json.dumps({**facts, "base": str(base)}))
    assert len(asked(place)["items"]) == 3
    good = json.loads((place / "adapter_config.json").read_text())
    wrong = (
        {"r": 3},
        {"r": "x"},
        {"target_modules": ["nothing"]},
        {"peft_type": "NOTHING"},
        {"base_model_name_or_path": 5, "r": None},
        {"trainable_token_indices": {"model.nowhere": [1]}},
        {"trainable_token_indices": {"model.embed_tokens": [10**9]}},
    )
    for change in wrong:
        (place / "adapter_config.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(LLMRecError):
            asked(place)
    (place / "adapter_config.json").write_text(json.dumps(good))
    for way in WAYS:
        for name in ("adapter_model.safetensors", "adapter_config.json", "identifiers/identifiers.json"):
            other = tmp_path / "other"
            shutil.copytree(place, other)
            way(other / name)
            assert len(refusal(other) or "") < 700
            shutil.rmtree(other)


@pytest.mark.parametrize("command", ["recommend", "items", "report", "push"])
def test_every_command_ends_with_a_sentence(whole, tmp_path, command):
    (tmp_path / "gone.txt").write_text("m1\n")
    words = {
        "recommend": ["--model", "RUN", "--prompt", "x", "-k", "2"],
        "items": ["RUN", "--remove", str(tmp_path / "gone.txt"), "--out", str(tmp_path / "out")],
        "report": ["RUN", "--out", str(tmp_path / "out")],
        "push": ["RUN", "alice/tiny"],
    }[command]
    for name in ("llmrec.json", "report.json", "files.json", "items.parquet"):
        for way in (truncate, deep, null, folder, loop, missing):
            place = tmp_path / "run"
            shutil.copytree(whole, place)
            way(place / name)
            if command == "push" and name == "report.json" and way not in (folder, loop):
                shutil.rmtree(place)
                continue  # it tells and decides nothing, so it would be sent
            done = CliRunner().invoke(app, [command, *(str(place) if word == "RUN" else word for word in words)])
            if done.exception is not None:
                assert isinstance(done.exception, LLMRecError), (command, name, way.__name__, done.exception)
            shutil.rmtree(place)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_only_plain_listed_files_leave_a_run_folder(whole, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    for listed in (True, False):
        place = tmp_path / f"run-{listed}"
        shutil.copytree(whole, place)
        if not listed:
            (place / LIST).unlink()
        before = handed_on(place)
        assert {"llmrec.json", "README.md", "tokenizer.json", "prompts/state.jinja"} <= set(before)
        strays = ("notes.txt", "passwords.json", "prompts/diary.txt", "catalogue/x.csv", "events.parquet", ".env")
        for stray in strays:
            (place / stray).write_text("mine")
        (place / "notes.md").symlink_to(secret)
        (place / "more").symlink_to(tmp_path)
        assert handed_on(place) == before
        for name in ("README.md", "prompts/state.jinja", "figures/a.svg"):
            other = tmp_path / "other"
            shutil.copytree(place, other, symlinks=True)
            (other / name).parent.mkdir(exist_ok=True)
            (other / name).unlink(missing_ok=True)
            (other / name).symlink_to(secret)
            with pytest.raises(LLMRecError, match="is a link to another place"):
                handed_on(other)
            done = CliRunner().invoke(app, ["push", str(other), "alice/tiny"])
            assert "is a link to another place" in str(done.exception)
            shutil.rmtree(other)


def test_a_snapshot_of_the_hubs_cache_is_read_and_copied(whole, right, tmp_path):
    """There all files are links to a store beside the snapshots."""
    snapshot, store = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    store.mkdir(parents=True)
    for number, path in enumerate(p for p in sorted(whole.rglob("*")) if p.is_file()):
        shutil.copyfile(path, store / str(number))
        there = snapshot / path.relative_to(whole)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(store / str(number))
    assert asked(snapshot) == right
    (tmp_path / "gone.txt").write_text("m0\n")
    words = ["items", str(snapshot), "--remove", str(tmp_path / "gone.txt"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exception is None, done.exception
    copied = tmp_path / "out"
    assert not any(path.is_symlink() for path in copied.rglob("*"))
    assert [item["item_id"] for item in asked(copied)["items"]].count("m0") == 0


@pytest.mark.parametrize("text", ["a\0b", "x" * 10_001])
def test_new_items_have_the_bounds_of_all_items(whole, tmp_path, text):
    pl.DataFrame({"item_id": ["n1"], "title": [text]}).write_parquet(tmp_path / "new.parquet")
    words = ["items", str(whole), "--add", str(tmp_path / "new.parquet"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, LLMRecError), done.exception
    assert len(str(done.exception)) < 400
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["manifest.json", "items.parquet", "users.parquet", "events.parquet"])
def test_a_damaged_data_set_is_named_in_one_sentence(dataset, tmp_path, name):
    dataset.save(tmp_path / "data")
    for way in WAYS:
        place = tmp_path / way.__name__
        shutil.copytree(tmp_path / "data", place)
        way(place / name)
        with pytest.raises(LLMRecError) as error:
            Dataset.load(place)
        assert name in str(error.value), way.__name__
        assert len(str(error.value)) < 700


MANIFESTS = [
    *((key, KeyError) for key in ("name", "click", "content_hash", "domain", "counts")),
    *(
        (key, value)
        for key in ("name", "click", "domain", "counts", "version")
        for value in (None, 5, ["x"], {"a": "b"})
    ),
]


@pytest.mark.parametrize(("key", "value"), MANIFESTS, ids=str)
def test_wrong_values_of_a_manifest_end_with_a_sentence(dataset, tmp_path, key, value):
    dataset.save(tmp_path / "data")
    place = tmp_path / "data" / "manifest.json"
    place.write_text(json.dumps(edited(json.loads(place.read_text(encoding="utf-8")), key, value)), encoding="utf-8")
    with pytest.raises(LLMRecError) as error:
        Dataset.load(tmp_path / "data")
    assert len(str(error.value)) < 700
