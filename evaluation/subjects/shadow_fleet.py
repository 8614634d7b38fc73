"""Models of a run as shadows of one model that exists already: they answer about its records and their copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Real

from palisade.attacks import View
from palisade.data.columns import Columns
from palisade.data.preprocessing import Scale
from palisade.data.settings import place
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.shadows import mismatch_view
from palisade.evaluation.signals.signals import guarded
from palisade.evaluation.subjects.audited_model import AuditedModel
from palisade.targets.run import Run

if TYPE_CHECKING:
    from palisade.targets.fleet import Fleet

LEAST_RECORDS = 2
"""Members, and non-members, that stand in the pool of the shadows at least."""


@dataclass(frozen=True)
class ShadowFleet:
    """The models of a run without a guard, each trained on its part of a pool that holds the audited records.

    Args:
        run: a complete run.
    """

    run: Run

    @classmethod
    def named(cls, setting: Any, model: AuditedModel | None, *, has_tables: bool) -> ShadowFleet:
        """The shadows that `shadows=<folder of a run>` names.

        Args:
            setting: the folder.
            model: that is audited.
            has_tables: whether its records are tables, not arrays.

        Raises:
            ValueError: if it is no run of such records whose weights are there, it has other classes, or the audited
                model stands behind a guard that shadows would need too.
        """
        run = Run.existing(place("shadows", setting))
        step = run.dataset.preprocessing
        takes_rows = model is not None and (model.takes_inputs or (has_tables and model.answers != "token_logprobs"))
        if model is None or not takes_rows or (model.is_guarded and model.answers != "predictions"):
            raise ValueError(
                f"shadows={setting}: expected null for a model that takes neither arrays nor tables, or whose guard"
                " changes probabilities; evaluate a run behind this guard"
            )
        is_fit = (isinstance(step, Columns) and has_tables) or (isinstance(step, Scale) and model.takes_inputs)
        if not is_fit or not run.has_weights():
            raise ValueError(
                f"shadows={setting}: expected a run on records of the same kind whose weights are kept, as shadows are"
                " asked; train one with data=npz on arrays, with data=csv on tables"
            )
        own, others = tuple(run.dataset.classes), model.classes
        if others is not None and own != others:
            raise ValueError(
                f"shadows={setting}: expected a run of the classes {', '.join(others[:5])}, not {', '.join(own[:5])};"
                " train it on the same labels"
            )
        return cls(run)

    def asking(self, model: AuditedModel) -> AuditedModel:
        """The audited model, whose tables are known by the inputs that shadows make of them; nobody moves these."""
        step = self.run.dataset.preprocessing
        return replace(model, inputs=step, takes_inputs=False) if isinstance(step, Columns) else model

    @property
    def models(self) -> int:
        """Number of shadows."""
        return len(self.run.models())

    def beside(self, target: View, grant: Grant) -> View:
        """View of the audited model with these as its shadows, which answer as much as it does.

        Args:
            target: view of the audited model alone, with its records.
            grant: what attackers see.

        Raises:
            ValueError: if the records are no inputs of the shadows, or the pool lacks those of a side.
        """
        assert target.features is not None
        level = "probabilities" if target.outputs == "top-k" else target.outputs
        shown = Grant(outputs="label") if level == "label" else replace(grant, outputs=level)
        fields: dict[str, Any] = shown.released(self._logits(target.features))
        if (records := target.population_features) is not None:
            fields |= {f"population_{key}": values for key, values in shown.released(self._logits(records)).items()}
            fields |= {"population_labels": target.population_labels, "population_features": records}
        shadows = View(
            labels=target.labels,
            membership=self._membership(target.features, target.membership[0]),
            features=target.features,
            query=lambda model, x: shown.answer(self._fleet.one(model).predict(self._inputs(x))[0]),
            groups=self.run.groups(),
            top_k=target.top_k,
            **fields,
        )
        return mismatch_view(target, shadows)

    def _membership(
        self, rows: Real[np.ndarray, "records ..."], members: Bool[np.ndarray, "records"]
    ) -> Bool[np.ndarray, "models records"]:
        """Membership of the audited records, known by their inputs, in each shadow."""
        data, pool = self.run.dataset, self.run.dataset.split.pool
        places: dict[bytes, list[int]] = {}
        for place_in_pool, row in enumerate(data.x[pool]):
            places.setdefault((row + 0.0).tobytes(), []).append(place_in_pool)
        own = [places.get((row + 0.0).tobytes(), []) for row in self._inputs(rows)]
        in_pool = np.array([bool(each) for each in own])
        if min(in_pool[members].sum(), in_pool[~members].sum()) < LEAST_RECORDS:
            raise ValueError(
                f"shadows={self.run.folder}: expected a run whose pool holds members and non-members, not"
                f" {in_pool[members].sum()} and {in_pool[~members].sum()} of them; train it on both files together"
            )
        trained = self.run.membership()
        columns = [trained[:, each].any(axis=1) for each in own]
        return np.stack(columns, axis=1)

    def _inputs(self, rows: Real[np.ndarray, "records ..."]) -> Float32[np.ndarray, "records ..."]:
        step = self.run.dataset.preprocessing
        inputs: Float32[np.ndarray, "records ..."] = rows if isinstance(step, Columns) else step(rows)
        return inputs

    def _logits(self, rows: Real[np.ndarray, "records ..."]) -> Float32[np.ndarray, "models records classes"]:
        return self._fleet.predict(self._inputs(rows))

    @cached_property
    def _fleet(self) -> Fleet:
        return guarded(self.run).fleet
