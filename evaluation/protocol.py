"""Attack protocol: the attacks, the threat model and the queries, as plain settings that name stored results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from palisade.attacks import Attack
from palisade.data.queries import PLAIN_QUERY, check_queries
from palisade.data.settings import instantiated, validated
from palisade.data.slices import Slices
from palisade.evaluation.claims import ways_tried
from palisade.evaluation.signals.documents import digest_of_paraphrases
from palisade.evaluation.signals.grant import Grant
from palisade.evaluation.signals.saved import saved
from palisade.evaluation.signals.stored import stamp
from palisade.evaluation.utility import TEST_ACCURACY, TEST_PERPLEXITY, Utility
from palisade.targets.config import validated_share
from palisade.targets.run import Run, canonical

PROTOCOL_VERSION = 10
"""Part of the key of stored results; raised when a change makes the same models give other numbers."""
DOCUMENTS_VERSION = 1
"""Further part of the key of runs on documents; raised when a change makes their numbers alone others."""

BLACK_BOX: Mapping[str, Any] = {"audit": {"_target_": "palisade.attacks.LossThreshold"}, "guesses": None}
"""Settings of `conf/threat/black_box.yaml`."""


@dataclass(frozen=True, kw_only=True)
class AttackProtocol:
    """The attacks on runs, the threat model that they get, and how records are queried.

    Args:
        attacks: for each attack the Hydra node that makes it.
        threat: the settings of a `Grant`; under `audit` the Hydra node of the attack whose guesses bound ε from below,
            and under `guesses` the share of records guessed at either end, None for the one that each run recorded.
            Both are fixed beforehand; how many other ways were tried on a run is corrected for.
        queries: how each record is put to the models.
        adaptive: the nodes of attacks that a run's defense or guard may ask for, by name.
        utility: the measure that results are read by; all are taken. None: accuracy, of language models perplexity.
        slices: columns by which results are read as well; None: those that the run was trained with.

    Raises:
        ValueError: if a way to put a record or a utility is unknown, or the audit would know what it guesses.
    """

    attacks: Mapping[str, Any]
    threat: Mapping[str, Any] = field(default_factory=lambda: BLACK_BOX)
    queries: Sequence[str] = PLAIN_QUERY
    adaptive: Mapping[str, Any] = field(default_factory=dict)
    utility: str | None = None
    slices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_queries(self.queries)
        if not isinstance(self.threat.get("audit"), Mapping):
            held = self.threat.get("audit")
            raise ValueError(
                f"threat.audit={held}: expected an attack; set threat.audit._target_=palisade.attacks.<class>"
            )
        if (share := self.threat.get("guesses")) is not None:
            validated_share("threat.guesses", share)
        self.read_by  # noqa: B018 (likewise)
        self.make_attacks()  # wrong settings are refused before anything is measured
        if self.audit.threat.known_members:
            raise ValueError(
                f"threat.audit={self.audit.name}: expected an attack that knows no bit it guesses; choose another"
            )

    @cached_property
    def grant(self) -> Grant:
        """The grant of the threat model, without what concerns audits."""
        settings = {name: value for name, value in self.threat.items() if name not in ("audit", "guesses")}
        return validated(Grant, "threat", settings)

    def guesses_on(self, run: Run) -> float:
        """Share of a run's records that are guessed to be members, and again non-members, for the bounds on ε."""
        share = self.threat.get("guesses")
        return run.guesses if share is None else float(share)

    def way_on(self, run: Run) -> dict[str, Any]:
        """The way of auditing a run, as plain values: all that decides whom the bounds on ε guess."""
        needed = self.audit.threat
        return {
            "audit": canonical(self.threat["audit"]),
            "grant": canonical(asdict(self.grant)),
            "queries": list(map(str, self.queries)),
            "guesses": self.guesses_on(run),
            "shadows": len(run.models()) - 1 if needed.knows_defense else 0,
            "checkpoints": len(run.checkpoints()) if needed.checkpoints and self.grant.weights else 0,
        }

    @cached_property
    def audit(self) -> Attack:
        """The attack whose guesses bound ε from below."""
        return instantiated("threat.audit", self.threat["audit"], Attack)

    @property
    def read_by(self) -> Utility:
        """The utility that results of classifiers are read by.

        Raises:
            ValueError: if there is none of the name.
        """
        return TEST_ACCURACY if self.utility is None else Utility.named(self.utility)

    def read_on(self, run: Run) -> Utility:
        """The utility that the results of a run are read by."""
        return TEST_PERPLEXITY if self.utility is None and run.dataset.positional else self.read_by

    def slices_of(self, run: Run) -> Slices:
        """The groups of a run's records by which its results are read."""
        return Slices.of(run.config["data"], self.slices)

    def make_attacks(self, adaptive: Sequence[str] = ()) -> list[Attack]:
        """The attacks that were chosen.

        Args:
            adaptive: names of others that know what stands before the model.

        Raises:
            ValueError: if a setting of one is wrong; names it in full.
        """
        nodes = {**{name: self.adaptive[name] for name in adaptive}, **self.attacks}
        return [instantiated(f"attack.{key}", node, Attack) for key, node in nodes.items()]

    def nodes_on(self, run: Run) -> dict[str, Any]:
        """The nodes of the attacks on a run: those chosen, and those that know its defense and its guard.

        Raises:
            ValueError: if a defense or guard asks for an attack that there is not.
        """
        if unknown := [name for name in run.attacks if name not in {*self.attacks, *self.adaptive}]:
            raise ValueError(
                f"attack={unknown[0]}: expected an attack of conf/attack ({run.folder} asks for it); add its file"
            )
        return {**self.attacks, **{name: self.adaptive[name] for name in run.attacks if name not in self.attacks}}

    def attacks_on(self, run: Run) -> list[Attack]:
        """The attacks on a run."""
        return [instantiated(f"attack.{key}", node, Attack) for key, node in self.nodes_on(run).items()]

    def key(self, run: Run) -> str:
        """Names these settings on the very models of a run."""
        settings = {**asdict(self), "attacks": self.nodes_on(run)}
        for name in ("adaptive", "utility", "slices"):
            del settings[name]
        share = self.guesses_on(run)
        settings["threat"] = {**self.threat, "guesses": share}
        settings["ways tried"] = len(ways_tried(run, self.way_on(run)))
        facts = [canonical(settings), stamp(run), self.slices_of(run).digest, PROTOCOL_VERSION]
        if run.dataset.positional:
            facts.append(DOCUMENTS_VERSION)
            asked = any("neighbors" in attack.threat.tokens for attack in self.attacks_on(run))
            facts += [digest] if asked and (digest := digest_of_paraphrases(run)) else []
        if not run.has_weights():  # attacks that need them are skipped, and so are those at other temperatures
            facts.append(list(saved(run, "pool", self.queries).dtype.names or ()))
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
