"""Checks that flag unreliable results, from the facts of `Result` and `Comparison`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from palisade.attacks.parts.signals import MIN_RECORDS_TO_STANDARDIZE
from palisade.evaluation.claims import Violation
from palisade.evaluation.comparison import Comparison
from palisade.evaluation.format import number, percent
from palisade.evaluation.labels import guessing_text, label
from palisade.evaluation.measuring.baselines import DUPLICATE_SHARE, LOG_ODDS_SPREAD, SPREAD_RATIO, linear
from palisade.evaluation.measuring.extraction import REFUSED_TEXTS
from palisade.evaluation.measuring.private_linear import private_linear
from palisade.evaluation.result import (
    AUC,
    BLIND_BASELINE,
    BY_CHANCE,
    FPR,
    GUESSING_AUC,
    MEMBER_GROUP,
    NONMEMBER_GROUP,
    REPORTED_FPRS,
    TRAIN_ACCURACY,
    Result,
    Row,
    tpr_at,
)
from palisade.evaluation.utility import TEST_ACCURACY

VIOLATED_FLAG = "CLAIM VIOLATED"
MASKED_FLAG = "masked, not protected"
OTHER_RECORDS = "different records"
PARTLY_OTHER = "partly different records"
SHARED_RECORDS = "shared records"
MIN_FALSE_POSITIVES = 5
"""Expected false positives below which a threshold rests on a handful of records."""
VACUOUS_EPSILON = 10
"""Above this ε, TPR at 1 % FPR may be anything: the proof excludes no attack worth the name."""
MIN_FITTED_SHARE = 0.5
"""Share of canaries that must have been learned: one that was not says nothing about memorization."""
OVERFITTED_GAP = 0.05
"""Accuracy on members above that on others from which on a model has learned its members by heart."""
MANY_DUPLICATES = 0.01
"""Share of records with a copy in the pool above which attacks look weaker than they are."""
FILTER_GUARD = "memfree"
"""Name of the guard that keeps language models from copying training texts."""
SAME_DEFENSE = ("defense", "guard", "guard_strength", "seed")


@dataclass(frozen=True)
class Flag:
    """A warning about one run.

    Args:
        name: for the table.
        sentence: the same in plain words, for the report.
    """

    name: str
    sentence: str


def flags(result: Result, comparison: Comparison) -> list[Flag]:
    """All flags of a result among those that are judged together."""
    return [flag for check in ALL_CHECKS for flag in check(result, comparison)]


def meanings(comparison: Comparison) -> dict[str, dict[str, list[str]]]:
    """Sentences of each flag, each with the labels of its runs; refuted claims, which must stop a release, first."""
    sentences: dict[str, dict[str, list[str]]] = {}
    for result in comparison.results:
        for flag in flags(result, comparison):
            sentences.setdefault(flag.name, {}).setdefault(flag.sentence, []).append(label(result))
    return dict(sorted(sentences.items(), key=lambda meaning: meaning[0] != VIOLATED_FLAG))


def refuted(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The claim is refuted."""
    if (violation := comparison.refuted.get(result.run)) is not None:
        yield refutation(violation)


def refutation(violation: Violation) -> Flag:
    """The flag of a run whose claim is refuted."""
    result, audit = violation.result, violation.result.audit
    return Flag(
        VIOLATED_FLAG,
        f"ε is above {violation.bound:.2f}, not {result.epsilon:.4g} as claimed: so many"
        f" of {audit['guesses']} guesses about who was in the training set of model 0 are right as a true claim allows"
        f" with a probability of at most {violation.level:.2g}. Something in noise, clipping, sampling or accounting is"
        " wrong: do not release this model.",
    )


def other_distribution(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Members and non-members of one model differ by themselves, which explains all or a part of what attacks find."""
    if result.sides is None or result.explained == 0:
        return
    blind = result.get(AUC, attack=BLIND_BASELINE)
    what = "the records alone" if result.sides.features else "the classes alone"
    beginning = (
        f"A classifier that sees {what} and never asks the model tells members from non-members with an AUC of"
        f" {number(blind, interval=True)}; ½ is guessing, and random sides give so much with a probability of"
        f" {result.get(BY_CHANCE, attack=BLIND_BASELINE).value:.2g} at most."
    )
    if result.explained == 1:
        yield Flag(
            OTHER_RECORDS,
            f"{beginning} The two come from different"
            " distributions, and attacks may only be seeing that: what stands here is no measure of leakage. Take"
            " non-members from the same source and time as the members, drawn at random.",
        )
    else:
        yield Flag(
            PARTLY_OTHER,
            f"{beginning} As far as this classifier sees, the difference explains at most"
            f" {100 * result.explained:.0f} % of what {result.highest.attack} finds beyond guessing, with an AUC of"
            f" {number(result.highest, interval=True)}. Take non-members from the same source and time as the members,"
            " drawn at random.",
        )


def unchecked(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Nobody can tell if the members and non-members of one model differ."""
    if result.sides is not None and not result.sides.features:
        yield Flag(
            "records unknown",
            "The files hold answers only, so that nobody can check whether members and non-members come from one"
            " distribution. If they do not, what is measured is that difference. Save the records as features.",
        )


def shared_records(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """A record is on both sides."""
    if result.sides is not None and (shared := result.sides.shared):
        yield Flag(
            SHARED_RECORDS,
            f"{shared:,} {'record is' if shared == 1 else 'records are'} among members and non-members alike: whoever"
            " is called wrong there may be right. Attacks look weaker than they are; remove what is in both from the"
            " non-members.",
        )


def unresolvable(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """One false positive is already more than the FPR."""
    whose, needed = "a model's non-members", "{:.0f} of them"
    if result.sides is not None:
        whose, needed = f"{result.sides.nonmembers:,} non-members", "{:.0f}"
    for fpr in REPORTED_FPRS:
        unresolved = [attack for attack in result.attacks if result.get(tpr_at(fpr), attack=attack).value is None]
        if unresolved:
            which = "" if len(unresolved) == len(result.attacks) else f" for {', '.join(unresolved)}"
            yield Flag(
                f"{100 * fpr:g}% unresolved",
                f"The TPR at {100 * fpr:g} % FPR cannot be measured{which}: one false positive is already more than"
                f" that share of {whose}. It takes {needed.format(1 / fpr)}.",
            )


def few_false_positives(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """A TPR rests on few expected false positives per model."""
    each = " per model" if result.sides is None else ""
    for fpr in REPORTED_FPRS:
        tprs = [result.get(tpr_at(fpr), attack=attack) for attack in result.attacks]
        if not tprs or any(tpr.value is None for tpr in tprs):
            continue
        # Each model has its own threshold, hence the non-members of one model count.
        if fpr * min(tpr.nonmembers or 0 for tpr in tprs) / result.models < MIN_FALSE_POSITIVES:
            yield Flag(
                f"{100 * fpr:g}% coarse",
                f"The TPR at {100 * fpr:g} % FPR rests on fewer than {MIN_FALSE_POSITIVES} expected false"
                f" positives{each}: read its interval, not its value. It takes"
                f" {MIN_FALSE_POSITIVES / fpr:.0f} non-members.",
            )


def inverted(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The AUC of an attack is below ½ beyond its interval."""
    swapped = "" if result.sides is None else " Are the two files swapped? Or the signs of the logits?"
    for auc in below_half(result):
        yield Flag(
            "AUC<½",
            f"The AUC of {auc.attack} is {number(auc)}, below ½ beyond its interval: the attack ranks members below"
            f" non-members. Its inverse would find them, so this is no sign of protection.{swapped}",
        )


def below_half(result: Result) -> list[Row]:
    """AUCs below ½ beyond their intervals."""
    aucs = (result.get(AUC, attack=attack) for attack in result.attacks)
    return [auc for auc in aucs if auc.high is not None and auc.high < GUESSING_AUC]


def vacuous(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Flag where ε is too large to exclude attacks."""
    if result.statement.guarantee and result.epsilon is not None and result.epsilon > VACUOUS_EPSILON:
        yield Flag(
            "ε vacuous",
            f"ε is above {VACUOUS_EPSILON}: as a guarantee it excludes hardly any attack. What was measured may still"
            " be low, but no proof says that it stays so.",
        )


def unfitted(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Flag where less than half of the canaries were learned by the models that were trained on them."""
    row = result.find("canaries_fitted")
    if row is not None and (row.value or 0.0) < MIN_FITTED_SHARE:
        yield Flag(
            "canaries unfitted",
            f"Only {100 * (row.value or 0.0):.0f} % of the canaries are predicted as trained by most models that"
            " were trained on them. A record leaks less while it is not learned, so these canaries understate what"
            " the model can memorize: train longer, or choose another kind.",
        )


def explained(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The strongest attack's interval excludes the FPR, though not guessing."""
    for fpr in REPORTED_FPRS if result.attacks else ():
        row = result.get(tpr_at(fpr), attack=result.strongest)
        if row.low is not None and row.low > fpr and not result.excludes_guessing(row):
            yield Flag(
                f"{100 * fpr:g}% by luck",
                f"The interval of the TPR at {100 * fpr:g} % FPR begins above {100 * fpr:g} %, but guessing finds"
                f" {guessing_text(result, row)} there: the threshold lies between the very non-members that are"
                " counted, and the best of several attacks is shown. By itself this is no sign of leakage.",
            )


def constant(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The run's utility, by the measure that was chosen, is not clearly above that of naming one class always."""
    own = result.find(result.utility.metric) if result.sides is None else result.accuracies[1]
    baseline = result.constant_answer
    if own is None or own.value is None or baseline is None or baseline.value is None:
        return
    if (own.value if own.low is None else own.low) > baseline.value:
        return
    words, who, remedy = (
        (result.utility.words, "run", "Train with other settings, and read utility=balanced_accuracy.")
        if result.sides is None
        else ("accuracy on non-members", "model", "Look at its accuracy class by class.")
    )
    yield Flag(
        "no better than one class",
        f"Always naming one class reaches {result.utility.text(baseline)} {words}, this {who}"
        f" {result.utility.text(own, interval=True)}: its answers may hold no more than which class is the largest."
        f" {remedy}",
    )


def below_linear(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The run's utility, by the measure that was chosen, is worse than a linear model's beyond its interval.

    A run with a claim is compared with a linear model under that claim. Where it does as well, what an unprotected one
    reaches besides is the price of the claim, and no fault of the run.
    """
    utility = result.utility
    own = result.find(utility.metric)
    best = None if own is None else own.high if utility.higher_is_better else own.low
    if own is None or best is None:
        return
    private, unprotected = result.find(private_linear(utility.metric)), result.find(linear(utility.metric))
    if private is not None:
        if utility.worth(best) >= utility.worth(private.value):
            return
        yield Flag(
            "below a private linear model",
            f"A linear model under the same claim reaches {utility.text(private)} {utility.words}, this run"
            f" {utility.text(own)}: it is not the claim that costs so much. Train network=linear by its default"
            " settings, or choose settings by tuning=dp_sgd.",
        )
    if unprotected is not None and utility.worth(best) < utility.worth(unprotected.value):
        yield Flag(
            "below a linear model",
            f"A linear model that nothing protects reaches {utility.text(unprotected)} {utility.words} within seconds,"
            f" this run {utility.text(own)}. {_remedy(result)}",
        )


def _remedy(result: Result) -> str:
    """The way out for a run that is below a linear model: one that fits its members better has learned enough of them.

    Accuracy on members is no part of a public report.
    """
    inside, outside = result.find(TRAIN_ACCURACY), result.find(TEST_ACCURACY.metric)
    simple = result.find(linear(TEST_ACCURACY.metric))
    if inside is None or outside is None or simple is None:
        return "Train with other settings, or take the simpler model."
    gap = (inside.value or 0.0) - (outside.value or 0.0)
    if gap > OVERFITTED_GAP and (inside.value or 0.0) > (simple.value or 0.0):
        return (
            f"On the records that it was trained on its accuracy is {percent(inside)}: it has learned them by heart."
            " Train shorter, with more regularization, or take the simpler model."
        )
    return "Little leaks from what has learned little: train longer, with other settings, or take the simpler model."


def duplicated(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Members and non-members share content."""
    row = result.find(DUPLICATE_SHARE)
    if row is not None and (row.value or 0.0) > MANY_DUPLICATES:
        yield Flag(
            "duplicates",
            f"{100 * (row.value or 0.0):.1f} % of the records have an exact copy in the pool, so that a model may"
            " have been trained on what counts as a non-member. Attacks look weaker than they are: remove the"
            " copies from the data, or name in data.person whose records belong together.",
        )


def tied(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Too many non-members tie at the threshold of the strongest attack."""
    if result.is_tied:
        yield Flag(
            "many ties at 1%",
            f"{100 * result.tied_share:.0f} % of the non-members have the very score at which {result.strongest} stops"
            " at 1 % FPR. Ties cannot be split, so the TPR is that of a smaller FPR: read the AUC beside it.",
        )


def unlike(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """A model of the fleet answers on another scale than the others, or scales could not be compared."""
    rows = [row for row in result.rows if row.metric == LOG_ODDS_SPREAD]
    if any(row.value is None for row in rows):
        yield Flag(
            "models not standardized",
            f"The log-odds of some model have no spread, or there are fewer than {MIN_RECORDS_TO_STANDARDIZE} records"
            " to measure it by. Attacks that compare models take them as they are, and a single model that differs"
            " from the others may hide what leaks.",
        )
    off = [row for row in rows if row.value is not None and not 1 / SPREAD_RATIO <= row.value <= SPREAD_RATIO]
    if off:
        listed = ", ".join(f"{row.model} ({row.value:.2g} times)" for row in off)
        yield Flag(
            "unlike models",
            f"The log-odds of model {listed} spread at least {SPREAD_RATIO} times more or less than the median model's."
            " Attacks bring all models to one scale first, but such a model was not trained as the others were: look"
            " at its training before relying on the fleet.",
        )


def masked(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """The defense or guard hides scores of models that still leak."""
    if (masking := comparison.masking(result)) is None:
        return
    labels, scores, before = masking
    if before is None:
        yield Flag(
            MASKED_FLAG,
            f"{labels.attack}, which sees predicted labels alone{_queries(result, labels)}, has an AUC of"
            f" {labels.value:.3f}; the best attack on scores, {scores.attack}, reaches {scores.value:.3f}. "
            + (
                "The defense hides the scores while the models still leak: judge it by the label-only attack."
                if result.sides is None
                else "The scores hide what the model still tells: judge it by the label-only attack."
            ),
        )
    else:
        yield Flag(
            MASKED_FLAG,
            f"Behind {result.guard} the best attack on scores, {scores.attack}, has an AUC of {scores.value:.3f}; on"
            f" the same models without it {before.attack} reaches {before.value:.3f}. {labels.attack}, which sees"
            f" predicted labels alone{_queries(result, labels)}, finds as much as before ({labels.value:.3f}). The"
            " guard hides what the models still tell: judge them without it.",
        )


def dominated(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """A defense without ε, where some DP-SGD run is at least as useful and leaks less."""
    if (best := comparison.better_dp_sgd(result)) is None:
        return
    proof = "It has a guarantee besides." if best.statement.guarantee else "It proves nothing either."
    its, own = (each.utility.text(each.get(each.utility.metric)) for each in (best, result))
    yield Flag(
        "dominated by DP-SGD",
        f"{label(best, short=True)} is at least as useful ({its} against {own} {result.utility.words}), and"
        f" attacks find fewer members at {100 * FPR:g} % FPR"
        f" ({percent(best.strongest_row(tpr_at(FPR)))} against {percent(result.strongest_row(tpr_at(FPR)))}). {proof}",
    )


def unadapted(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """Canaries that a defense names are missing: no run of it, at this strength, was trained on them."""

    def alike(other: Result) -> bool:
        same = all(getattr(other, name) == getattr(result, name) for name in SAME_DEFENSE)
        return same and other.config["defense"] == result.config["defense"]

    for kind in result.canaries:
        if kind not in {other.canary for other in comparison.results if alike(other)}:
            yield Flag(
                "adaptive attack missing",
                f"{result.defense} protects {kind} canaries least, and none were tried: what attacks find here is what"
                " a defense that is not attacked adaptively shows. Add them to the command that trained this run:"
                f" python train.py … defense={result.config['names']['defense']} canary={kind}",
            )


def oracle(result: Result, comparison: Comparison) -> Iterator[Flag]:
    """A filter against copying says who was trained on."""
    refused = {row.group: row for row in result.rows if row.metric == REFUSED_TEXTS}
    if result.guard != FILTER_GUARD:
        return
    numbers = ""
    if refused.keys() == {MEMBER_GROUP, NONMEMBER_GROUP}:
        numbers = (
            f": it refuses a token of {percent(refused[MEMBER_GROUP])} of the texts that were used, and of"
            f" {percent(refused[NONMEMBER_GROUP])} of others, which share a phrase with them"
        )
    yield Flag(
        "filter tells who",
        f"The filter keeps texts from being copied word by word, and protects nobody's membership. Whoever has a text"
        f" asks for its true continuation and sees whether it is refused{numbers}. filter_oracle does that. A claim of"
        " the model does not hold behind it. Asked in another style, such as capitals, the model may go on.",
    )


def _queries(result: Result, row: Row) -> str:
    """The queries behind a value, where an attack on labels made more of them than those on scores."""
    queries = result.needs.get(row.attack, {}).get("measured", 1.0)
    return f" ({queries:.0f} queries a record)" if queries > 1 else ""


ALL_CHECKS: tuple[Callable[[Result, Comparison], Iterable[Flag]], ...] = (
    refuted,
    other_distribution,
    unchecked,
    shared_records,
    unresolvable,
    few_false_positives,
    explained,
    inverted,
    vacuous,
    constant,
    below_linear,
    duplicated,
    unfitted,
    tied,
    unlike,
    masked,
    dominated,
    unadapted,
    oracle,
)
"""All checks, of a fleet and of one model; a new one is a function and an entry here."""
