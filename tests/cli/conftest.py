"""One finished tiny run, shared by the tests of the command line."""

from pathlib import Path

import pytest

from llmrec.recommender import Recommender
from tests.cli import tiny

ODD = "a b #c %s 'q $(touch pwned) 千"
"""A folder as people have them, and as shells, YAML and templates trip over."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache):
    """A finished run folder and what the run printed."""
    out = tmp_path_factory.mktemp("runs") / ODD / "tiny"
    done = tiny.llmrec("demo", "--out", out, *tiny.arguments(), cache=cache)
    return out, done


@pytest.fixture(scope="session")
def run(finished):
    """The finished run's folder."""
    return Path(finished[0])


@pytest.fixture(scope="module")
def recommender(run):
    """The finished run, for the tests of one file: rules and mixtures that one sets are not the next one's."""
    return Recommender.load(run)
