"""Verdict of an evaluation and the game that attackers play, in sentences that carry their scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from palisade.evaluation.comparison import Comparison, Highlight
from palisade.evaluation.flags import masked, refutation
from palisade.evaluation.format import number, percent
from palisade.evaluation.labels import canary_text, compare_with_guessing, detection_text, label, series_label
from palisade.evaluation.measuring.baselines import of_base
from palisade.evaluation.report.page import Entry
from palisade.evaluation.result import AUC, FPR, Result, tpr_at
from palisade.evaluation.table import IF_LEAKED, if_leaked

MODELS_NO_SHADOW: Mapping[str, int | None] = {"complementary": 2, "fixed": None}
"""Models that are no shadow of a target: itself, and its twin; with a fixed split all train on the same records."""
GLOSSARY_TERMS: Mapping[str, str] = {
    "record, person": "One row of the data. Where a column names persons, all rows of one share a fate, as one.",
    "member": "A record that a model was trained on; a non-member was left out by chance and is alike otherwise.",
    "membership inference attack": "Says of a record how likely the model was trained on it. Being in the data may"
    " itself be sensitive, as for the patients of a study.",
    "false accusations (FPR)": "Share of the non-members that an attack takes for members.",
    "members found (TPR)": "Share of the members that it takes for members, at a given share of false accusations.",
    "AUC": "How often an attack ranks a member above a non-member: 0.5 is guessing, 1 is certainty. An average, which"
    " hides that a few may be found almost surely.",
    "95 % interval": "Where the value would lie in 19 of 20 evaluations with other models and other records.",
    "fleet": "Models that were trained alike on different random halves of the records. Each is attacked once, and"
    " helps to attack the others.",
    "shadow model": "A model that an attacker trains by the same recipe, defense included, to learn how members look.",
    "label-only, black-box, white-box": "What attackers see: predicted classes alone, answers with scores, or the"
    " weights of the model.",
    "defense, guard": "A defense changes training; a guard changes answers only, and protects nothing once the weights"
    " leak.",
    "differential privacy, ε, δ": "A proof that bounds what any attack can learn from a model about one record. Small ε"
    " is strong (below 1), above 10 hardly any attack is excluded. δ is the probability that the bound fails.",
    "lower bound on ε": "What correct guesses prove: ε is at least that. Above the claimed ε it refutes the claim;"
    " below it says nothing.",
    "ceiling": "The most that any attack can find if the claimed ε is true.",
    "canary": "A record made to be memorized; it shows what the most exposed records face.",
    "exposure": "Share of the models trained on a record in which an attack finds it.",
    "frontier (Pareto front)": "The runs that no other run beats in utility and leakage at once.",
    "release": "The one model that is meant for use. The models attacked here are trained like it, on half of the"
    " records each.",
}
"""Each term with its meaning, in the order in which a reader meets them."""
DOCUMENT_TERMS: Mapping[str, str] = {
    "token": "A piece of text that a language model reads or writes at a time: a byte, or a part of a word.",
    "perplexity, bits a byte": "How badly a language model foretells texts that it was not trained on: among how many"
    " equally likely tokens it hesitates, and how many bits it needs for a byte of text. Lower is better.",
    "public base": "The model that training began with; it has seen none of these records.",
    "exposure of a secret": "Halvings of the list of all possible secrets that the model saves whoever guesses, in"
    " bits.",
}
"""Terms of reports on language models besides."""


def game(result: Result) -> list[str]:
    """The game of a run, sentence by sentence."""
    who = "person" if result.statement.unit == "person" or result.dataset.get("persons") else "record"
    audited = f"{result.canary} canary" if result.has_canaries else who
    sentences = {
        "fixed": ["The same records are used to train every model; all others of the pool are left out."],
        "complementary": [
            f"For every {audited} a coin is tossed. Heads, and it is used to train the first model of a pair; tails,"
            " the second."
        ],
    }.get(
        _how(result), [f"For every model and every {audited} a coin is tossed: is it used for training, or left out?"]
    )
    if who == "person" and not result.has_canaries:
        sentences.append("All records of one person share that fate.")
    return [
        *sentences,
        "The attacker is shown a record, gets what is granted below, and says how sure it is that the record was used.",
        "If it was, it has been found; if it was not, it has been falsely accused.",
        f"Attackers are compared where they accuse {100 * FPR:g} % of the records that were left out: guessing then"
        f" finds {100 * FPR:g} % of those that were used, a little more where few were left out, and whatever is found"
        " beyond what luck explains has leaked from the model.",
    ]


def grants(results: Sequence[Result]) -> list[Entry]:
    """Grants to the attackers on these runs, and what they may not use."""
    first = results[0]
    population = first.dataset.get("roles", {}).get("population", 0)
    shadows = sorted({count for result in results if (count := shadows_of(result))})
    weights = first.threat == "white_box"
    base: list[Entry] = (
        [
            {
                "what": "the public model that training began with",
                "granted": True,
                "words": "what it says of every token, too",
            }
        ]
        if any(result.find(of_base(result.utility.metric)) for result in results)
        else []
    )
    record_words = "the text of the record" if "vocabulary" in first.dataset else "the record and its true class"
    return [
        {"what": "answers of the model", "granted": True, "words": _answers(results)},
        {"what": record_words, "granted": True, "words": "they know whom they ask about"},
        {"what": "queries with inputs of their choice", "granted": True, "words": "each attack tells how many it made"},
        {
            "what": "shadow models by the very same recipe",
            "granted": bool(shadows),
            "words": f"{' or '.join(map(str, shadows))} for each model; they know the defense and the guard, and hold"
            " half of the records"
            if shadows
            else "there are none: train more models, on memberships that differ",
        },
        {
            "what": "other records, on which no model was trained",
            "granted": bool(population),
            "words": f"{population:,} records" if population else "split.population=0.1 sets some apart",
        },
        *base,
        {
            "what": "the weights of the model",
            "granted": weights,
            "words": "as if they were published, or leaked" if weights else "threat=white_box grants them",
        },
        {
            "what": "the secret of a run",
            "granted": False,
            "words": "who was drawn, initial weights, order of batches, and noise",
        },
    ]


def shadows_of(result: Result) -> int:
    """Number of other models that an attacker on one of the models may look at."""
    own = MODELS_NO_SHADOW.get(_how(result), 1)
    return 0 if own is None else result.models - own


def _how(result: Result) -> str:
    how: str = result.config.get("membership", {}).get("how", "fixed")
    return how


def _answers(results: Sequence[Result]) -> str:
    """The answers of the models; where guards differ, by guard."""
    levels: dict[str, list[str]] = {}
    for result in results:
        levels.setdefault(result.released, []).append(series_label(result))
    if len(levels) == 1:
        return next(iter(levels))
    return "; ".join(f"{level} ({', '.join(dict.fromkeys(names))})" for level, names in levels.items())


HIGHLIGHT_CAVEATS = {
    "": "",
    "masked": ", though only masked",
    "no_less": ", though no less was found than undefended",
}
"""Additions to a heading by the caveat of its highlight."""


def verdicts(comparison: Comparison) -> list[Entry]:
    """A verdict on each highlighted run."""
    entries = []
    for highlight in comparison.highlights:
        result = highlight.result
        text = sentence(result)
        resolved = result.is_resolved
        entries.append(
            {
                "heading": heading(highlight, comparison),
                "refuted": result.run in comparison.refuted,
                "measure": f"members found at {100 * FPR:g} % FPR" if resolved else AUC.upper(),
                "leakage": percent(result.strongest_row(tpr_at(FPR)), interval=True) if resolved else _auc(result),
                "utility": result.utility.text(result.get(result.utility.metric), interval=True),
                "constant": result.utility.text(result.constant_answer),
                "sentence": _refutation(result, comparison) + text + _masks(result, comparison),
                "attacks": _named(result, text),
            }
        )
    return entries


def _named(result: Result, text: str) -> list[str]:
    """The attacks that a verdict names: the strongest, and the one with the highest AUC where it says so."""
    if not result.attacks:
        return []
    highest = result.highest.attack
    return [result.strongest, *([highest] if f"{highest} has the highest AUC" in text else [])]


def heading(highlight: Highlight, comparison: Comparison) -> str:
    """The reason why a run stands first, with its title, such as `Best protected: dp_sgd ε=8`."""
    kind, result, caveat = highlight
    named = f": {label(result)}{comparison.seed_text(result)}"
    if kind == "refuted":
        return f"Claim refuted{named}"
    if kind == "undefended":
        return f"Undefended{canary_text(result)}{comparison.seed_text(result)}"
    nearly = f" {result.utility.nearly}" if kind == "useful" else ""
    return f"Best protected{nearly}{HIGHLIGHT_CAVEATS[caveat]}{named}"


def sentence(result: Result) -> str:
    """TPR at 1 % FPR of the strongest attack as counts of people, or else its AUC, with threat model and guessing."""
    row, where = result.strongest_row(tpr_at(FPR)), scope(result)
    text = f"{where[0].upper()}{where[1:]}"
    unmeasured = f"{text}: at {100 * FPR:g} % false accusations it cannot be measured what attacks find."
    if row is None:
        return unmeasured
    if not result.is_resolved:
        row = result.get(AUC, attack=result.strongest)
        text = (
            f"{unmeasured} The best attack ({result.strongest}) ranks members"
            f" above non-members with an AUC of {_auc(result)}; guessing has 0.5."
        )
    else:
        text += f", by the best attack ({result.strongest}): {detection_text(result, row)}."
    unclear = row.low is not None and not result.excludes_guessing(row)
    return text + (compare_with_guessing(result, result.strongest) if unclear else "")


def scope(result: Result) -> str:
    """The threat model of the strongest attack, such as `black-box, 15 shadow models that know the defense`."""
    row = result.strongest_row(tpr_at(FPR))
    access = row.access.replace("_", "-") if row is not None else "no attack"
    if row is not None and if_leaked(result, row):
        access += f" ({IF_LEAKED})"
    shadows = shadows_of(result)
    return f"{access}, {shadows} shadow model{'s' * (shadows != 1)} that know the defense" if shadows else access


def _refutation(result: Result, comparison: Comparison) -> str:
    """The sentence that comes before all else, empty if the claim stands."""
    if (violation := comparison.refuted.get(result.run)) is None:
        return ""
    return f"The claim of {label(result)} is refuted: {refutation(violation).sentence} "


def _masks(result: Result, comparison: Comparison) -> str:
    """Sentence on masking: the run only masks what it leaks, or others that look better only do."""
    if own := list(masked(result, comparison)):
        return f" Masked, not protected: {own[0].sentence}"
    others = [] if result.is_undefended else comparison.masked_but_lower(result)
    if not others:
        return ""
    listed = ", ".join(f"{label(other)}{comparison.seed_text(other)}" for other in others)
    return f" Passed over, since what looks like less leakage is only masked: {listed}."


def _auc(result: Result) -> str:
    return number(result.get(AUC, attack=result.strongest), interval=True)
