"""What the study stands on: worlds of several domains, one small model that has read of all, a warm start over some.

The unseen domain's item texts are among what the small model is pretrained on, as a pretrained model has read of
everything; no session of it is, and nothing else that trains ever meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.adaptation.context import as_sessions
from llmrec.adaptation.sessions import Sessions, logged
from llmrec.adaptation.tasks import Place
from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig, ScenarioSettings, SFTSettings, WorldConfig
from llmrec.dataset.history import History
from llmrec.dataset.world.scenario import DAY, START
from llmrec.dataset.world.world import World, generate_world
from llmrec.files import write_json
from llmrec.pipeline.work import Work
from llmrec.policy.loading import load_causal_lm, load_tokenizer, save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.seeding import numpy_stream
from llmrec.text.documents import documents
from llmrec.text.render import StateRenderer
from llmrec.text.shipped import make_wording
from llmrec.training.propensities import item_groups
from llmrec.training.row_fitting import FitPlan, fit_rows
from llmrec.training.sft import train_lm
from llmrec.training.sft_data import SFTRow, build_rows
from llmrec.types import FloatArray, IntArray, State

DOMAINS = ("shop", "film", "music", "news", "course", "social")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Sizes of the study."""

    trained: int = 3
    """Domains that are trained on; the next one is unseen."""
    users: int = 300
    """Of each world."""
    items: int = 40
    slates: int = 8
    """Of ten items, for each user."""
    new: int = 100
    """Users of each world whose sessions no training meets."""
    examples: int = 1000
    """Choices of each domain that the warm start learns from, in two forms: as history and as session."""
    epochs: float = 1.0
    max_tokens: int = 96
    remembered: int = 20
    """Interactions of a running session that a state tells of."""
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            nano_hidden=64, nano_layers=3, nano_vocabulary=2000, nano_pretrain_sequences=1000
        )
    )
    learning_rate: float = 2e-3
    batch_size: int = 16
    scenario: ScenarioSettings = field(default_factory=ScenarioSettings)
    """Of the worlds."""
    days: float = 90.0
    """Of the worlds' logs, the first ones, that anything learns from."""


@dataclass(frozen=True)
class Domain:
    """A world with its place.

    Attributes:
        world: truth and data.
        place: catalogue, wording, and the sessions of the users who may be learnt from.
        new: users whose sessions no training meets.
    """

    world: World
    place: Place
    new: Sequence[str]

    @property
    def met(self) -> list[str]:
        """All others."""
        new = set(self.new)
        return [user for user in self.world.dataset.users["user_id"].to_list() if user not in new]

    def sessions(self, users: Sequence[str]) -> Sessions:
        """The logged sessions of these users."""
        chosen = set(users)
        events = self.world.dataset.events.filter(pl.col("user_id").is_in(list(chosen)))
        return logged(self.world.dataset, events)

    def states(self, users: Sequence[str]) -> list[State]:
        """Profile and logged history of these users."""
        history = History(self.world.dataset, 20)
        return [history.state(user, None) for user in users]

    def value(self, users: Sequence[str], items_BK: IntArray) -> FloatArray:
        """True value of an item of each slate, (B,)."""
        return np.asarray(self.world.value_of_BK(users, items_BK).mean(axis=1))

    @property
    def strangers(self) -> World:
        """The same world without anything that was logged: its users are met for the first time."""
        dataset = self.world.dataset
        return self.world.with_dataset(dataset.with_events(dataset.events.clear()))


@dataclass(frozen=True)
class Setting:
    """One seed: the domains, and the folder of the warm start."""

    seed: int
    settings: StudySettings
    trained: Sequence[Domain]
    unseen: Domain
    base: Path
    sft: Path
    work: Work

    @classmethod
    def of(cls, seed: int, settings: StudySettings, out: Path) -> Setting:
        """Makes worlds, small model and warm start, each from its stage if it is finished."""
        work = Work(out / f"seed-{seed}")
        names = [DOMAINS[(seed + n) % len(DOMAINS)] for n in range(settings.trained + 1)]
        worlds = [_world(settings, name, 1000 * seed + n) for n, name in enumerate(names)]
        key = {
            "settings": asdict(settings),
            "seed": seed,
            "worlds": [w.dataset.manifest.content_hash for w in worlds],
        }
        base = work.stage("base", key, lambda out, scratch: _pretrain(worlds, settings, seed, out, scratch))
        tokenizer = load_tokenizer(str(base))
        domains = [_domain(world, tokenizer, settings, seed) for world in worlds]
        *trained, unseen = domains
        made = cls(seed, settings, trained, unseen, base, base, work)
        sft = work.stage("sft", key, lambda out, scratch: made.fit(trained, out, scratch))
        return replace(made, sft=sft)

    @property
    def tokenizer(self) -> Any:
        """The small model's."""
        return load_tokenizer(str(self.base))

    def model(self, folder: Path | None = None) -> Any:
        """The warm start, or what is in `folder`, freshly loaded."""
        return load_causal_lm(str(folder or self.sft))

    @property
    def data_hash(self) -> str:
        """Content hash of the unseen domain's data."""
        return self.unseen.world.dataset.manifest.content_hash

    def fit(self, domains: Sequence[Domain], out: Path, scratch: Path) -> None:
        """Warm-starts the small model on the sessions of these domains at once; writes it into `out`."""
        settings, tokenizer, model = self.settings, self.tokenizer, self.model(self.base)
        rows: list[SFTRow] = []
        for domain in domains:
            rows += domain_rows(domain, tokenizer, settings, self.seed)
        order = numpy_stream(self.seed, "adaptation", "warm start").permutation(len(rows))
        rate, steps = settings.learning_rate, -(-len(rows) // settings.batch_size)
        plan = FitPlan("Warm start", settings.batch_size, rate, 0.05, min(100, steps))
        given: dict[str, Any] = {"seed": self.seed, "out": scratch / "trainer", "resume": True, "report_to": ()}
        fitted = fit_rows(model, tokenizer, [rows[n] for n in order], plan, **given)
        save_causal_lm(model, tokenizer, out)
        write_json(out / "cost.json", {"rows": len(rows), "cpu_seconds": fitted.cpu_seconds})


def domain_rows(domain: Domain, tokenizer: Any, settings: StudySettings, seed: int) -> list[SFTRow]:
    """The lessons of a domain, choices weighed by their reward: in states with histories, and in running sessions."""
    place, rows = domain.place, []
    forms = (place.sessions, as_sessions(place.sessions, settings.remembered))
    for form, sessions in enumerate(forms):
        examples = sessions.choices(place.group_N, seed + form)
        sft = SFTSettings(
            examples=settings.examples,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            mixture={"next_item": 0.9, "item_from_attributes": 0.1} if form == 0 else {"next_item": 1.0},
        )
        rows += build_rows(examples, place.items, place.catalogue, place.renderer, tokenizer, sft, seed=seed + form)
    return rows


def _world(settings: StudySettings, domain: str, seed: int) -> World:
    """A world with what is known of its log."""
    sizes = {"users": settings.users, "items": settings.items, "slates_per_user": settings.slates}
    config = WorldConfig(domain=domain, scenario=settings.scenario, **sizes)  # type: ignore[arg-type]  # a test checks
    world = generate_world(config, seed)
    events = world.dataset.events
    known = events.filter(pl.col("time") < START + settings.days * DAY)
    return world if known.height == events.height else world.with_dataset(world.dataset.with_events(known))


def _domain(world: World, tokenizer: Any, settings: StudySettings, seed: int) -> Domain:
    dataset = world.dataset
    items = dataset.item_list
    renderer = StateRenderer(
        items, tokenizer, domain=dataset.manifest.domain, language="en", max_tokens=settings.max_tokens
    )
    ids, titles = [item.item_id for item in items], [renderer.wording.item_title(item) for item in items]
    catalogue = Catalogue.from_titles(ids, titles, tokenizer, answer_prefix=renderer.answer_prefix)
    users = dataset.users["user_id"].to_list()
    order = numpy_stream(seed, "adaptation", "new users", dataset.manifest.domain).permutation(len(users))
    new = sorted(users[n] for n in order[: settings.new])
    learnt = logged(dataset, dataset.events.filter(~pl.col("user_id").is_in(new)))
    place = Place(dataset.manifest.domain, catalogue, renderer, "allow", learnt, item_groups(items), items)
    return Domain(world, place, new)


def _pretrain(worlds: Sequence[World], settings: StudySettings, seed: int, out: Path, scratch: Path) -> None:
    """The small model: item texts of all domains, states of those that are trained on."""
    texts: list[str] = []
    states = [_some_states(world) for world in worlds[:-1]] + [[]]
    for world, some in zip(worlds, states, strict=True):
        wording = make_wording(world.dataset.item_list, domain=world.dataset.manifest.domain, language="en")
        texts += documents(world.dataset.item_list, some, wording)
    tokenizer = train_tokenizer(texts, settings.model.nano_vocabulary)
    model = make_nano(tokenizer, settings.model, seed)
    sequences = settings.model.nano_pretrain_sequences
    made = train_lm(model, tokenizer, texts, settings.max_tokens, sequences, seed=seed, out=scratch / "trainer")
    save_causal_lm(made.model, tokenizer, out)


def _some_states(world: World) -> list[State]:
    history = History(world.dataset, 20)
    return [history.state(user, None) for user in world.dataset.users["user_id"].to_list()[::4]]
