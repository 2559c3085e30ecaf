"""Memory that was freed goes back to the system."""

from __future__ import annotations

import gc
import os
import sys
import weakref
from pathlib import Path

import pytest

from llmrec.service.memory import give_back, settle, settle_again


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_holes_between_what_is_kept_are_given_back():
    if not give_back():
        pytest.skip("this C library cannot give memory back")
    many = [b"x" * 20_000 for _ in range(5000)]  # 100 MB, of which every fiftieth piece stays
    kept = many[::50]
    del many
    before = resident()
    assert give_back()
    assert before - resident() > 50e6
    assert len(kept) == 100


class Cycle:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self):
        self.itself = self


def test_what_stays_is_not_looked_through_and_what_is_replaced_is_freed():
    settle_again()
    assert gc.get_freeze_count() == 0  # a process that has not settled is left alone
    served = Cycle()
    before = len(gc.get_objects())
    try:
        settle()
        assert len(gc.get_objects()) < before / 10
        gone = weakref.ref(served)
        served = Cycle()
        gc.collect()
        assert gone() is not None
        settle_again()
        assert gone() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    assert served.itself is served
