"""Versions of the policy are swapped while the service answers."""

from __future__ import annotations

import shutil

import torch
from safetensors.torch import load_file, save_file

from llmrec.online.deployed import deployed
from llmrec.online.update import ADAPTER, OnlineSettings
from llmrec.recommender import Recommender
from llmrec.rules import parse_rules
from llmrec.service.logs import Journal
from llmrec.service.service import Service
from llmrec.service.settings import ServiceSettings
from llmrec.service.wire import RecommendBody
from tests.service.conftest import until


async def asked(service):
    answer = await service.recommend(RecommendBody(state={}, k=14, exact=True))
    # rules are set anew for every version
    assert len(answer.items) == 11
    assert not any("lamp" in item.title for item in answer.items)
    assert answer.rules is not None
    assert answer.rules.count == 1
    return answer


RULES = [{"forbidden_words": ["lamp"]}]


def test_a_promoted_version_is_served_and_a_rollback_goes_back(run, tmp_path):
    import asyncio

    updater = deployed(run / "run", tmp_path / "versions", OnlineSettings())
    lines: list[str] = []
    ruled = Recommender.load(run / "run", data=run / "data", rules=parse_rules(RULES, "a test"))
    settings = ServiceSettings(deadline_s=60.0, poll_s=0.05)
    service = Service(ruled, tmp_path / "state", settings, Journal(lines.append), updater.versions.folder)
    try:
        own = asyncio.run(asked(service))
        assert own.version == 0
        first = updater.begin()
        until(lambda: service.deployed.version == first.number)
        warm = asyncio.run(asked(service))
        assert warm.version == first.number == 1
        same = [item.item_id for item in warm.items] == [item.item_id for item in own.items]
        assert same, "the first version changes nothing"

        def louder(folder):
            shutil.copytree(first.folder / ADAPTER, folder / ADAPTER)
            weights = folder / ADAPTER / "adapter_model.safetensors"
            draw = torch.Generator().manual_seed(0)
            made = {name: x + 0.3 * torch.randn(x.shape, generator=draw) for name, x in load_file(weights).items()}
            save_file(made, weights, {"format": "pt"})

        second = updater.versions.add(louder, first.facts)
        updater.versions.promote(second.number, "a test")
        until(lambda: service.deployed.version == second.number)
        other = asyncio.run(asked(service))
        assert [item.log_probability for item in other.items] != [item.log_probability for item in warm.items]
        updater.versions.roll_back("a test")
        until(lambda: service.deployed.version == first.number)
        assert asyncio.run(asked(service)).items == warm.items
        assert sum('"version"' in line for line in lines) == 3
    finally:
        service.close()
