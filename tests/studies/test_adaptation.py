"""The study of adaptation from end to end in tiny worlds, and its answer."""

from __future__ import annotations

import pytest

from llmrec.errors import RequestError
from llmrec.files import read_json
from llmrec.studies.adaptation.setting import DOMAINS, Setting, StudySettings
from llmrec.studies.adaptation.study import PLAIN, START, run_adaptation

MODEL = {"nano_hidden": 32, "nano_layers": 1, "nano_vocabulary": 600, "nano_pretrain_sequences": 64}
TINY = {"trained": 2, "users": 60, "items": 30, "new": 20, "slates": 4, "examples": 60, "model": MODEL}
OPTIONS = {
    **{"methods": ("reptile", "fomaml", "joint"), "draws": 1, "asked": 10, "played": 4, "steps": 1},
    **{"sizes": list(TINY.items()), "inner": [("steps", 2)]},
}


def test_what_cannot_be_asked_is_refused(tmp_path):
    for more in ({"methods": ["maml"]}, {"parts": ["in-context"]}, {"draws": 0}):
        with pytest.raises(RequestError, match="Give"):
            run_adaptation([0], tmp_path, **{**OPTIONS, **more})


@pytest.mark.slow
def test_from_end_to_end_and_again(tmp_path):
    found = run_adaptation([0, 1], tmp_path, **OPTIONS)
    gains = found["gains"]
    assert {PLAIN, "reptile, adapted", "fomaml, adapted", "joint, adapted", "library, nearest"} <= set(gains)
    assert START not in gains
    assert gains["true optimum"]["low"] > 0
    hidden = found["in_context"]["unseen domain/session hidden"]
    assert hidden["rise"]["mean"] == pytest.approx(0, abs=1e-6), "the same slate at every turn"
    assert len(found["in_context"]["known domain/in context"]["turns"]) == 10
    assert found["many_domains"]["one each"] > 0
    assert {one["unseen"] for one in found["seeds"]} == {DOMAINS[2], DOMAINS[3]}
    assert (tmp_path / "study-turns.svg").is_file()
    before = [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("seed-*/*/stage.json"))]
    assert run_adaptation([0, 1], tmp_path, **OPTIONS)["gains"] == gains
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("seed-*/*/stage.json"))] == before
    setting = Setting.of(0, StudySettings(**{**TINY, "model": _model()}), tmp_path)
    for domain in (*setting.trained, setting.unseen):
        assert not set(domain.place.sessions.users) & set(domain.new)
        assert domain.strangers.dataset.events.is_empty()
    assert read_json(tmp_path / "study.json")["seeds"]


def _model():
    from llmrec.config import ModelConfig

    return ModelConfig(**MODEL)
