"""Faults of published attacks and trainers of language models, planted one by one: a test must notice each.

A fault is an edit of a function's source, the test by name stands beside it.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palisade.attacks import error_zone, min_k_plus, neighbors, rmia
from palisade.attacks.parts import neighbor_copies, token_attack
from palisade.attacks.parts.tokens import TokenAnswers
from palisade.data import document_canaries, documents, sequences
from palisade.defenses import rare_removal
from palisade.defenses.dp_sgd.layers import tied
from palisade.evaluation.measuring import extraction as extraction_rows
from palisade.evaluation.statistics import dataset_inference, extraction, secret_exposure
from palisade.targets import hugging_face, record_loss, training, transformer
from palisade.targets.guards.ngram_filter import ExactNgrams

TESTS_FOLDER = Path(__file__).parent
Compose = Callable[..., dict[str, Any]]
Check = Callable[[Path, Compose], None]


def module_of(path: str) -> Any:
    """A module of tests, imported so that its tests are not collected here."""
    folder = str((TESTS_FOLDER / path).parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(Path(path).stem)


def edit(patch: pytest.MonkeyPatch, function: Any, old: str, new: str) -> None:
    """Changes a function in place, wherever it was imported to."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{function.__qualname__} holds {old!r} {source.count(old)} times"
    edited: dict[str, Any] = dict(function.__globals__)
    flags = __future__.annotations.compiler_flag
    exec(compile(source.replace(old, new), "edited", "exec", flags, dont_inherit=True), edited)
    patch.setattr(function, "__code__", inspect.unwrap(edited[function.__name__]).__code__)


attacked = module_of("attacks/test_token_attacks.py")
copied = module_of("attacks/parts/test_neighbor_copies.py")
adapted = module_of("targets/test_low_rank.py")
rare = module_of("defenses/test_rare_removal.py")
cut = module_of("data/test_documents.py")
planted = module_of("data/test_document_canaries.py")
asked = module_of("evaluation/test_audit_texts.py")
extracted = module_of("evaluation/test_extraction.py")
norms = module_of("targets/test_document_norms.py")
filtered = module_of("targets/test_ngram_filter.py")
own = module_of("targets/test_gpt.py")


def drawn(test: Any, **values: Any) -> Check:
    """One example of a test that Hypothesis draws."""
    return lambda *_: test.hypothesis.inner_test(**values)


def called(test: Any, *values: Any) -> Check:
    return lambda *_: test(*values)


def norms_of(name: str) -> Check:
    documents_of = norms.documents([5, 12, 1], holes=False, seed=0)
    return lambda folder, _: norms.check_norms(norms.network_of(name, folder), *documents_of)


def documents_in(folder: Path) -> Any:
    lines = (json.dumps({"text": f"document number {number}"}) for number in range(planted.DOCUMENT_COUNT))
    (folder / "own.jsonl").write_text("\n".join(lines))
    source = documents.Documents(path=folder / "own.jsonl", length=32, new_tokens=9)
    return planted.prepare(source, planted.Roles(pool=0.5), seed=0)


def coins_of_copies(folder: Path, _: Compose) -> None:
    planted.test_copies_of_a_secret_share_one_coin(documents_in(folder))


def new_tokens(folder: Path, _: Compose) -> None:
    planted.test_a_new_token_is_nobody_else_s(documents_in(folder))


PLANTED_FAULTS: dict[str, tuple[Any, str, str, Check]] = {
    "a mask by loss != 0": (
        TokenAnswers.mean,
        "where=self.mask, dtype=np.float64)\n    means: np.ndarray = sums / self.lengths",
        "where=values != 0, dtype=np.float64)\n    means: np.ndarray = sums / (values != 0).sum(axis=-1)",
        called(attacked.test_the_loss_counts_tokens_that_are_certain),
    ),
    "a pad that is the end mark hides true ones": (
        record_loss.means_over_tokens,
        "is_token = batch.y != NO_TOKEN",
        "is_token = batch.y > 0",
        called(own.test_a_token_that_also_pads_counts_where_it_stands),
    ),
    "the token mean of a batch": (
        record_loss.means_over_tokens,
        "is_token.sum(dim=-1).clamp(min=1)",
        "is_token.sum(dim=-1).double().mean()",
        drawn(own.test_a_loss_depends_on_its_document_alone, seed=1, records=4, depth=1),
    ),
    "int(T·k) = 0": (
        token_attack.mean_of_smallest,
        "np.maximum(1, np.floor(np.round(share * tokens.lengths, 9)))",
        "np.floor(share * tokens.lengths)",
        called(attacked.test_min_k_counts_a_token_of_a_short_text),
    ),
    "σ → 0": (
        min_k_plus.MinKPlus._of_texts,
        "SMALLEST_SPREAD**2",
        "0.0",
        called(attacked.test_min_k_plus_survives_a_law_without_spread),
    ),
    "no negative mass scores 0": (
        error_zone.ErrorZone._of_texts,
        "return scores",
        "return np.where(fallen > 0, scores, 0.0)",
        called(attacked.test_error_zone_puts_texts_without_loss_first),
    ),
    "a base of another tokenizer": (
        TokenAnswers.__post_init__,
        'dict.fromkeys(("mask", *BASE_BY_TOKEN), shape[1:])',
        'dict.fromkeys(("mask",), shape[1:])',
        called(attacked.test_base_of_another_tokenizer_is_refused),
    ),
    "consistency the other way round": (
        neighbors.Neighbors._of_texts,
        "-losses.std(axis=-1)",
        "losses.std(axis=-1)",
        called(attacked.test_consistency_is_reversed),
    ),
    "copies that depend on padding": (
        neighbor_copies.neighbor_copies,
        "own = x[record, :length].astype(np.int64)",
        "own = x[record].astype(np.int64)",
        called(copied.test_padding_and_company_change_no_copy),
    ),
    "RMIA at a temperature that texts have not": (
        rmia.RMIA.suited,
        "replace(self, temperature=1.0, gamma=1.0)",
        "self",
        called(attacked.test_rmia_on_texts_takes_temperature_and_gamma_of_one),
    ),
    "labels that are not shifted": (
        sequences.inputs_of,
        "np.roll(labels, 1, axis=-1)",
        "np.roll(labels, 0, axis=-1)",
        drawn(cut.test_bytes_of_any_text_come_back, texts=["abc"], length=5),
    ),
    "1 − (1 − p)^n out of log space": (
        extraction.extractable,
        "math.log(tries) + log_surprise(log_p) >= log_surprise(math.log(probability))",
        "1 - (1 - np.exp(log_p)) ** tries >= probability",
        called(extracted.test_tries_are_counted_in_log_space),
    ),
    "a greedy suffix that begins a token late": (
        extraction.extracted_greedily,
        "greedy[..., span.prefix :",
        "greedy[..., span.prefix + 1 :",
        called(extracted.test_greedy_extraction_is_what_greedy_decoding_gives),
    ),
    "a suffix of which the first token is not asked for": (
        extraction.suffix_log_probability,
        "log_q[..., span.prefix :",
        "log_q[..., span.prefix + 1 :",
        called(extracted.test_probability_of_a_suffix_is_the_share_of_samples_that_hold_it, extracted.SamplingLaw()),
    ),
    "members without others beside them": (
        extraction_rows.of_sides,
        "((MEMBER_GROUP, membership), (NONMEMBER_GROUP, ~membership))",
        "((MEMBER_GROUP, membership),)",
        called(extracted.test_members_and_others_stand_beside_each_other),
    ),
    "ties that count for the secret": (
        secret_exposure.exposure_of_secrets,
        "(up_to - below + 1) / 2",
        "1",
        called(extracted.test_ties_of_codes_count_half),
    ),
    "copies of a secret with a coin each": (
        document_canaries._with_secrets,
        "groups if len(groups) > len(secrets) else None",
        "None",
        coins_of_copies,
    ),
    "a new token that texts have": (
        document_canaries._new_tokens,
        "tokens.text_tokens + np.arange",
        "tokens.text_tokens - 200 + np.arange",
        new_tokens,
    ),
    "pieces of a document with fates of their own": (
        documents.Documents.load,
        "[number for number, document in enumerate(cut) for _ in document]",
        "list(range(len(texts)))",
        lambda folder, _: cut.test_pieces_of_a_document_share_its_fate(folder),
    ),
    "weights from the documents that are tested": (
        dataset_inference.weighed,
        "Weighed(scores[~first & questioned], scores[~first & ~questioned])",
        "Weighed(scores[first & questioned], scores[first & ~questioned])",
        called(asked.test_weighing_on_the_documents_that_are_tested_would_find_use_in_noise),
    ),
    "a filter that looks at the prompt alone": (
        ExactNgrams.blocked,
        "return",
        "return False &",
        called(filtered.test_holds_what_training_texts_hold, "exact"),
    ),
    "places looked up once for a batch": (
        transformer.positions_of,
        ".expand(tokens.shape)",
        "",
        norms_of("gpt"),
    ),
    "transposed dense layers that no rule knows": (
        hugging_face.plain,
        "isinstance(layer, Conv1D)",
        "False",
        norms_of("gpt2_untied"),
    ),
    "low-rank products that did not move": (
        training.check_moved,
        "if is_adapted(initial) and",
        "if False and",
        lambda folder, compose: adapted.test_a_fit_that_moved_nothing_fails(compose, adapted.written_to(folder)),
    ),
    "rare by comparison with others": (
        rare_removal.RareRemoval.rare,
        "self._nats(fitter, split) > self.threshold",
        "(lambda nats: nats > np.median(nats))(self._nats(fitter, split))",
        lambda folder, compose: rare.test_what_the_base_finds_surprising_is_not_trained_on(
            compose, rare.overrides_in(folder)
        ),
    ),
    "a tied head whose gradients do not meet": (
        tied._squares,
        "2 * _product(tokens, outer_embedding, inner, outer)",
        "0 * outer.sum()",
        norms_of("gpt2_tied"),
    ),
}
"""Function, its text, what stands there instead, and the test that notices."""


@pytest.mark.parametrize("fault", PLANTED_FAULTS)
def test_planted_fault_is_noticed(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compose: Compose
) -> None:
    function, old, new, check = PLANTED_FAULTS[fault]
    edit(monkeypatch, function, old, new)
    with pytest.raises((AssertionError, ValueError, IndexError, KeyError, pytest.fail.Exception)):
        check(tmp_path, compose)


@pytest.mark.parametrize("fault", PLANTED_FAULTS)
def test_without_the_fault_all_is_well(fault: str, tmp_path: Path, compose: Compose) -> None:
    PLANTED_FAULTS[fault][3](tmp_path, compose)
