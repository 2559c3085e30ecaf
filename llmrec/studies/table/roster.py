"""Which rows a table has: every baseline of the registry, then the language-model policy in its forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.errors import ConfigError
from llmrec.rewards import reading_next
from llmrec.studies.table.entries import Entry, baseline_entries
from llmrec.studies.table.mixtures import MixtureEntry
from llmrec.studies.table.policies import FIRST, ImprovedEntry, PolicyEntry, Trainings, UntrainedEntry
from llmrec.studies.table.protocol import Protocol
from llmrec.studies.table.scores import ScorePart
from llmrec.training.sft_data import ITEM_TASKS

BASELINES = "baselines"
LM, RL, FUSED, ENSEMBLE, BOTH = "LM", "LM + RL", "LM, fused", "LM ensemble", "LM ensemble, fused"
MIXED, MIXED_ENSEMBLE = "LM + TIGER-like, fused", "LM + TIGER-like ensembles, fused"
TAUGHT, TAUGHT_ENSEMBLE = "all three, fused", "all three, ensembles fused"
TIGER_FUSED = "TIGER-like, fused"
GRU_FUSED, GRU_ENSEMBLE = "GRU4Rec, fused", "GRU4Rec ensemble"
CONTROL, CONTROL_ENSEMBLE = "GRU4Rec + recent counts, fused", "GRU4Rec ensemble + recent counts, fused"
CONTROL_BANDED = "GRU4Rec + recent counts, fused by elapsed time"
SAS_FUSED, SAS_ENSEMBLE = "SASRec, fused", "SASRec ensemble"
NETWORKS = "GRU4Rec + SASRec + recent counts, fused"
NETWORKS_ENSEMBLE = "GRU4Rec + SASRec ensembles + recent counts, fused"
UNTRAINED, PRETRAINED = "pretrained LM before SFT", "pretrained LM"
PRETRAINED_RL, PRETRAINED_FUSED = "pretrained LM + RL", "pretrained LM, fused"
PRETRAINED_NETWORKS = "pretrained LM + GRU4Rec + SASRec + recent counts, fused"
TIGER, UNTAUGHT, UNPROFILED = "TIGER-like", "LM without teacher", "LM without profile"
PAIRS = (
    ("co-visitation with tuned popularity against fixed", "covisitation", "covisitation-fixed"),
    ("interpolation against co-visitation", "interpolation", "covisitation"),
    ("no language model against co-visitation", CONTROL, "covisitation"),
    ("no language model, ensemble, against co-visitation", CONTROL_ENSEMBLE, "covisitation"),
    ("both networks, no language model, against co-visitation", NETWORKS, "covisitation"),
    ("fused against its control", FUSED, GRU_FUSED),
    ("both policies fused against the control", MIXED, CONTROL_BANDED),
    ("both ensembles fused against the control", MIXED_ENSEMBLE, CONTROL_ENSEMBLE),
    ("all three fused against the control", TAUGHT, CONTROL_BANDED),
    ("all three, ensembles, fused against the control", TAUGHT_ENSEMBLE, CONTROL_ENSEMBLE),
    ("all three, ensembles, fused against both networks", TAUGHT_ENSEMBLE, NETWORKS_ENSEMBLE),
    ("pretrained against co-visitation", PRETRAINED, "covisitation"),
    ("pretrained, warm start against before SFT", PRETRAINED, UNTRAINED),
    ("pretrained, RL against its warm start", PRETRAINED_RL, PRETRAINED),
    ("pretrained, fused, against its control", PRETRAINED_FUSED, GRU_FUSED),
    ("pretrained with both networks against both networks", PRETRAINED_NETWORKS, NETWORKS),
    ("fused against co-visitation", FUSED, "covisitation"),
    ("fused ensemble against co-visitation", BOTH, "covisitation"),
    ("both policies fused against co-visitation", MIXED, "covisitation"),
    ("both policies fused against interpolation", MIXED, "interpolation"),
    ("both ensembles fused against co-visitation", MIXED_ENSEMBLE, "covisitation"),
    ("both ensembles fused against interpolation", MIXED_ENSEMBLE, "interpolation"),
    ("all three fused against interpolation", TAUGHT, "interpolation"),
    ("all three, ensembles, fused against interpolation", TAUGHT_ENSEMBLE, "interpolation"),
    ("TIGER-like fused against co-visitation", TIGER_FUSED, "covisitation"),
    ("policy against co-visitation", LM, "covisitation"),
    ("RL against its warm start", RL, LM),
    ("teacher against none", LM, UNTAUGHT),
    ("policy against TIGER-like", LM, TIGER),
    ("profile against none", LM, UNPROFILED),
)
POWERS = (1.0, 2.0, 3.0)
"""Of co-visitation's scores: as they are they spread their mass over thousands of items."""
HALF_LIVES = (30.0, 120.0, 365.0)
"""In days, of counts that forget."""
PLAIN = {"sft.teacher.kind": "none", "sft.epochs": 4.0, "sft.learning_rate": 2e-3, "sft.history_dropout": 0.2}
SEMANTIC = {
    "identifiers.scheme": "semantic",
    "identifiers.collaborative": 0.0,
    "identifiers.start": "words",
    "text.profile": False,
    "text.feedback": False,
    "text.elapsed": False,
    "sft.epochs": 16.0,
    "sft.learning_rate": 6e-4,
    **{f"sft.mixture.{task}": 0.0 for task in ITEM_TASKS},
}
"""TIGER quantises item content (here TF-IDF) and reads nothing but identifiers (Rajput et al. 2023)."""


def roster(
    protocol: Protocol,
    out: Path,
    seeds: Sequence[int],
    *,
    budget: float = 1.0,
    only: Sequence[str] = (),
    pretrained: Overrides | None = None,
    recipe: Path | None = None,
) -> dict[str, Entry]:
    """The rows by name, in the order of the table.

    Args:
        protocol: what is measured on; where users have profiles there is a row without them.
        out: trained policies are kept here.
        seeds: members of the ensembles.
        budget: factor of the baselines' time budgets.
        only: names to keep, "baselines" for all of the registry; empty keeps all.
        pretrained: `model.name`, a folder or Hub id of a pretrained model that then has rows of its own (one training
            each, seed 0), and what else differs from their recipe.
        recipe: of those rows; the protocol's for pretrained models by default.

    Raises:
        ConfigError: a name that there is not, or a pretrained model without a recipe.
    """
    policy = Trainings("policy", out)
    tiger = Trainings("tiger", out, {**PLAIN, **SEMANTIC})
    untaught = Trainings("untaught", out, PLAIN)
    both = (policy, tiger)
    near, teacher = ScorePart("covisitation-fixed", out, budget), ScorePart("interpolation", out, budget)
    sharp = dataclasses.replace(near, powers=POWERS)
    network = ScorePart("gru4rec", out, budget)
    lately = ScorePart("recent-popularity", out, budget, options=tuple({"half_life": days} for days in HALF_LIVES))
    attention = ScorePart("sasrec", out, budget)
    cheap, members = (network, sharp, lately), tuple(seeds)
    networks = (network, attention, sharp, lately)

    def row(
        name: str,
        description: str,
        policies: tuple[Trainings, ...],
        scores: tuple[ScorePart, ...] = (),
        seeds: tuple[int, ...] = (),
        banded: bool = False,
    ) -> MixtureEntry:
        return MixtureEntry(name, description, out, policies, scores, seeds, banded)

    warm = PolicyEntry(LM, "the policy of the recipe, warm-started", policy)
    forms: tuple[Entry, ...] = (
        PolicyEntry(TIGER, "the policy from scratch on semantic identifiers of content, no text, no teacher", tiger),
        PolicyEntry(UNTAUGHT, "the policy of the recipe, warm-started on logged choices alone", untaught),
        warm,
        ImprovedEntry(RL, _rl_description(protocol), warm),
        row(FUSED, "mixture of the warm-started policy and co-visitation", (policy,), (sharp,)),
        row(ENSEMBLE, "mean probability of the policies of all seeds", (policy,), seeds=members),
        row(BOTH, "mixture of the ensemble and co-visitation", (policy,), (sharp,), members),
        row(TIGER_FUSED, "mixture of the TIGER-like policy and co-visitation", (tiger,), (sharp,)),
        row(MIXED, "mixture of both policies and co-visitation, weights by elapsed time", both, (near,), banded=True),
        row(MIXED_ENSEMBLE, "the same with all seeds of both policies", both, (near,), members, banded=True),
        row(TAUGHT, "mixture of both policies, co-visitation and interpolation", both, (near, teacher), banded=True),
        row(TAUGHT_ENSEMBLE, "the same with all seeds", both, (near, teacher), members, banded=True),
        row(GRU_FUSED, "mixture of GRU4Rec and co-visitation", (), (network, sharp)),
        row(CONTROL, "mixture of GRU4Rec, co-visitation and recent counts", (), cheap),
        row(CONTROL_BANDED, "the same, weights by elapsed time", (), cheap, banded=True),
        row(GRU_ENSEMBLE, "mean probability of GRU4Rec of all seeds", (), (network,), members),
        row(CONTROL_ENSEMBLE, "mixture of that, co-visitation and recent counts", (), cheap, members),
        row(SAS_FUSED, "mixture of SASRec and co-visitation", (), (attention, sharp)),
        row(SAS_ENSEMBLE, "mean probability of SASRec of all seeds", (), (attention,), members),
        row(NETWORKS, "mixture of GRU4Rec, SASRec, co-visitation and recent counts", (), networks),
        row(NETWORKS_ENSEMBLE, "the same with the networks' ensembles of all seeds", (), networks, members),
    )
    if pretrained is not None:
        file = recipe or protocol.pretrained_file
        if file is None:
            raise ConfigError(
                f"--model: the table of {protocol.name!r} has no recipe for a pretrained model; give --recipe."
            )
        read = Trainings("pretrained", out, pretrained, file)
        begun = PolicyEntry(PRETRAINED, "a pretrained model, warm-started on titles", read, random=False)
        forms += (
            UntrainedEntry(UNTRAINED, "a pretrained model as it is, by the likelihood of titles", read),
            begun,
            ImprovedEntry(PRETRAINED_RL, "the same, improved by the recipe's RL", begun),
            row(PRETRAINED_FUSED, "mixture of that model and co-visitation", (read,), (sharp,), (FIRST,)),
            row(PRETRAINED_NETWORKS, "mixture of that model and all of the control's", (read,), networks, (FIRST,)),
        )
    found = baseline_entries(budget) | {entry.name: entry for entry in forms}
    if protocol.profiles:
        silent = Trainings("unprofiled", out, {"text.profile": False})
        found[UNPROFILED] = PolicyEntry(UNPROFILED, "the policy of the recipe, its states without profiles", silent)
    wanted = {row for name in only for row in (baseline_entries() if name == BASELINES else (name,))}
    for name in wanted:
        if name not in found:
            raise ConfigError(f"There is no row {name!r}; choose among {', '.join(found)}.")
    return {name: entry for name, entry in found.items() if not wanted or name in wanted}


def _rl_description(protocol: Protocol) -> str:
    """What the recipe's RL is rewarded with: simulated users, and the logged choices where it says so."""
    reward = RunConfig.read(protocol.recipe_file).reward
    known = any(reward.terms.get(name, 1.0) for name in reading_next(reward))
    also = ", and rewarded with the logged next item too" if known else ""
    return f"the same, improved by the recipe's RL against simulated users{also}"


def simulating(out: Path) -> Trainings:
    """Whose judge values the lists of all rows."""
    return Trainings("policy", out)
