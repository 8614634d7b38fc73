"""A limit on leakage, and the verdict on a run: known to keep it or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from palisade.data.settings import made
from palisade.evaluation.claims import violations
from palisade.evaluation.flags.masking import masked
from palisade.evaluation.flags.ties import TIED
from palisade.evaluation.guessing import excludes_guessing, guessing_level, guessing_text
from palisade.evaluation.limits.few_models import ENOUGH, FEWEST, widened, worst
from palisade.evaluation.result import FPRS, Result, Row, tied_at, tpr_at
from palisade.evaluation.table import percent

KEPT, UNDECIDED, EXCEEDED = "kept", "not decided", "EXCEEDED"


class Verdict(NamedTuple):
    """The verdict on a run and a limit.

    Args:
        word: `kept`, `not decided` where more models might tell, or `EXCEEDED`.
        why: it is not known to be kept; None if it is.
    """

    word: str
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The largest share of members that attacks may find.

    It is compared with the upper end of the 95 % interval: a run keeps it where its measurement excludes more, not
    where its value happens to lie below.

    Args:
        name: of the settings, for errors.
        max_tpr: the limit, above `fpr` (an attack that guesses finds `fpr`) and at most 1.
        fpr: the share of non-members that are accused, 0.01 or 0.001; None: 0.01.

    Raises:
        ValueError: if no run could keep it, or every run would, or it is not measured at this FPR.

    Example:
        >>> str(Limit(name="gate", max_tpr=0.05))
        'at most 5 % of members found at 1 % FPR'
    """

    name: str
    max_tpr: float | None = None
    fpr: float | None = None

    def __post_init__(self) -> None:
        if self.at not in FPRS:
            measured = " or ".join(f"{fpr:g}" for fpr in FPRS)
            raise ValueError(f"{self.name}.fpr={self.fpr} is not measured; choose {measured}")
        if self.max_tpr is None:
            raise ValueError(f"{self.name}.fpr={self.fpr} limits nothing; add {self.name}.max_tpr=<share of members>")
        is_number = isinstance(self.max_tpr, int | float) and not isinstance(self.max_tpr, bool)
        if not (is_number and self.at < self.max_tpr <= 1):
            raise ValueError(
                f"{self.name}.max_tpr={self.max_tpr} is no share above {self.name}.fpr={self.at}, which guessing finds,"
                " and at most 1; choose such as 0.05 for 5 % of members"
            )

    @classmethod
    def asked(cls, name: str, settings: Mapping[str, Any]) -> Limit | None:
        """The limit of this name in the settings of `evaluate.py`; None if it was not asked for."""
        given = settings[name]
        if not isinstance(given, Mapping):
            raise ValueError(f"{name}={given} is no group of settings; give {name}.max_tpr=<share of members>")
        return None if all(value is None for value in given.values()) else made(cls, name, {**given, "name": name})

    @property
    def at(self) -> float:
        """The FPR."""
        return FPRS[0] if self.fpr is None else self.fpr

    @property
    def most(self) -> float:
        """The largest TPR that is allowed, in (0, 1]."""
        return self.max_tpr or 1.0

    def __str__(self) -> str:
        return f"at most {100 * self.most:g} % of members found at {100 * self.at:g} % FPR"

    def highest(self, result: Result) -> Row | None:
        """The TPR of the attack with the largest upper limit; None unless all are resolved at this FPR.

        Its interval allows for how much the models differ, which is wider than that of the table where they are few.
        An attack on a sample of the records, or on few of the models, counts only where there is no other: the sample
        may be an easy one.
        """
        rows = self._rows(result)
        return None if any(row.high is None for row in rows) else max(rows, key=upper, default=None)

    def _rows(self, result: Result) -> list[Row]:
        sampled = [attack for attack in result.attacks if _value(result.find("unscored", attack=attack)) > 0.5]
        most = [attack for attack in result.attacks if attack not in sampled and not result.on_few(attack)]
        return [widened(result.get(tpr_at(self.at), attack=attack), result) for attack in most or result.attacks]

    def measured(self, result: Result) -> str:
        """The TPR that is compared with the limit, and what guessing finds where that is not excluded."""
        row = self.highest(result)
        luck = "" if row is None or excludes_guessing(result, row) else f"; guessing finds {guessing_text(result, row)}"
        return tpr_text(row) + luck

    def objection(self, result: Result, together: Sequence[Result]) -> str | None:
        """The reason why a run is not known to keep the limit; None if it keeps it.

        Args:
            result: of the run.
            together: of all runs that are judged together.
        """
        return self.verdict(result, together).why

    def verdict(self, result: Result, together: Sequence[Result]) -> Verdict:
        """The verdict on a run, with the reason if it is not known to keep the limit.

        Args:
            result: of the run.
            together: of all runs that are judged together.
        """
        if result.run in {violation.result.run for violation in violations(together)}:
            return Verdict(EXCEEDED, "its claim is refuted")
        if not result.attacks:
            return Verdict(EXCEEDED, "every attack was skipped, so nothing was measured")
        row = self.highest(result)
        if row is None:
            return Verdict(
                EXCEEDED,
                f"{100 * self.at:g} % FPR cannot be resolved: it takes {1 / self.at:.0f} non-members a model, that is"
                " more records",
            )
        if guessing_level(result, row) >= self.most:
            return Verdict(
                EXCEEDED,
                f"guessing finds {guessing_text(result, row)} of so few non-members, so that no run can be known to"
                " keep this limit: it takes a larger one, or more records",
            )
        if (leaky := self._leaky(result)) is not None:
            return Verdict(EXCEEDED, leaky)
        if result.models < FEWEST and self.most < 1:
            known = (row.low or 0.0) > self.most
            few = f"{tpr_text(row)}, but models={result.models} do not tell how much models differ; train at least"
            return Verdict(EXCEEDED if known else UNDECIDED, f"{few} {FEWEST}, better fleet.models={ENOUGH}")
        if upper(row) > self.most:
            may = f"{tpr_text(row)} may be more"
            if result.models >= ENOUGH or (row.low or 0.0) > self.most:
                return Verdict(EXCEEDED, may)
            return Verdict(UNDECIDED, f"{may}; more models tell, fleet.models={ENOUGH}")
        understated = _understated(result, row, together)
        return Verdict(KEPT) if understated is None else Verdict(EXCEEDED, understated)

    def _leaky(self, result: Result) -> str | None:
        """That one model alone leaks more than the limit, beyond what its records explain: a mean would hide it."""
        for row in self._rows(result):
            found_worst = worst(row, result)
            if found_worst is not None and found_worst[1] > self.most:
                model = found_worst[0]
                return f"{percent(model)} by {row.attack} in model {model.model}, which leaks more than the limit"
        return None


def refuse_limits(settings: Mapping[str, Any], what: str) -> None:
    """Raises ValueError if a limit was asked for where no runs are judged, rather than pass it over."""
    for name in ("choose", "gate"):
        if Limit.asked(name, settings) is not None:
            raise ValueError(f"{name}.max_tpr judges runs, not {what}; call evaluate.py without {what} for it")


def upper(row: Row) -> float:
    """The upper end of the interval; 1 where there is none."""
    return 1.0 if row.high is None else row.high


def tpr_text(row: Row | None) -> str:
    """A measurement in words, such as `3.1 % [2.4–3.9] by lira`."""
    if row is None:
        return "nothing measured"
    return f"{percent(row, interval=True)} by {row.attack}"


def _understated(result: Result, row: Row, together: Sequence[Result]) -> str | None:
    """The reason why the measured TPR is below what the run leaks; None if there is none."""
    if _value(result.find(tied_at(FPRS[0]), attack=row.attack)) > TIED:
        return f"the scores of {row.attack} tie, so that its TPR is that of a smaller FPR"
    if any(masked(result, together)):
        return "it masks what it leaks: labels alone tell more than these attacks on scores find"
    return None


def _value(row: Row | None) -> float:
    return (row and row.value) or 0.0
