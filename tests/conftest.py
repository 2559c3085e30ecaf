"""Settings of all tests: wall-clock limits that hold on a machine whose cores are taken now and then."""

import pytest
from hypothesis import HealthCheck, settings

from tests.online.postgres import MISSING, server

settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of the tests' own."""
    if MISSING:
        pytest.skip(f"there is no {MISSING[0]} on this machine; PostgreSQL is tried where it is installed")
    pytest.importorskip("psycopg")
    with server() as one:
        yield one
