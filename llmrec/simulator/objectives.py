"""Losses of behaviour networks over impressions: what an impression's outcome says about click and conversion.

| objective | conversion head learns from | source |
|---|---|---|
| funnel | the likelihood of the three outcomes; its conversion part counts clicked impressions alone | `fitting` |
| clicks-only | clicked impressions alone, each head averaged over its own sample | Ma et al. 2018, its baseline |
| esmm | all impressions, through pCTCVR = pCTR * pCVR | Ma et al. 2018, "Entire Space Multi-Task Model" |
| escm2-ips, escm2-dr | esmm, plus the conversion risk of all by 1 / P(click) | Wang et al. 2022, "ESCM²" |

Where places are corrected for, P(click) is P(look) * pCTR, and P(click and conversion) is P(look) * pCTR * pCVR.

None of them makes pCVR unbiased for impressions that were not clicked. With a cause of click and conversion that no
feature shows, the minimiser of esmm is the ratio (conversions / clicks), which is the clicks-only estimate exactly;
ESCM² weighs by a pCTR that does not see the cause either. pCTCVR is what all of them estimate without that trouble.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from llmrec.errors import ConfigError
from llmrec.simulator.networks.parts import CLICK, CONVERSION, IMPUTED, VALUE

Name = Literal["funnel", "clicks-only", "esmm", "escm2-ips", "escm2-dr"]
OBJECTIVES: tuple[Name, ...] = get_args(Name)
COUNTERFACTUAL = ("escm2-ips", "escm2-dr")


@dataclass(frozen=True)
class Labels:
    """What was seen of M impressions: 0 or 1 (M,), and optionally weights, standardised values and places.

    `value_M` is nan where no value is known; `place_M` counts from 0.
    """

    click_M: Tensor
    conversion_M: Tensor
    weight_M: Tensor | None = None
    value_M: Tensor | None = None
    place_M: Tensor | None = None

    def at(self, index: Tensor) -> Labels:
        """The impressions at `index`."""
        parts = (self.click_M, self.conversion_M, self.weight_M, self.value_M, self.place_M)
        return Labels(*(None if part is None else part[index] for part in parts))  # type: ignore[arg-type]

    def joined(self, other: Labels) -> Labels:
        """These labels and then `other`; a column that one of them lacks is left out."""
        names = ("click_M", "conversion_M", "weight_M", "value_M", "place_M")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return Labels(*(None if one is None or two is None else torch.cat([one, two]) for one, two in pairs))  # type: ignore[arg-type]

    def single(self) -> Labels:
        """The same in float32 (places stay whole numbers)."""
        weight_M, value_M = (None if part is None else part.float() for part in (self.weight_M, self.value_M))
        return Labels(self.click_M.float(), self.conversion_M.float(), weight_M, value_M, self.place_M)


class Examination(nn.Module):
    """P(the place is looked at), one number a place, 1 at the first: fitted with the network or given.

    The position-based model: P(click at k) = P(look at k) P(click | looked at). Only ratios to the first place can
    be told from clicks.
    """

    def __init__(self, places: int, given_K: Tensor | None = None) -> None:
        super().__init__()
        start_K = torch.full((places,), 0.7) if given_K is None else given_K.float().clamp(1e-4, 1 - 1e-4)
        # Five numbers or so among thousands of weights share one learning rate; a fifth of the logit lets them travel
        # five times as far.
        self.logit_K = nn.Parameter(torch.logit(start_K) / 5.0, requires_grad=given_K is None)

    def curve(self) -> Tensor:
        """P(look) of each place, (K,)."""
        # look and attraction are seen as a product alone, so the first place is 1 by convention.
        return torch.cat([torch.ones(1), torch.sigmoid(5.0 * self.logit_K[1:])])


def joint_log(logits_MH: Tensor) -> tuple[Tensor, Tensor]:
    """log pCTCVR and log(1 - pCTCVR) of (M, heads) logits, without loss of digits."""
    a, b = logits_MH[:, CLICK], logits_MH[:, CONVERSION]
    log_joint = logsigmoid(a) + logsigmoid(b)
    # 1 - s(a) s(b) = (exp(-a) + exp(-b) + exp(-a - b)) s(a) s(b)
    return log_joint, torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0) + log_joint


@dataclass(frozen=True)
class Objective:
    """A loss by name.

    Attributes:
        name: One of `OBJECTIVES`.
        counterfactual: Weight of ESCM²'s conversion risk.
        clip: Largest inverse of P(click) (ESCM²) or of P(look) (`inverse_places`).
        examination: Corrects clicks for the place they were seen at.
        inverse_places: With `examination`: count a click as 1 / P(look) clicks and 1 - 1 / P(look) of none (Saito et
            al. 2020, "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback") instead of
            taking the likelihood of P(look) * P(click | looked at).
        value_only: Learn the expected value and nothing else.
    """

    name: Name = "funnel"
    counterfactual: float = 0.1
    clip: float = 20.0
    examination: Examination | None = None
    inverse_places: bool = False
    value_only: bool = False

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ConfigError(f"Key 'simulator.objective' is {self.name!r}; choose one of {', '.join(OBJECTIVES)}.")

    def losses(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        """Loss of each impression, (M,), before weights."""
        value_M = self._value(logits_MH, labels)
        if self.value_only:
            return value_M
        return self._funnel(logits_MH, labels) + value_M

    def __call__(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        """Mean loss, weighted where the labels have weights."""
        losses_M = self.losses(logits_MH, labels)
        return (losses_M if labels.weight_M is None else losses_M * labels.weight_M).mean()

    def after_choice(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        """What is learnt of chosen items beside the choice itself, conversion and value: (M,)."""
        wrong_M = binary_cross_entropy_with_logits(logits_MH[:, CONVERSION], labels.conversion_M, reduction="none")
        return wrong_M + self._value(logits_MH, labels)

    def _funnel(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        click_M = labels.click_M
        found_M = self._click(logits_MH, labels)
        # The chain rule of the funnel: -log P(outcome) = -log P(click or not) - [clicked] log P(converted or not |
        # clicked).
        wrong_M = binary_cross_entropy_with_logits(logits_MH[:, CONVERSION], labels.conversion_M, reduction="none")
        if self.name == "funnel":
            return found_M + click_M * wrong_M
        if self.name == "clicks-only":
            # The caller takes the mean over all M impressions; M / clicks makes it the mean over the clicked ones, as
            # a conversion model trained on clicks by itself has it.
            return found_M + click_M * wrong_M * (len(click_M) / click_M.sum().clamp(min=1.0))
        found_M = found_M + self._joint(logits_MH, labels)
        if self.name == "esmm":
            return found_M
        # 1 / P(click) makes clicked impressions stand for all (Wang et al. 2022); bounded by `clip`, as a click that
        # was next to impossible would else outweigh the batch.
        inverse_M = click_M / self._seen_click(logits_MH, labels).clamp(min=1.0 / self.clip)
        if self.name == "escm2-ips":
            return found_M + self.counterfactual * inverse_M * wrong_M
        return found_M + self.counterfactual * self._doubly_robust(logits_MH, inverse_M, wrong_M)

    def _look(self, labels: Labels, kind: torch.dtype) -> Tensor | None:
        """P(the place is looked at) of each impression, (M,); None where every place is taken as looked at."""
        if self.examination is None or labels.place_M is None:
            return None
        return self.examination.curve().to(kind)[labels.place_M]

    def _click(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        logit_M, look_M = logits_MH[:, CLICK], self._look(labels, logits_MH.dtype)
        if look_M is None:
            return binary_cross_entropy_with_logits(logit_M, labels.click_M, reduction="none")
        return self._seen(labels.click_M, logsigmoid(logit_M), logsigmoid(-logit_M), look_M)

    def _joint(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        return self._seen(labels.conversion_M, *joint_log(logits_MH), self._look(labels, logits_MH.dtype))

    def _seen(self, outcome_M: Tensor, log_yes_M: Tensor, log_no_M: Tensor, look_M: Tensor | None) -> Tensor:
        """Cross-entropy of an outcome that needs a look, (M,).

        Whoever looks has it with probability p (`log_yes_M` = log p, `log_no_M` = log(1 - p)), so an impression has
        it with look * p, and 1 - look * p = (1 - look) + look * (1 - p). That holds for clicks and for clicks with
        conversion alike: P(conversion at k) = look_k * pCTR * pCVR. With `inverse_places` the outcome counts as
        1 / look of it, whose expectation is p.
        """
        if look_M is None:
            return -(outcome_M * log_yes_M + (1 - outcome_M) * log_no_M)
        if self.inverse_places:
            # Unbiased: E[outcome / look] = p. A count above 1 makes the loss of a single row negative in part; the
            # clip bounds how far.
            counted_M = outcome_M * (1.0 / look_M).clamp(max=self.clip)
            return -(counted_M * log_yes_M + (1 - counted_M) * log_no_M)
        # In logarithms: 1 - look p is computed without taking two nearly equal numbers from each other.
        log_look_M, log_away_M = torch.log(look_M), torch.log1p(-look_M.clamp(max=1 - 1e-7))
        return -(
            outcome_M * (log_look_M + log_yes_M)
            + (1 - outcome_M) * torch.logaddexp(log_away_M, log_look_M + log_no_M)
        )

    def _seen_click(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        """P(click at the place) = look * pCTR, the propensity of a conversion's being observed, without gradient."""
        look_M = self._look(labels, logits_MH.dtype)
        click_M = torch.sigmoid(logits_MH[:, CLICK])
        return (click_M if look_M is None else look_M * click_M).detach()

    def _doubly_robust(self, logits_MH: Tensor, inverse_M: Tensor, wrong_M: Tensor) -> Tensor:
        """Imputed risk everywhere, corrected where clicked; the imputation learns its residual.

        The imputed error is the cross-entropy to an imputed conversion (as in Wang et al. 2019, "Doubly Robust Joint
        Learning"), so that it has a gradient in pCVR; an imputed number has none.
        """
        if logits_MH.shape[1] <= IMPUTED:
            raise ConfigError(
                "The objective escm2-dr needs a network with an imputation head; choose gru or another."
            )
        logit_M, imputed_M = logits_MH[:, CONVERSION], torch.sigmoid(logits_MH[:, IMPUTED])
        entropy = binary_cross_entropy_with_logits
        guess_M = entropy(logit_M, imputed_M.detach(), reduction="none")
        risk_M = guess_M + inverse_M * (wrong_M - guess_M)
        # The imputation head is fitted to the error as it is, the conversion head to the imputed risk: each takes the
        # other's output as a number.
        free_M = entropy(logit_M.detach(), imputed_M, reduction="none")
        return risk_M + inverse_M * (wrong_M.detach() - free_M).square()

    def _value(self, logits_MH: Tensor, labels: Labels) -> Tensor:
        if labels.value_M is None or logits_MH.shape[1] <= VALUE:
            return torch.zeros_like(labels.click_M)
        known_M = torch.isfinite(labels.value_M)
        error_M = logits_MH[:, VALUE] - torch.where(known_M, labels.value_M, torch.zeros_like(labels.value_M))
        # -log N(value; mean, 1) of the standardised value, without its constant; rows without a value count 0.
        return 0.5 * error_M.square() * known_M
