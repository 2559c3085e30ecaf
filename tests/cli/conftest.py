"""One finished tiny run, shared by the tests of the command line."""

import pytest

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
