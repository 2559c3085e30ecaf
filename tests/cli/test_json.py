"""Every command that ends can say what it did as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import typer
import yaml
from typer.testing import CliRunner

from llmrec.cli.main import app

ENDLESS = {"serve", "page"}


def commands(group, before=()):
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*before, name))
        else:
            yield (*before, name), one


def said(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_every_command_that_ends_has_the_option():
    without = {
        " ".join(name)
        for name, one in commands(typer.main.get_command(app))
        if not any("--json" in parameter.opts for parameter in one.params)
    }
    assert without == ENDLESS


def test_what_is_printed_is_one_line_of_json(finished, tmp_path):
    run = Path(finished[0])
    (tmp_path / "gone.txt").write_text("i00001\ni00002\n")
    told = json.loads(said("items", run, "--remove", tmp_path / "gone.txt", "--out", tmp_path / "fewer", "--json"))
    assert told == {"out": str(tmp_path / "fewer"), "added": 0, "removed": 2, "items": 38, "assumed": []}
    told = json.loads(said("report", run, "--out", tmp_path / "report", "--no-users", "--json"))
    assert Path(told["page"]).is_file()
    assert told["runs"] == [str(run)]
    asked = ("config", "--set", "gate.users=7")
    assert json.loads(said(*asked, "--json")) == yaml.safe_load(said(*asked))


def test_commands_on_data_write_it_to_a_file(tmp_path):
    said("data", "world", tmp_path / "world", "--users", 40, "--items", 20, "--json", tmp_path / "a.json")
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert told["counts"]["items"] == 20
    assert told["out"] == str(tmp_path / "world")
    said("data", "download", "--json", tmp_path / "b.json")
    assert {"name", "size", "page"} == set(json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))[0])
    users = json.loads(said("forget", tmp_path / "world" / "dataset", "--user", "u00001", "--json"))["places"]
    assert [(place["users"], place["run"]) for place in users] == [(1, False)]
    assert users[0]["events"] > 0
