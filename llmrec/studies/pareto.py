"""Several objectives, one policy: does it follow the weights that a line of the state asks for?

    J_w(pi) = w_click E[click] + w_conversion E[purchase] + w_revenue E[revenue] + w_diversity D(pi)
              - beta KL(pi || pi_0)

E is over an item drawn from pi, D = 1 - sum over categories of pi(category)^2 is the chance that two draws are of
different categories (Simpson 1949), and each reward is divided by its spread over users and items, so that weights
mean the same. In training w is drawn anew for each state and told in words (`text.objectives`), and the reward's
weights follow the text. The catalogue is small, so J's optimum is had in closed form, and what is learnt is to be it:
the loss is KL(optimum || pi), and nothing is drawn but states and weights. Rewards are the world's true values for
the users of training; the figures are true values for other users.

Asked are: does each objective rise with its own weight, whatever the other weights are; and which front do all
weights draw, beside the optimum of J itself (the warm start tilted by the truth, which no policy of text knows).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import World, generate_world
from llmrec.evaluation.drawing import BLUE, GREEN, MUTED, ORANGE, panels, style, to_svg
from llmrec.evaluation.significance import Interval
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.before import base_policy
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import targets
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.modes import evaluating
from llmrec.policy.normalised import catalogue_log_probs
from llmrec.progress import track
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds
from llmrec.text.objectives import LEVELS, OBJECTIVES, Objective, drawn_levels, preferring
from llmrec.types import Example, FloatArray, IntArray, State

SMALL: Overrides = {
    "world.users": 300,
    "world.items": 40,
    "data.history_events": 5,
    "text.max_tokens": 128,
    "text.profile": False,
    # the small model has read lines of this kind before it is asked to follow them
    "reward.stated": ["click", "conversion", "revenue", "diversity"],
    "model.nano_hidden": 64,
    "model.nano_layers": 2,
    "model.nano_vocabulary": 1000,
    "model.nano_pretrain_sequences": 1024,
}
RATE, RL_RATE, BETA, DIVERSITY = 2e-3, 2e-3, 0.5, 4.0
"""Rates of SFT and RL, the KL's weight, and what D of 1 is worth beside one standard deviation of a reward."""
K = 5
AT_ONCE = 32
DRAWN, LISTED = "drawn", "listed"
MEANS = "items' means"
"""The control: the optimum as if everybody were the average user of training; it reads weights, and nobody."""
REWARDS: tuple[Objective, ...] = OBJECTIVES[:3]


@dataclass(frozen=True)
class Sizes:
    """Steps of SFT and of what follows it, states a step and of the test, weights of the front."""

    steps: int = 60
    rl_steps: int = 600
    batch: int = 16
    states: int = 120
    front: int = 30


def pareto(
    seeds: Sequence[int],
    out: Path,
    *,
    steps: int = Sizes.steps,
    rl_steps: int = Sizes.rl_steps,
    states: int = Sizes.states,
    batch: int = Sizes.batch,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains one policy a seed, moves each weight by itself and all of them together.

    Args:
        seeds: of worlds, models, states and weights.
        out: stages and answer are kept here.
        steps: of SFT.
        rl_steps: of RL under drawn weights.
        states: of other users that are asked.
        batch: states of a step.
        overrides: values by key, over those of the study.
        json_file: the figures are also written here.
    """
    sizes = Sizes(steps=steps, rl_steps=rl_steps, states=states, batch=batch)

    def measure(seed: int) -> SeedRows:
        config = RunConfig.read(None, {**SMALL, "seed": seed, **(overrides or {})})
        world = generate_world(config.world, seed)
        data, work = RunData(world.dataset, make_split(world.dataset, "time"), world), Work(out / f"seed-{seed}")
        data_hash = world.dataset.manifest.content_hash
        key = {"config": config.tree(), "sizes": dataclasses.asdict(sizes), "data": data_hash}

        def build(folder: Path, _: Path) -> None:
            policy = base_policy(config, data, base_model(config, data, work))
            _measured(config, data, world, policy, sizes, folder)

        folder = work.stage("weights", key, build)
        return _kept(folder, seed, data_hash)

    return Study(tuple(seeds), measure, _answer).run(out, json_file)


def diversity(p_BN: FloatArray, category_N: IntArray) -> FloatArray:
    """The chance that two draws from p are of different categories: (B,)."""
    share_BC = np.stack([p_BN[:, category_N == c].sum(1) for c in range(category_N.max() + 1)], 1)
    different: FloatArray = 1.0 - (share_BC**2).sum(1)
    return different


def list_diversity(items_BK: IntArray, category_N: IntArray) -> FloatArray:
    """The share of pairs of a list whose categories differ: (B,)."""
    own_BK = category_N[items_BK]
    pairs = list(itertools.combinations(range(items_BK.shape[1]), 2))
    found: FloatArray = np.mean([own_BK[:, a] != own_BK[:, b] for a, b in pairs], axis=0)
    return found


def tilted(log_BN: FloatArray, reward_BN: FloatArray, weight_B: FloatArray, category_N: IntArray) -> FloatArray:
    """The optimum of J, log-probabilities (B, N), for reward_BN = the weighted sum of rewards and D's weight_B.

    J is concave in pi, and its optimum is pi = pi_0 exp((reward - 2 weight pi(category)) / beta), normalised, which
    is found by going half the way again and again.
    """
    member_NC = np.eye(category_N.max() + 1)[category_N]
    found_BN = log_BN
    share_BC = np.exp(found_BN) @ member_NC
    for _ in range(200):
        found_BN = log_BN + (reward_BN - 2 * weight_B[:, None] * share_BC[:, category_N]) / BETA
        found_BN = found_BN - np.logaddexp.reduce(found_BN, axis=1, keepdims=True)
        share_BC = 0.9 * share_BC + 0.1 * np.exp(found_BN) @ member_NC
    return found_BN


class _Lab:
    """A world's rewards, and a model as an exact distribution over items that were not seen."""

    def __init__(self, policy: LanguagePolicy, world: World) -> None:
        self.policy, self.world = policy, world
        items = world.dataset.item_list
        names = {name: n for n, name in enumerate(dict.fromkeys(item.categories[:1] for item in items))}
        self.category_N = np.array([names[item.categories[:1]] for item in items])
        price_N = np.array([item.price or 0.0 for item in items])
        users = world.dataset.users["user_id"].to_list()
        self.row = {user: n for n, user in enumerate(users)}
        click_UN = world.expected_click_BN(users)
        sold_UN = click_UN * world.expected_conversion_BN(users)
        self.value_RUN = np.stack([click_UN, sold_UN, sold_UN * price_N])
        self.spread_R = self.value_RUN.std(axis=(1, 2))

    def values(self, states: Sequence[State]) -> FloatArray:
        """True click, purchase and revenue of showing each item: (3, B, N)."""
        found: FloatArray = self.value_RUN[:, [self.row[str(state.user_id)] for state in states]]
        return found

    def log_probs(self, model: Any, states: Sequence[State]) -> Tensor:
        """log pi of every item given that it was not seen: (B, N), differentiable."""
        ids, mask = self.policy.encode(states)
        log_BN = catalogue_log_probs(model, ids, mask, self.policy.index, "local")
        seen_BN = torch.zeros_like(log_BN, dtype=torch.bool)
        for b, state in enumerate(states):
            seen_BN[b, list(state.seen())] = True
        return torch.log_softmax(log_BN.masked_fill(seen_BN, -1e9), 1)

    @torch.no_grad()
    def all(self, model: Any, states: Sequence[State]) -> FloatArray:
        """The same of many states, without a gradient and dropout."""
        with evaluating(model):
            parts = [self.log_probs(model, states[i : i + AT_ONCE]) for i in range(0, len(states), AT_ONCE)]
        found_BN: FloatArray = torch.cat(parts).cpu().numpy()
        return found_BN

    def figures(self, log_BN: FloatArray, states: Sequence[State]) -> dict[str, dict[Objective, FloatArray]]:
        """True values of a draw and of the list of the K best, by objective: (B,) each."""
        p_BN, value_RBN = np.exp(log_BN), self.values(states)
        top_BK = np.argsort(-log_BN, axis=1, kind="stable")[:, :K]
        drawn: dict[Objective, FloatArray] = {n: (p_BN * value_RBN[r]).sum(1) for r, n in enumerate(REWARDS)}
        listed: dict[Objective, FloatArray] = {
            n: np.take_along_axis(value_RBN[r], top_BK, 1).mean(1) for r, n in enumerate(REWARDS)
        }
        drawn["diversity"] = diversity(p_BN, self.category_N)
        listed["diversity"] = list_diversity(top_BK, self.category_N)
        return {DRAWN: drawn, LISTED: listed}

    def means(self, users: Sequence[str]) -> FloatArray:
        """What each item is worth to these users on average, in units of the rewards' spread: (3, N)."""
        found: FloatArray = self.value_RUN[:, [self.row[user] for user in users]].mean(1) / self.spread_R[:, None]
        return found

    def reward(self, states: Sequence[State], weight_BO: FloatArray) -> FloatArray:
        """The weighted sum of the rewards of each item, (B, N)."""
        unit_RBN = self.values(states) / self.spread_R[:, None, None]
        found: FloatArray = np.einsum("rbn,br->bn", unit_RBN, weight_BO[:, :3])
        return found

    def best(self, start_BN: FloatArray, states: Sequence[State], weight_BO: FloatArray) -> FloatArray:
        """The optimum of J beside a warm start: log-probabilities (B, N)."""
        return tilted(start_BN, self.reward(states, weight_BO), DIVERSITY * weight_BO[:, 3], self.category_N)

    def gain(self, log_BN: Tensor, start_BN: Tensor, states: Sequence[State], weight_BO: FloatArray) -> Tensor:
        """J of each state, (B,), differentiable."""
        p_BN = log_BN.exp()
        reward_BN = torch.from_numpy(self.reward(states, weight_BO))
        share_BC = p_BN @ torch.from_numpy(np.eye(self.category_N.max() + 1)[self.category_N])
        different_B = 1.0 - (share_BC**2).sum(1)
        weight_B = DIVERSITY * torch.from_numpy(weight_BO[:, 3])
        return (p_BN * (reward_BN - BETA * (log_BN - start_BN))).sum(1) + weight_B * different_B


def asking(states: Sequence[State], level_BO: IntArray) -> list[State]:
    """The states with the line that asks for these levels."""
    return [
        preferring(state, dict(zip(OBJECTIVES, levels, strict=True)), "en", OBJECTIVES)
        for state, levels in zip(states, level_BO.tolist(), strict=True)
    ]


def _weights(level_BO: IntArray) -> FloatArray:
    found: FloatArray = level_BO / (LEVELS - 1)
    return found


def _fit(model: Any, steps: int, rate: float, loss: Any, what: str) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for step in track(range(steps), what):
        optimiser.zero_grad()
        loss(step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        falling.step()


def _apart(config: RunConfig, data: RunData, sizes: Sizes) -> tuple[list[Example], list[Example]]:
    """Choices of the training period by half of the users, and of the test period by the others."""
    users = data.dataset.users["user_id"].to_list()
    learnt = set(numpy_stream(config.seed, "pareto", "users").permutation(users)[: len(users) // 2].tolist())
    train = [e for e in targets(config, data, "train", None) if e.state.user_id in learnt]
    test = [e for e in targets(config, data, "test", None) if e.state.user_id not in learnt]
    first: dict[str | None, Example] = {}
    for example in test:  # one state a user, the first of the period
        first.setdefault(example.state.user_id, example)
    return train, list(first.values())[: sizes.states]


def _measured(
    config: RunConfig, data: RunData, world: World, policy: LanguagePolicy, sizes: Sizes, folder: Path
) -> None:
    lab, random = _Lab(policy, world), numpy_stream(config.seed, "pareto")
    train, test = _apart(config, data, sizes)
    model = copy.deepcopy(policy.model).train()

    def batch(pool: Sequence[Example]) -> tuple[list[Example], IntArray]:
        rows = random.integers(0, len(pool), sizes.batch)
        return [pool[int(r)] for r in rows], drawn_levels(sizes.batch, len(OBJECTIVES), random)

    def imitate(_: int) -> Tensor:
        # the line is met here already, and says nothing about what is chosen
        examples, level_BO = batch(train)
        kept = [(e, levels) for e, levels in zip(examples, level_BO, strict=True) if e.target not in e.state.seen()]
        states = asking([e.state for e, _ in kept], np.array([levels for _, levels in kept]))
        log_BN = lab.log_probs(model, states)
        return -log_BN[torch.arange(len(kept)), torch.tensor([e.target for e, _ in kept])].mean()

    _fit(model, sizes.steps, RATE, imitate, "SFT")
    start = copy.deepcopy(model).eval()

    def improve(_: int) -> Tensor:
        examples, level_BO = batch(train)
        states = asking([e.state for e in examples], level_BO)
        best_BN = torch.from_numpy(lab.best(lab.all(start, states), states, _weights(level_BO)))
        return -(best_BN.exp() * lab.log_probs(model, states)).sum(1).mean()

    _fit(model, sizes.rl_steps, RL_RATE, improve, "learning under drawn weights")

    states = [e.state for e in test]
    # the other weights stay as they were drawn for each state while one weight moves
    background_BO = random.integers(0, LEVELS, (len(states), len(OBJECTIVES)))
    kept: dict[str, FloatArray] = {}
    for o, name in enumerate(OBJECTIVES):
        for level in range(LEVELS):
            level_BO = background_BO.copy()
            level_BO[:, o] = level
            found = lab.figures(lab.all(model, asking(states, level_BO)), states)
            for way in (DRAWN, LISTED):
                kept[f"{name}|{level}|{way}"] = found[way][name]
    np.savez(folder / "rows.npz", users=np.array([str(s.user_id) for s in states]), **kept)  # type: ignore[arg-type]
    users = sorted({str(e.state.user_id) for e in train})
    write_json(folder / "front.json", _front(lab, model, start, states, lab.means(users), sizes, random))


def _front(
    lab: _Lab,
    model: Any,
    start: Any,
    states: Sequence[State],
    mean_RN: FloatArray,
    sizes: Sizes,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Means over the states of all objectives under many weights: of policy, optimum, warm start and control."""
    corners = [[3 * (o == n) for o in range(len(OBJECTIVES))] for n in range(len(OBJECTIVES))]
    drawn = random.integers(0, LEVELS, (max(sizes.front - len(corners), 0), len(OBJECTIVES))).tolist()
    points = []
    for levels in track([*corners, *drawn], "front"):
        level_BO = np.tile(np.array(levels), (len(states), 1))
        asked, weight_BO = asking(states, level_BO), _weights(level_BO)
        start_BN, own_BN = lab.all(start, asked), lab.all(model, asked)
        best_BN = lab.best(start_BN, states, weight_BO)
        control_BN = tilted(start_BN, weight_BO[:, :3] @ mean_RN, DIVERSITY * weight_BO[:, 3], lab.category_N)
        point: dict[str, Any] = {"levels": levels}
        sides = {"policy": own_BN, "optimum": best_BN, "warm start": start_BN, MEANS: control_BN}
        for side, log_BN in sides.items():
            found = lab.figures(log_BN, states)
            with torch.no_grad():
                gain = lab.gain(torch.from_numpy(log_BN), torch.from_numpy(start_BN), states, weight_BO)
            point[side] = {way: {n: float(v.mean()) for n, v in found[way].items()} for way in found}
            point[side]["J"] = float(gain.mean())
        points.append(point)
    return {"points": points}


def _kept(folder: Path, seed: int, data_hash: str) -> SeedRows:
    rows: dict[str, dict[str, FloatArray]] = {}
    with np.load(folder / "rows.npz", allow_pickle=False) as found:
        users = [f"{seed} {user}" for user in found["users"].tolist()]
        for name in found.files:
            if name != "users":
                objective, level, way = name.split("|")
                rows.setdefault(f"{objective} {level}", {})[way] = found[name]
    return SeedRows(seed, data_hash, rows, dict.fromkeys((DRAWN, LISTED), users), read_json(folder / "front.json"))


def _answer(found: Pooled) -> Answer:
    columns = ("objective", "figure", *(f"weight {level}" for level in range(LEVELS)), *_steps())
    rows, figures = [], {}
    monotone = {DRAWN: 0, LISTED: 0}
    for name in OBJECTIVES:
        for way in (DRAWN, LISTED):
            sides = [f"{name} {level}" for level in range(LEVELS)]
            means = [float(found.rows(side, way).mean()) for side in sides]
            pairs = list(itertools.pairwise(sides))
            gaps: list[Interval] = [found.difference(b, a, way) for a, b in pairs]
            seeds = [
                over_seeds((np.array(found.means(b, way)) - np.array(found.means(a, way))).tolist()) for a, b in pairs
            ]
            whole = found.difference(sides[-1], sides[0], way)
            monotone[way] += all(gap.low > 0 for gap in gaps)
            rows.append((name, way, *(f"{mean:.4f}" for mean in means), *(signed(gap, 4) for gap in gaps)))
            figures[f"{name}, {way}"] = {
                "means": means,
                "steps": [{"mean": g.mean, "low": g.low, "high": g.high} for g in gaps],
                "steps_over_seeds": seeds,
                "whole": {"mean": whole.mean, "low": whole.low, "high": whole.high},
            }
    points = [point for one in found.seeds for point in one.facts["points"]]
    gain, most, control = (
        sum(p[side]["J"] - p["warm start"]["J"] for p in points) for side in ("policy", "optimum", MEANS)
    )
    # sums, not the mean of ratios: where weights are near 0 there is next to nothing to gain
    closed, by_means = (one / most if most > 1e-6 else float("nan") for one in (gain, control))
    efficient = {str(one.seed): len(nondominated(_points(one.facts["points"], "policy"))) for one in found.seeds}
    sentences = [
        f"Of {len(OBJECTIVES)} objectives {monotone[DRAWN]} rise at every step of their weight as what a draw earns "
        f"and {monotone[LISTED]} as what a list of {K} earns, by paired intervals over users (95%, the others' "
        "weights as drawn).",
        f"Over {len(points)} weights the policy gains {gain / len(points):+.3f} of J, which is {closed:.0%} of the "
        f"{most / len(points):.3f} that there is to gain at all. Whoever knows what items are worth to everybody on "
        f"average, and the weights, gains {by_means:.0%}.",
    ]
    note = "Differences with 95% intervals."
    sheet = Sheet("True values by the weight that the text asks for", columns, rows, note)
    more = {
        "monotone": monotone,
        "closed": closed,
        "closed by means": by_means,
        "efficient": efficient,
        "points": points,
    }
    plots = {"front": front_figure(found.seeds[0].facts["points"])}
    title = "Several objectives: one policy that follows the weights in its text"
    return Answer(title, figures | more, (sheet,), sentences, plots)


def _steps() -> list[str]:
    return [f"{level} to {level + 1}" for level in range(LEVELS - 1)]


def _points(points: Sequence[Mapping[str, Any]], side: str) -> FloatArray:
    """What a side's draws earn: (points, objectives)."""
    return np.array([[point[side][DRAWN][name] for name in OBJECTIVES] for point in points])


def nondominated(value_PO: FloatArray) -> list[int]:
    """Rows that no other row beats: at least as good in all columns and better in one."""
    return [p for p, row in enumerate(value_PO) if not ((value_PO >= row).all(1) & (value_PO > row).any(1)).any()]


def front_figure(points: Sequence[Mapping[str, Any]]) -> str:
    """What draws earn under all weights, two objectives a panel, with the front of each pair."""
    pairs = (("click", "revenue"), ("conversion", "diversity"), ("revenue", "diversity"), ("click", "diversity"))
    with style():
        figure, axes = panels(len(pairs), 2, width=8.0, height=2.8)
        for axis, (x, y) in zip(axes, pairs, strict=True):
            for side, colour in (("optimum", MUTED), (MEANS, GREEN), ("policy", BLUE), ("warm start", ORANGE)):
                at = [OBJECTIVES.index(x), OBJECTIVES.index(y)]
                value_P2 = _points(points, side)[:, at]
                if side == "warm start":
                    value_P2 = value_P2.mean(0, keepdims=True)
                axis.plot(*value_P2.T, "o", markersize=3.5, color=colour, label=side, alpha=0.8)
                best = value_P2[nondominated(value_P2)]
                if len(best) > 1:
                    axis.plot(*best[np.argsort(best[:, 0])].T, color=colour, linewidth=0.9)
            axis.set_xlabel(x)
            axis.set_ylabel(y)
        axes[0].legend(fontsize=8.5)
        return to_svg(figure, "What one policy earns under many weights, and the best there is")
