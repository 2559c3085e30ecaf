"""What a log of choices says beside a network where nothing was logged as shown, and how much each part counts.

A network that learns from choices knows tastes; what is chosen *right after* what, which texts are near the latest
ones, what one chooses again and what sells of late are counts, cheap and hard to beat. The click's logit of item j in
a state is a sum with one weight a column:

    network   the network's own click logit
    counted   log(0.001 + sum over k of h^k (C[i_k, j] + a T[i_k, j]) + p log(1 + n_j)), co-visitation's score
    again     log(1 + how often j stands in the history, the k-th latest event as 0.95^k), where repeats are allowed
    popular   log(1 + choices of j in the fitted log)
    recent    the same, a choice counting 2^(-age / 30 days)

i_k is the k-th latest item of the history that was not merely shown, C what follows what and n_j a count that forgets
(`covisits`), T the cosine of TF-IDF vectors, 0 for an item itself. C's window, its share of the reverse, h, a, p and
n's half-life are those with the best NDCG@10 on held-out choices, the grid and the search of the baseline
"covisitation". The weights then maximise the likelihood of held-out choices under the softmax over the catalogue (a
conditional logit, McFadden 1974); alternatives are a uniform sample of it, which leaves the estimate consistent
(McFadden 1978). The last three columns are left out, and the network counts less or not at all, where that foresees
held-out choices better (NDCG@10, cross-fitted over users; `chosen_weights`). Fitted on the rows that made the counts
they would trust counts that hold the answer itself. What a user has chosen before is no alternative where the data
set excludes repeats: it was not to be had.
`popular`, `recent` and p stand apart, so that they can be reported and taken out.
"""

from llmrec.simulator.blend.asked import Asked, alternatives, best_settings, choices_asked
from llmrec.simulator.blend.blended import FLOOR, Blend
from llmrec.simulator.blend.counts import Choices, Likeness, Traces, latest_items
from llmrec.simulator.blend.fitting import fit_blend
from llmrec.simulator.blend.weights import COLUMNS, Rivals, chosen_weights, weights_of

__all__ = [
    "COLUMNS",
    "FLOOR",
    "Asked",
    "Blend",
    "Choices",
    "Likeness",
    "Rivals",
    "Traces",
    "alternatives",
    "best_settings",
    "choices_asked",
    "chosen_weights",
    "fit_blend",
    "latest_items",
    "weights_of",
]
