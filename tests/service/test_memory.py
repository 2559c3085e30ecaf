"""Memory that was freed goes back to the system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llmrec.service.memory import give_back


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
