"""Bootstrap of many systems at once: the intervals of `significance`, from one matrix product a metric.

Drawing units (users, or rows) with replacement is the same as weighting each by how often it was drawn, so the sums
of all systems over all samples are one product (samples, units) @ (units, systems). The draws are those of
`bootstrap_interval` with the same name, hence so are the intervals, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from llmrec.errors import RequestError
from llmrec.evaluation.significance import CELLS, Interval, unit_codes
from llmrec.evaluation.table import Cell
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, FloatArray

LEVEL = 0.95


class Resampler:
    """Bootstrap over the users of B rows.

    Args:
        rows: B.
        users: user of each row, drawn with all their rows; None draws rows.
        samples: bootstrap samples, S.
        seed: run seed.
    """

    def __init__(
        self, rows: int, users: Sequence[object] | None = None, *, samples: int = 1000, seed: int = 0
    ) -> None:
        if users is not None and len(users) != rows:
            raise RequestError(f"{rows} rows need {rows} users, but {len(users)} were given.")
        unit_B = np.arange(rows) if users is None else unit_codes(users)
        self.rows, self.units = rows, int(unit_B.max(initial=-1)) + 1
        self.samples, self.seed = samples, seed
        self._kept: tuple[tuple[object, ...], list[npt.NDArray[np.int32]]] | None = None
        self._of_unit = sp.csr_matrix((np.ones(rows), (unit_B, np.arange(rows))), shape=(self.units, rows))

    def sums(self, columns_BC: FloatArray, *name: object) -> FloatArray:
        """Sums of columns over the rows of each sample, (S, C); the samples depend on `name` and the seed alone."""
        columns_UC = self._of_unit @ columns_BC
        return np.concatenate([times_SU.astype(np.float64) @ columns_UC for times_SU in self._times(name)])

    def _times(self, name: tuple[object, ...]) -> list[npt.NDArray[np.int32]]:
        """How often each unit was drawn in each sample, (S, U) in pieces; those of the last name are kept."""
        if self._kept is not None and self._kept[0] == name:
            return self._kept[1]
        # The same draws in the same order as `resampled_means`: adding the samples' numbers times U lets one bincount
        # count all of them.
        rng = numpy_stream(self.seed, "bootstrap", *name)
        chunk = max(1, CELLS // self.units)
        parts = []
        for start in range(0, self.samples, chunk):
            size = min(chunk, self.samples - start)
            drawn_SU = rng.integers(self.units, size=(size, self.units))
            drawn_SU += self.units * np.arange(size)[:, None]
            times_SU = np.bincount(drawn_SU.ravel(), minlength=size * self.units).reshape(size, self.units)
            parts.append(times_SU.astype(np.int32))
        self._kept = (name, parts)
        return parts

    def means(self, values_BC: FloatArray, kept_BC: BoolArray, *name: object) -> FloatArray:
        """Means of each column over its kept rows in each sample, (S, C); NaN where a sample holds none of them."""
        # Sums and counts of the kept rows in one product; their ratio is each sample's mean over the rows it holds.
        held_BC = np.where(kept_BC, values_BC, 0.0)
        sums_SC = self.sums(np.hstack([held_BC, kept_BC.astype(np.float64)]), *name)
        over_SC, under_SC = np.hsplit(sums_SC, 2)
        means_SC: FloatArray = np.divide(over_SC, under_SC, out=np.full(over_SC.shape, np.nan), where=under_SC > 0)
        return means_SC

    def cells(
        self, values: Mapping[str, FloatArray], name: str, reference: str | None, kept_B: BoolArray | None = None
    ) -> dict[str, Cell]:
        """One metric's cells of all systems: mean, interval and paired difference to the reference.

        Args:
            values: (B,) by system.
            name: of the metric, which names the samples.
            reference: system that the others are compared with, if it is among them.
            kept_B: rows that count; by default all where no system is NaN.

        Returns:
            By system; empty where no row counts.

        Raises:
            RequestError: rows that do not fit, or a value that counts and is not a number.
        """
        values_BC = _columns(values, self.rows)
        if kept_B is None:
            kept_B = np.asarray(~np.isnan(values_BC).any(axis=1))
        if not kept_B.any():
            return {}
        if not np.isfinite(values_BC[kept_B]).all():
            raise RequestError(f"A row of {name!r} is not a finite number; it has no mean.")
        kept_BC = np.broadcast_to(kept_B[:, None], values_BC.shape)
        draws_SC = self.means(values_BC, kept_BC, name)
        # A sample that holds none of the kept rows has no mean, for any system alike.
        draws_SC = draws_SC[~np.isnan(draws_SC[:, 0])]
        own = _intervals(values_BC[kept_B].mean(axis=0), draws_SC)
        if reference is None or reference not in values:
            return {system: Cell(found.mean, found) for system, found in zip(values, own, strict=True)}
        base = list(values).index(reference)
        apart_C = (values_BC[kept_B] - values_BC[kept_B, base][:, None]).mean(axis=0)
        # Both systems in the same resample: the interval is of the paired difference.
        apart = _intervals(apart_C, draws_SC - draws_SC[:, base][:, None])
        return {
            system: Cell(found.mean, found, None if system == reference else difference)
            for system, found, difference in zip(values, own, apart, strict=True)
        }


def _columns(values: Mapping[str, FloatArray], rows: int) -> FloatArray:
    for system, values_B in values.items():
        if np.shape(values_B) != (rows,):
            raise RequestError(
                f"System {system!r} has figures of shape {np.shape(values_B)}, not one for {rows} rows."
            )
    return np.column_stack(list(values.values())).astype(np.float64)


def _intervals(mean_C: FloatArray, draws_SC: FloatArray) -> list[Interval]:
    bounds_2C = np.quantile(draws_SC, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Interval(float(m), float(low), float(high), LEVEL) for m, low, high in zip(mean_C, *bounds_2C, strict=True)
    ]
