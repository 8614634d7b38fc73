"""The words of a report, for whoever reads one for the first time."""

from __future__ import annotations

from collections.abc import Mapping

GLOSSARY: Mapping[str, str] = {
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
