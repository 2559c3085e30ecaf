"""What reasons do not say: harmful and forbidden words, refused items; and what a person let stand."""

import dataclasses
import math

import pytest

from llmrec.explain import Counterfactual, Effect, Part, Unsaid
from llmrec.explain.effects import Attribution
from llmrec.explain.sentences import Sentences
from llmrec.text.forbidden import Forbidden

PARTS = [
    Part("item", "Heroin Dreams", "h", "click"),
    Part("item", "Red Kettle", "k", "click"),
    Part("item", "Casino Night", "c", "click"),
]
WORDS = Forbidden(("casino",)).filter()


def found(*nats):
    """An attribution whose parts have these effects."""
    effects = sorted(
        (Effect(part, n, math.exp(n)) for part, n in zip(PARTS, nats, strict=True)), key=lambda e: -abs(e.nats)
    )
    return Attribution(-3.0, tuple(nats), tuple(effects), (), None)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_listed_words_are_not_named(language):
    said = Sentences("film", language, Unsaid(WORDS)).reason(found(2.0, 1.5, 1.0))
    assert "Red Kettle" in said
    assert "Heroin" not in said
    assert "Casino" not in said
    plain = Sentences("film", language).reason(found(2.0, 1.5, 1.0))
    assert "Casino Night" in plain
    assert "Heroin" not in plain, "harmful words go by themselves"


def test_what_a_person_decided():
    refused = Unsaid(items=frozenset({"k"}))
    said = Sentences("film", "en", refused).reason(found(0.0, 1.5, 1.0))
    assert "Kettle" not in said
    assert "Casino Night" in said
    accepted = Unsaid(WORDS, allowed=frozenset({"h"}))
    said = Sentences("film", "en", accepted).reason(found(2.0, 1.5, 1.0))
    assert "Heroin Dreams" in said
    assert "Casino" not in said


def test_what_would_undo_it_is_not_said_either():
    undone = Counterfactual(3, (PARTS[0],), "smallest", 1)
    assert Sentences("film", "en").without(undone) == ""
    assert "Heroin" in Sentences("film", "en", Unsaid(allowed=frozenset({"h"}))).without(undone)
    assert "Kettle" in Sentences("film", "en").without(dataclasses.replace(undone, parts=(PARTS[1],)))


def test_where_nothing_may_be_named_the_words_are_of_nothing():
    every = Sentences("film", "en", Unsaid(WORDS, frozenset({"k"}))).reason(found(2.0, 1.5, 1.0))
    assert not any(name in every for name in ("Heroin", "Kettle", "Casino"))
