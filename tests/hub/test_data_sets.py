"""Data sets up and down, collections, and what the Hub reads of the cards: over HTTP with the real client."""

import json
import re

import pytest
import yaml
from huggingface_hub import DatasetCard

from llmrec.dataset.store import Dataset
from llmrec.hub import data_card
from tests.hub.collections_hub import CollectingHub
from tests.hub.test_hub import TOKENS, Lab

SLUG = "alice/shops-0123456789abcdef01234567"


@pytest.fixture
def lab(tmp_path):
    with CollectingHub(TOKENS) as hub:
        yield Lab(hub, tmp_path / "homes")
        assert not hub.bugs, hub.bugs


@pytest.fixture
def folder(dataset, tmp_path):
    dataset.save(tmp_path / "films")
    (tmp_path / "films" / "notes.txt").write_text("mine")
    return tmp_path / "films"


def test_a_data_set_goes_up_in_one_commit_and_comes_down_the_same(lab, folder, dataset, tmp_path):
    said = json.loads(lab.llmrec("hf_alice", "data", "push", folder, "alice/films", "--json"))
    repository = lab.hub.repos["dataset", "alice/films"]
    assert len(repository.commits) == 2, "the first commit of the repository, and one push"
    assert repository.private
    assert set(repository.tree("main")) - {".gitattributes"} == {
        "README.md",
        "manifest.json",
        "items.parquet",
        "users.parquet",
        "events.parquet",
    }
    commit = repository.resolve("main")
    assert said["address"].endswith(commit)
    lab.llmrec("hf_alice", "data", "pull", "alice/films", tmp_path / "down")
    down = Dataset.load(tmp_path / "down")
    assert down.manifest.content_hash == dataset.manifest.content_hash
    assert down.events.equals(dataset.events)
    assert down.manifest.hub == f"alice/films@{commit}"
    assert down.without_users(["new"]).manifest.hub == "", "it is not what lies on the Hub any more"


@pytest.mark.slow
def test_a_revision_is_what_it_was(lab, folder, dataset, tmp_path):
    lab.llmrec("hf_alice", "data", "push", folder, "alice/films")
    first = lab.hub.repos["dataset", "alice/films"].resolve("main")
    fewer = dataset.with_events(dataset.events.head(1))
    fewer.save(folder)
    lab.llmrec("hf_alice", "data", "push", folder, "alice/films")
    lab.llmrec("hf_alice", "data", "push", folder, "alice/films", "--revision", "few")
    for revision, events in ((first, 2), ("main", 1), ("few", 1)):
        out = tmp_path / f"at-{revision}"
        lab.llmrec("hf_alice", "data", "pull", "alice/films", out, "--revision", revision)
        assert Dataset.load(out).events.height == events


@pytest.mark.slow
def test_refusals_of_data_sets_are_one_sentence_and_leave_nothing(lab, folder, run_folder, tmp_path):
    def refused(token, *arguments):
        lines = lab.llmrec(token, *arguments, code=2).strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    assert "does not exist" in refused("hf_alice", "data", "pull", "alice/none", tmp_path / "down")
    assert "log in" in refused(None, "data", "push", folder, "alice/films")
    assert "manifest.json" in refused("hf_alice", "data", "push", run_folder, "alice/films")
    (folder / "events.parquet").write_bytes(b"x")
    assert "events.parquet" in refused("hf_alice", "data", "push", folder, "alice/films")
    assert not lab.hub.repos
    assert not (tmp_path / "down").exists()


def test_pushed_runs_and_data_stand_in_a_collection_once_and_a_refusal_says_what_stands(lab, folder, run_folder):
    lab.llmrec("hf_alice", "push", run_folder, "alice/one", "--collection", "Shops")
    lab.llmrec("hf_alice", "push", run_folder, "alice/one", "--collection", SLUG)
    lab.llmrec("hf_alice", "data", "push", folder, "alice/films", "--collection", SLUG)
    (made,) = lab.hub.collections.values()
    assert made["slug"] == SLUG
    assert made["private"]
    assert [(item["type"], item["id"]) for item in made["items"]] == [
        ("model", "alice/one"),
        ("dataset", "alice/films"),
    ]
    said = lab.llmrec("hf_bob", "push", run_folder, "bob/one", "--collection", SLUG, code=2)
    assert len(said.strip().splitlines()) == 1
    assert "bob/one was pushed (http" in said
    assert "not in the collection" in said
    assert ("model", "bob/one") in lab.hub.repos


def test_the_card_of_a_data_set_is_the_hubs_and_hostile_names_are_text(dataset):
    card = DatasetCard(data_card(dataset))
    assert card.data.pretty_name == "tiny films"
    assert card.data.size_categories == ["n<1K"]
    assert {one["config_name"]: one["data_files"] for one in card.data.to_dict()["configs"]} == {
        "items": "items.parquet",
        "users": "users.parquet",
        "events": "events.parquet",
    }
    assert "| `events.parquet` |" in card.content
    assert card.content.count("2 of kind rating") == 1
    hostile = "a\n---\nlicense: mit\n<script>alert(1)</script> [x](javascript:1)"
    other = Dataset.build(
        dataset.items, dataset.users, dataset.events, name=hostile, domain="film", source=hostile, **SIGNALS
    )
    text = data_card(other)
    header, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert "license" not in yaml.safe_load(header)
    assert "<script" not in body
    assert "[x](" not in body


SIGNALS = {"click": "rating", "conversion": "rating>=4"}
