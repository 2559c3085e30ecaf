"""The line that asks for weights: written and read again, and what it refuses."""

import itertools

import pytest

from llmrec.errors import RequestError
from llmrec.text.objectives import LEVELS, OBJECTIVES, preference, read_preference


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_line_is_read_as_it_was_written(language):
    lines = set()
    for levels in itertools.product(range(LEVELS), repeat=len(OBJECTIVES)):
        asked = dict(zip(OBJECTIVES, levels, strict=True))
        line = preference(asked, language)
        assert read_preference(f"A gift. {line}", language) == asked
        lines.add(line)
    assert len(lines) == LEVELS ** len(OBJECTIVES)


def test_what_is_not_named_is_not_asked_for():
    assert preference({"revenue": 2}) == "prefer clicks 0, purchases 0, revenue 2, variety 0"
    assert read_preference("prefer nothing") is None
    for levels, said in (({"click": 4}, "0 to 3"), ({"clicks": 1}, "no objective")):
        with pytest.raises(RequestError, match=said):
            preference(levels)
    with pytest.raises(RequestError, match="in 'fr'"):
        preference({}, "fr")
