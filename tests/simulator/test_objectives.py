"""Losses over the funnel, on tables of counts where every minimiser is known by hand, and on planted worlds.

The planted world has a cause of click and conversion, a user's thirst, that the log may show (in the profile) or
hide. What is to be found is P(conversion) of everybody, whoever clicks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.log import read_log
from llmrec.simulator.objectives import OBJECTIVES, Examination, Labels, Objective, joint_log
from llmrec.types import Item, State
from tests.simulator.planted import Impressions


def _log(shown: int, clicks: int, conversions: int) -> Labels:
    click = torch.zeros(shown, dtype=torch.float64)
    conversion = click.clone()
    click[:clicks], conversion[:conversions] = 1, 1
    return Labels(click, conversion)


def _minimiser(objective: Objective, labels: Labels, heads: int = 4) -> np.ndarray:
    """The logits, one a head for all impressions, of least loss."""

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = objective(logits.expand(len(labels.click_M), heads), labels)
        value.backward()
        return value.item(), logits.grad.numpy()

    return minimize(loss, np.zeros(heads), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-15}).x


@pytest.mark.parametrize("name", ["funnel", "clicks-only", "esmm"])
def test_with_nothing_to_tell_impressions_apart_all_find_conversions_per_click(name) -> None:
    """ESMM's conversion estimate is the ratio of its two rates: the clicks-only estimate exactly."""
    click, conversion = expit(_minimiser(Objective(name), _log(1000, 120, 30)))[:2]
    assert click == pytest.approx(0.12, abs=1e-5)
    assert conversion == pytest.approx(30 / 120, abs=1e-4)


def test_joint_logarithms_against_plain_arithmetic() -> None:
    logits = torch.tensor([[0.3, -1.2], [5.0, 4.0], [-3.0, 2.0]], dtype=torch.float64)
    joint = expit(logits[:, 0].numpy()) * expit(logits[:, 1].numpy())
    yes, no = joint_log(logits)
    np.testing.assert_allclose(yes, np.log(joint))
    np.testing.assert_allclose(no, np.log(1 - joint))
    far = joint_log(torch.tensor([[-200.0, -200.0], [60.0, 60.0]]))
    assert torch.isfinite(torch.stack(far)).all()


def test_esmm_loss_by_hand() -> None:
    # pCTR = 1/2, pCVR = 1/4: click loss log 2 for each; pCTCVR = 1/8
    logits = torch.tensor([[0.0, logit(0.25)]] * 2, dtype=torch.float64)
    labels = Labels(torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 0.0]).double())
    found = Objective("esmm").losses(logits, labels)
    np.testing.assert_allclose(found, [np.log(2) + np.log(8), np.log(2) - np.log(7 / 8)])


def test_escm2_ips_loss_by_hand_and_its_clip() -> None:
    logits = torch.tensor([[logit(0.1), logit(0.25)]], dtype=torch.float64)
    labels = Labels(torch.ones(1).double(), torch.zeros(1).double())
    esmm = float(Objective("esmm")(logits, labels))
    for clip, weight in ((20.0, 10.0), (4.0, 4.0)):
        found = float(Objective("escm2-ips", counterfactual=0.5, clip=clip)(logits, labels))
        assert found - esmm == pytest.approx(0.5 * weight * -np.log(0.75))


def test_doubly_robust_risk_equals_the_true_one_if_either_part_is_right() -> None:
    """Over all click patterns: right propensities or right imputed errors give the mean over all impressions."""
    random = np.random.default_rng(0)
    q, p, b = random.uniform(0.2, 0.8, (3, 4))  # imputed conversion, true P(click), predicted conversion
    true = random.uniform(0.2, 0.8, 4)

    def cross(label):
        return -(label * np.log(b) + (1 - label) * np.log(1 - b))

    def expected(click_logit, imputed):
        total = 0.0
        for pattern in np.ndindex(2, 2, 2, 2):
            o = np.array(pattern)
            chance = np.prod(np.where(o, p, 1 - p))
            logits = torch.tensor(np.stack([click_logit, logit(b), 0 * b, logit(imputed)], axis=1))
            objective = Objective("escm2-dr", clip=1e9)
            inverse = torch.tensor(o / expit(click_logit))
            wrong = torch.tensor(cross(true))  # linear in the label, so its mean may stand for it
            risk = objective._doubly_robust(logits, inverse, wrong)
            own = torch.tensor(o / expit(click_logit) * (cross(true) - cross(imputed)) ** 2)
            total += chance * float((risk - own).mean())
        return total

    assert expected(logit(p), q) == pytest.approx(cross(true).mean())
    assert expected(logit(np.full(4, 0.5)), true) == pytest.approx(cross(true).mean())
    assert expected(logit(np.full(4, 0.5)), q) != pytest.approx(cross(true).mean(), abs=1e-3)


def test_heads_and_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="choose one of funnel, clicks-only, esmm, escm2-ips, escm2-dr"):
        Objective("magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="imputation head"):
        Objective("escm2-dr")(torch.zeros(5, 2), _log(5, 2, 1).single())


def _settled(objective: Objective, weight_Z: np.ndarray, click_Z: np.ndarray, conversion_Z: np.ndarray) -> np.ndarray:
    """Free logits of each of Z cells at the stationary point, on all outcomes at their exact frequencies: (Z, 4).

    Gradient steps, since ESCM² holds parts of its loss fixed and so has no value that falls.
    """
    cells = len(weight_Z)
    outcome = [(0.0, 0.0, 1 - click_Z), (1.0, 0.0, click_Z * (1 - conversion_Z)), (1.0, 1.0, click_Z * conversion_Z)]
    labels = Labels(
        *(torch.tensor(np.repeat([o[k] for o in outcome], cells)) for k in (0, 1)),
        weight_M=torch.tensor(np.concatenate([weight_Z * o[2] for o in outcome])) * 3 * cells,
    )
    logits = torch.zeros(cells, 4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for step in range(500):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 500)
        optimiser.zero_grad()
        objective(logits.repeat(3, 1), labels).backward()
        optimiser.step()
    return logits.detach().numpy()


THIRST, ITEM = np.divmod(np.arange(16), 8)  # cells: thirsty or not, times 8 items
APPEAL, QUALITY = np.linspace(-0.6, 0.6, 8), np.linspace(0.5, -0.5, 8)
CLICK = expit(-1.4 + 2.0 * THIRST + APPEAL[ITEM])
CONVERSION = expit(-1.2 + 2.0 * THIRST + QUALITY[ITEM])
POLICY = np.linspace(1.6, 0.6, 8)[ITEM] / np.linspace(1.6, 0.6, 8).sum() / 2
SHIFTED = np.linspace(0.6, 1.6, 8)[ITEM] / np.linspace(0.6, 1.6, 8).sum() / 2


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_the_cause_shown_all_find_conversions_and_joint_probability(name) -> None:
    found = expit(_settled(Objective(name, clip=1e3, counterfactual=0.5), POLICY, CLICK, CONVERSION))
    np.testing.assert_allclose(found[:, 0], CLICK, atol=2e-3)
    np.testing.assert_allclose(found[:, 1], CONVERSION, atol=5e-3)
    for policy in (POLICY, SHIFTED):
        joint, truth = (policy * found[:, 0] * found[:, 1]).sum(), (policy * CLICK * CONVERSION).sum()
        assert joint == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_the_cause_hidden_all_find_the_conversions_of_those_who_click(name) -> None:
    """No objective claims pCVR without bias: those who click are thirstier, and nothing in the log says so.

    What shows is, item by item, clicks and conversions per click. ESMM and clicks-only estimate the same number, and
    ESCM², which weighs by a click probability that knows no more, does too. pCTCVR is right all the same, under the
    logging policy and (as the choice of items does not depend on the hidden cause) under a shifted one.
    """
    click = (CLICK[:8] + CLICK[8:]) / 2
    per_click = (CLICK * CONVERSION)[:8] + (CLICK * CONVERSION)[8:]
    per_click = per_click / (CLICK[:8] + CLICK[8:])
    truth = (CONVERSION[:8] + CONVERSION[8:]) / 2
    found = expit(_settled(Objective(name, clip=1e3, counterfactual=0.5), 2 * POLICY[:8], click, per_click))
    np.testing.assert_allclose(found[:, 1], per_click, atol=5e-3)
    assert (found[:, 1] > truth + 0.05).all()
    for policy in (POLICY, SHIFTED):
        joint = (2 * policy[:8] * found[:, 0] * found[:, 1]).sum()
        assert joint == pytest.approx((policy * CLICK * CONVERSION).sum(), rel=0.01)


def _world(thirst: np.ndarray, hide: bool) -> list[State]:
    words = np.where(thirst, "very thirsty soul", "calm dry person")
    return [State(user_id=f"u{u}", profile="" if hide else str(w), time=u) for u, w in enumerate(words)]


def _drawn(states, thirst, seed, each=20) -> Impressions:
    random = np.random.default_rng(seed)
    row = np.repeat(np.arange(len(states)), each)
    item = random.choice(8, size=len(row), p=2 * POLICY[:8])
    cell = 8 * thirst[row].astype(int) + item
    click = random.random(len(row)) < CLICK[cell]
    conversion = click & (random.random(len(row)) < CONVERSION[cell])
    return Impressions(states, row, item, click.astype(float), conversion.astype(float))


def _errors(name: str, hide: bool, users: int) -> tuple[float, float, float]:
    """Mean pCVR over the impressions of new users, and relative errors of mean pCTCVR, logged and shifted."""
    items = [Item(f"i{n}", f"bottle number{n}") for n in range(8)]
    thirst = [np.random.default_rng(seed).random(users) < 0.5 for seed in (1, 2, 3)]
    train, valid, test = (_world(t, hide) for t in thirst)
    settings = SimulatorSettings(epochs=5, batch_size=512, learning_rate=1e-2, objective=name, counterfactual=0.5)  # type: ignore[arg-type]
    logs = [_drawn(states, t, 7 + k) for k, (states, t) in enumerate(zip((train, valid), thirst, strict=False))]
    model = fit_behaviour(items, logs[0], architecture="logistic", seed=0, settings=settings, valid=logs[1])
    found = model.predict_all(test)
    cell = 8 * thirst[2][:, None].astype(int) + np.arange(8)
    joint, truth = found.click_BK * found.conversion_BK, (CLICK * CONVERSION)[cell]
    errors = [float((joint * p[:8]).sum() / (truth * p[:8]).sum() - 1) for p in (POLICY, SHIFTED)]
    return float((found.conversion_BK * 2 * POLICY[:8]).sum() / users), errors[0], errors[1]


def test_a_fitted_joint_probability_is_calibrated_under_both_policies() -> None:
    """Within 6% of the true mean (5% is twice the deviation of the 4,000 conversions' and users' draws)."""
    _, logged, shifted = _errors("esmm", hide=True, users=1000)
    assert abs(logged) < 0.06
    assert abs(shifted) < 0.06


@pytest.mark.slow
def test_fitted_side_by_side() -> None:
    """Clicks-only, ESMM and ESCM² with the cause shown and hidden, pCTCVR within 4% where it is what is fitted."""
    truth = float((POLICY * CONVERSION).sum())
    naive = float((POLICY * CLICK * CONVERSION).sum() / (POLICY * CLICK).sum())
    for name in OBJECTIVES:
        for hide in (False, True):
            conversion, logged, shifted = _errors(name, hide, users=2500)
            print(f"{name:12} cause {'hidden' if hide else 'shown '}: pCVR {conversion:.4f} (everybody {truth:.4f}, "
                  f"those who click {naive:.4f}); pCTCVR off by {logged:+.2%} logged, {shifted:+.2%} shifted")  # fmt: skip
            assert abs(logged) < 0.04 or name.startswith("escm2")
            assert abs(shifted) < 0.04 or name.startswith("escm2")
            if hide:
                assert conversion > truth + 0.04


def test_examination_likelihood_and_inverse_places_by_hand() -> None:
    curve = Examination(2, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert curve.curve().tolist() == pytest.approx([1.0, 0.5], abs=1e-6)
    logits = torch.tensor([[logit(0.4), 0.0]] * 3, dtype=torch.float64)
    labels = Labels(torch.tensor([1.0, 1.0, 0.0]).double(), torch.zeros(3).double(), place_M=torch.tensor([0, 1, 1]))
    look = Objective("funnel", examination=curve)._click(logits, labels)
    np.testing.assert_allclose(look, [-np.log(0.4), -np.log(0.2), -np.log(0.8)], rtol=1e-5)
    inverse = Objective("funnel", examination=curve, inverse_places=True)._click(logits, labels)
    by_hand = [-np.log(0.4), -(2 * np.log(0.4) - np.log(0.6)), -np.log(0.6)]
    np.testing.assert_allclose(inverse, by_hand, rtol=1e-5)


def test_inverse_places_are_unbiased_for_what_would_be_clicked_if_looked_at() -> None:
    """Mean over looking and clicking of the corrected loss is the loss of P(click | looked at), by enumeration."""
    curve = Examination(3, torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64))
    objective, wanted, p = Objective("funnel", examination=curve, inverse_places=True), 0.35, 0.2
    for place, look in enumerate((1.0, 0.6, 0.3)):
        logits = torch.tensor([[logit(p), 0.0]], dtype=torch.float64)
        loss = {
            c: float(
                objective._click(
                    logits, Labels(torch.tensor([c]).double(), torch.zeros(1).double(), place_M=torch.tensor([place]))
                )
            )
            for c in (0.0, 1.0)
        }
        mean = look * wanted * loss[1.0] + (1 - look * wanted) * loss[0.0]
        assert mean == pytest.approx(-(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)), rel=1e-5)


def test_read_log_keeps_optional_columns_in_parts() -> None:
    log = Impressions(
        [State(user_id="a"), State(user_id="b")], np.array([0, 1]), np.array([0, 1]), np.eye(2)[0], np.zeros(2)
    )
    given = dataclasses.make_dataclass("Given", [f.name for f in dataclasses.fields(log)] + ["value_M"])(
        **vars(log), value_M=np.array([np.nan, 3.0])
    )
    part = read_log(given, 2).part(np.array([False, True]))
    assert part.value_M.tolist() == [3.0]
    assert part.propensity_M is None


LOOK_K = torch.tensor([1.0, 0.7, 0.5, 0.35, 0.25], dtype=torch.float64)
CTR, CVR = 0.4, 0.3


def _every_outcome(ctr_K, cvr_K):
    """All outcomes of one impression at each place (no click, click, click and conversion), with their probability."""
    click, conversion, place, chance = [], [], [], []
    for k, look in enumerate(LOOK_K.tolist()):
        seen = look * ctr_K[k]
        for c, v, p in ((0, 0, 1 - seen), (1, 0, seen * (1 - cvr_K[k])), (1, 1, seen * cvr_K[k])):
            click.append(c)
            conversion.append(v)
            place.append(k)
            chance.append(p / len(LOOK_K))
    columns = (torch.tensor(column, dtype=torch.float64) for column in (click, conversion, chance))
    click_M, conversion_M, chance_M = columns
    return Labels(click_M, conversion_M, place_M=torch.tensor(place)), chance_M


def _objective(name, correction, given=True, **more):
    examination = Examination(len(LOOK_K), LOOK_K if given else None)
    return Objective(name, examination=examination, inverse_places=correction == "inverse-position", **more)


def _minimised(objective, labels, chance_M):
    """P(click | looked at) and P(conversion | click) at the least expected loss, by Newton's cousin."""
    logits_H = torch.zeros(5, dtype=torch.float64, requires_grad=True)  # one cell: the same for all impressions
    free = [logits_H, *(p for p in objective.examination.parameters() if p.requires_grad)]
    optimiser = torch.optim.LBFGS(free, lr=0.5, max_iter=400, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        loss = (objective.losses(logits_H.expand(len(chance_M), -1), labels) * chance_M).sum()
        loss.backward()
        return loss

    optimiser.step(step)
    return torch.sigmoid(logits_H[:2]).tolist()


@pytest.mark.parametrize("name", ["funnel", "esmm", "escm2-ips", "escm2-dr"])
@pytest.mark.parametrize("correction", ["position", "inverse-position"])
def test_the_truth_is_where_no_objective_moves(name, correction):
    labels, chance_M = _every_outcome([CTR] * 5, [CVR] * 5)
    truth = torch.logit(torch.tensor([CTR, CVR, CVR, CVR, CVR], dtype=torch.float64)).requires_grad_()
    (_objective(name, correction).losses(truth.expand(15, -1), labels) * chance_M).sum().backward()
    assert truth.grad[:2].tolist() == pytest.approx([0, 0], abs=1e-4)  # 1e-4: P(look) of the first place is 1 - 1e-4


@pytest.mark.parametrize("name", ["funnel", "esmm", "escm2-ips"])  # escm2-dr is no function's minimum
@pytest.mark.parametrize(
    ("correction", "given"), [("position", True), ("position", False), ("inverse-position", True)]
)
def test_no_place_takes_away_from_conversions(name, correction, given):
    labels, chance_M = _every_outcome([CTR] * 5, [CVR] * 5)
    found = _minimised(_objective(name, correction, given), labels, chance_M)
    # without P(look) in the joint term, esmm ends at 0.3 times the mean of P(look), 0.168
    assert found == pytest.approx([CTR, CVR], abs=2e-3)


@pytest.mark.parametrize("correction", ["position", "inverse-position"])
@pytest.mark.parametrize("name", ["escm2-ips", "escm2-dr"])
def test_the_counterfactual_risk_is_that_of_all_impressions_whatever_their_place(name, correction):
    ctr, cvr = [0.6, 0.5, 0.4, 0.3, 0.2], [0.8, 0.6, 0.4, 0.2, 0.1]  # what stands higher is better in every way
    labels, chance_M = _every_outcome(ctr, cvr)
    logits_MH = torch.zeros(15, 5, dtype=torch.float64)
    logits_MH[:, 0] = torch.logit(torch.tensor(ctr, dtype=torch.float64))[labels.place_M]
    logits_MH[:, 1] = 0.3
    risks = [
        (_objective(name, correction, counterfactual=weight, clip=1e6).losses(logits_MH, labels) * chance_M).sum()
        for weight in (0.0, 1.0)
    ]
    wanted = np.mean([-v * np.log(1 / (1 + np.exp(-0.3))) - (1 - v) * np.log(1 / (1 + np.exp(0.3))) for v in cvr])
    if name == "escm2-dr":  # plus the loss of the imputation itself: (1 / P(click)) * residual², on clicks
        error = torch.nn.functional.binary_cross_entropy_with_logits
        one, half = torch.full((15,), 0.3, dtype=torch.float64), torch.full((15,), 0.5, dtype=torch.float64)
        residual_M = error(one, labels.conversion_M, reduction="none") - error(one, half, reduction="none")
        seen_M = (LOOK_K * torch.tensor(ctr, dtype=torch.float64))[labels.place_M]
        wanted += float((labels.click_M / seen_M * residual_M.square() * chance_M).sum())
    assert float(risks[1] - risks[0]) == pytest.approx(float(wanted), rel=1e-6)
