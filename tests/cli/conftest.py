"""One finished tiny run, shared by the tests of the command line."""

import pytest

from tests.cli import tiny


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache):
    """A finished run folder and what the run printed."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    done = tiny.llmrec("demo", "--out", out, *tiny.arguments(), cache=cache)
    return out, done
