"""What a run folder may hold is what comes down from the Hub."""

from fnmatch import fnmatchcase

import pytest

from llmrec.hub.runs import FILES, NEVER
from llmrec.written import RUN_FILES


@pytest.mark.parametrize("name", RUN_FILES)
def test_every_file_of_a_run_folder_is_fetched(name):
    assert any(fnmatchcase(name, pattern) for pattern in FILES)
    assert not any(fnmatchcase(name, pattern) for pattern in NEVER)
