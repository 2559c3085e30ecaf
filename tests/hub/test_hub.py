"""Push and load over real HTTP with the real client, in processes of their own (the client reads its environment once)."""

import json
import os
import sys

import pytest

from llmrec.types import Interaction, State
from tests import forked
from tests.hub.hubserver import File, HubServer, Repo

TOKENS = {"hf_alice": "alice", "hf_bob": "bob"}


class Lab:
    def __init__(self, hub, home):
        self.hub, self.home, self.count = hub, home, 0

    def llmrec(self, token, *arguments, code=0):
        self.count += 1
        environment = self.hub.client_env(token, self.home / str(self.count))
        done = forked.run([sys.executable, "-m", "llmrec.cli.main", *arguments], env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def tree(self, name, revision="main"):
        return self.hub.repos["model", name].tree(revision)


@pytest.fixture(params=["lfs", "xet"])
def lab(request, tmp_path):
    with HubServer(TOKENS, xet=request.param == "xet") as hub:
        yield Lab(hub, tmp_path)
        assert not hub.bugs, hub.bugs


@pytest.fixture
def plain(tmp_path):
    with HubServer(TOKENS) as hub:
        yield Lab(hub, tmp_path)
        assert not hub.bugs, hub.bugs


def test_one_commit_up_and_the_same_recommendations_down(lab, run_folder):
    lab.llmrec("hf_alice", "push", run_folder, "alice/tiny")
    repository = lab.hub.repos["model", "alice/tiny"]
    assert len(repository.commits) == 2, "the first commit of the repository, and one push"
    assert repository.private
    ask = ("--prompt", "I liked Fargo", "-k", "3", "--json")
    here = json.loads(lab.llmrec(None, "recommend", "--model", run_folder, *ask))
    there = json.loads(lab.llmrec("hf_alice", "recommend", "--model", "alice/tiny", *ask))
    assert here == there
    assert len(there["items"]) == 3
    assert "Fargo (1996)" not in [i["title"] for i in there["items"]], "repeats are excluded"


def test_a_base_model_from_the_hub_learns_the_words_from_the_run_folder(plain, coded_folders):
    base, run, policy = coded_folders
    repository = Repo("model", "alice/base", private=False)
    files = {p.name: File(p.read_bytes(), lfs=False) for p in base.iterdir()}
    repository.commit("refs/heads/main", repository.resolve("main"), "base", "", files, "alice")
    plain.hub.repos["model", "alice/base"] = repository
    plain.llmrec("hf_alice", "push", run, "alice/coded")
    assert {"identifiers/identifiers.json", "identifiers/identifiers.safetensors"} <= set(plain.tree("alice/coded"))
    ask = ("--prompt", "I liked Fargo", "-k", "3", "--json")
    found = json.loads(plain.llmrec("hf_alice", "recommend", "--model", "alice/coded", *ask))["items"]
    state = State(history=(Interaction(0, "rating", 0, 5.0),))
    (slate,) = policy.recommend([state], 3)
    assert [item["item_id"] for item in found] == [f"m{n}" for n in slate.items_K]
    assert [item["log_prob"] for item in found] == pytest.approx(list(slate.log_probs_K), abs=1e-5)


def test_no_user_row_and_nothing_pickled_leaves(plain, run_folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    for stray in ("events.parquet", "users.parquet", "optimizer.pt", ".secret", "notes.docx"):
        (copy / stray).write_bytes(b"x")
    plain.llmrec("hf_alice", "push", copy, "alice/tiny", "--public")
    names = set(plain.tree("alice/tiny"))
    assert not plain.hub.repos["model", "alice/tiny"].private
    assert names >= {
        "llmrec.json",
        "model.safetensors",
        "tokenizer.json",
        "items.parquet",
        "README.md",
        "config.yaml",
    }
    assert any(n.startswith("catalogue/") for n in names)
    assert any(n.startswith("prompts/") for n in names)
    assert not names & {"events.parquet", "users.parquet", "optimizer.pt", ".secret", "notes.docx"}


def test_revision_and_pull_request(plain, run_folder):
    plain.llmrec("hf_alice", "push", run_folder, "alice/tiny", "--public", "--revision", "exp")
    assert "llmrec.json" in plain.tree("alice/tiny", "exp")
    assert "llmrec.json" not in plain.tree("alice/tiny")
    url = plain.llmrec("hf_bob", "push", run_folder, "alice/tiny", "--create-pr")
    assert "/discussions/1" in url
    assert "llmrec.json" in plain.tree("alice/tiny", "refs/pr/1")
    out = plain.llmrec(
        None, "recommend", "--model", "alice/tiny", "--revision", "exp", "--prompt", "films", "-k", "1"
    )
    assert any(title[:4] in out for title in ("Fargo", "Seven", "Heat", "Twelve", "Toy Story"))


def test_every_refusal_is_one_sentence(plain, run_folder, tmp_path):
    def refused(token, *arguments):
        lines = plain.llmrec(token, *arguments, code=2).strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    assert "does not exist" in refused(None, "recommend", "--model", "alice/none", "--prompt", "x")
    assert "log in" in refused(None, "push", run_folder, "alice/tiny")
    plain.llmrec("hf_alice", "push", run_folder, "alice/tiny")
    assert "does not exist" in refused("hf_bob", "recommend", "--model", "alice/tiny", "--prompt", "x")
    assert "may not write" in refused("hf_bob", "push", run_folder, "alice/other")
    assert "no revision 'v9'" in refused(
        "hf_alice", "recommend", "--model", "alice/tiny", "--revision", "v9", "--prompt", "x"
    )
    assert "USER/NAME" in refused("hf_alice", "push", run_folder, "not a name!")
    assert "is not a run folder" in refused("hf_alice", "push", tmp_path, "alice/tiny")
    both = refused("hf_alice", "push", run_folder, "alice/tiny", "--create-pr", "--revision", "exp")
    assert "pull request" in both
    assert "leave out --revision exp" in both
    assert "exp" not in " ".join(plain.hub.repos["model", "alice/tiny"].refs), "nothing was made"


def test_no_hub_at_all(run_folder, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"}
    done = forked.run([sys.executable, "-m", "llmrec.cli.main", "push", run_folder, "alice/tiny"], env=environment)
    assert done.returncode == 2, done.stderr
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
