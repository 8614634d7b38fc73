"""Attack on `released/` and a public report: membership is not recomputed from all that these files hold.

The same attempts succeed once one of the files is joined by the secret, or by what is internal: they could succeed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from palisade.data.secret import Secret
from palisade.data.split import Membership
from palisade.evaluate import evaluate_runs
from palisade.targets.release import Release
from palisade.targets.run import Run, identity
from palisade.targets.shipping import ship_run
from palisade.train import train_run

MODEL_COUNT = 3
FALSE_ALARM = 1e-6
"""Share of tests in which guesses without knowledge may look better than chance: one in a million."""


class Public(NamedTuple):
    """A private data set's run, what was published of it, and what was not."""

    run: Run
    data: Path
    files: dict[str, bytes]
    internal: dict[str, bytes]


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Public:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from palisade.train import composed

    folder = tmp_path_factory.mktemp("public")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(800, 6)).astype(np.float32), rng.integers(0, 2, 800)
    np.savez(folder / "patients.npz", x=x, y=y)
    places = [f"runs={folder}/runs", f"released={folder}/released"]
    small = ["data=npz", f"data.path={folder}/patients.npz", "trainer.epochs=2", "fleet.workers=1"]
    run = Run(Path(train_run(composed(*places, *small, f"fleet.models={MODEL_COUNT}"))["folder"]))
    conf = str(Path(__file__).parents[2] / "conf")
    for scope in ("internal", "public"):
        with initialize_config_dir(conf, version_base="1.3"):
            overrides = [
                f"runs={run.folder}",
                f"root={folder}/runs",
                f"reports={folder}/reports",
                places[1],
                "attack=loss",
            ]
            config = compose("evaluate", [*overrides, f"report.scope={scope}"])
        settings: Any = OmegaConf.to_container(config, resolve=True)
        evaluate_runs({**settings, "command": f"python evaluate.py runs={run.folder} report.scope={scope}"})
        if scope == "internal":
            ship_run(composed(*places, f"ship={run.folder}"))
    reports = folder / "reports" / "patients"
    files = read(folder / "released") | read(reports / "public")
    assert {"card.json", "model.safetensors", "report.json", "report.html"} <= {Path(name).name for name in files}
    internal = {name: content for name, content in read(reports).items() if "/public/" not in name}
    return Public(run, folder / "patients.npz", files, internal)


def read(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def words(files: dict[str, bytes]) -> set[str]:
    """Everything in the text files that could be a seed, a secret or a hash."""
    texts = [content.decode("utf-8", "replace") for name, content in files.items() if not name.endswith(".safetensors")]
    return {word for text in texts for word in re.findall(r"[\w.+/=:-]+", text)}


def secrets_of(files: dict[str, bytes]) -> Iterator[Secret]:
    """Every secret that the files could give away: in hexadecimal, base64 or as the text it was made from."""
    for word in words(files):
        yield Secret.from_text(word)
        for digits in re.findall(r"[0-9a-f]{32,}", word):
            for start in range(len(digits) - 31):
                yield Secret(bytes.fromhex(digits[start : start + 32]), user_chosen=False)
        if re.fullmatch(r"[A-Za-z0-9+/_-]{22}(==)?", word):
            yield Secret(
                base64.b64decode(word[:22] + "==", altchars=b"-_" if re.search("[-_]", word) else b"+/"),
                user_chosen=False,
            )
        if word.isdecimal() and int(word) < 2**128:
            yield Secret(int(word).to_bytes(16), user_chosen=False)


def guesses_of(files: dict[str, bytes], run: Run) -> Iterator[np.ndarray]:
    """Members of the first model that public numbers could have made."""
    split, drawn = run.dataset.split, Membership(**run.config["membership"])
    for secret in secrets_of(files):
        yield drawn.draw(split, [0], secret)[0]
    for seed in {int(word) for word in words(files) if word.isdecimal() and len(word) < 20} | set(range(100)):
        for key in (seed, [seed, 0], [seed, *b"roles"], [seed, *b"membership"]):
            yield np.random.default_rng(key).random(len(split.pool)) < 0.5


def best_agreement(files: dict[str, bytes], run: Run) -> tuple[float, float]:
    """The largest share of right membership bits among all guesses, and what as many blind ones reach (Hoeffding)."""
    truth = run.membership()[0]
    right = [float((guess == truth).mean()) for guess in guesses_of(files, run)]
    return max(right), 0.5 + math.sqrt(math.log(len(right) / FALSE_ALARM) / (2 * len(truth)))


def test_no_public_number_or_word_makes_the_membership(public):
    best, chance = best_agreement(public.files, public.run)
    assert best < chance < 0.7


@pytest.mark.parametrize("form", ["hex", "base64"])
def test_the_same_attempt_succeeds_with_the_secret(public, form):
    value = public.run.secret.value
    leaked = {"hex": value.hex(), "base64": base64.b64encode(value).decode()}[form]
    files = {"card.json": public.files[next(name for name in public.files if name.endswith("card.json"))]}
    best, _ = best_agreement({**files, "leak.json": json.dumps({"key": leaked}).encode()}, public.run)
    assert best == 1


def hidden(run: Run) -> dict[str, bytes]:
    """Secrets and membership of each model, as bytes that no public file may hold."""
    hex_secrets = {
        name: (run.folder / "private" / name).read_text().split()[1] for name in ("secret", "release_secret")
    }
    raw = {name: bytes.fromhex(value) for name, value in hex_secrets.items()}
    for k, row in enumerate(run.membership()):
        for order in ("big", "little"):
            raw[f"members of {k}, {order}"] = np.packbits(row, bitorder=order).tobytes()
        raw[f"members of {k}, bytes"] = row.tobytes()
    return raw


def files_with(files: dict[str, bytes], value: bytes) -> list[str]:
    """The files that hold some bytes: plain, reversed, or written in any of the usual ways."""
    forms = [value, value[::-1], *(code(value).rstrip(b"=") for code in (base64.b64encode, base64.urlsafe_b64encode))]
    forms += [value.hex().encode(), base64.b32encode(value).rstrip(b"="), value[::-1].hex().encode()]
    forms += [str(int.from_bytes(value, order)).encode() for order in ("big", "little")]
    return [
        name for name, content in files.items() if any(form in content or form in content.lower() for form in forms)
    ]


def test_no_public_file_holds_secret_or_members_in_any_writing(public):
    for what, value in hidden(public.run).items():
        assert not files_with(public.files, value), what
        for code in (bytes, base64.b64encode, lambda raw: raw.hex().encode(), lambda raw: raw[::-1]):
            assert files_with({"leak": b"a" + code(value) + b"b"}, value) == ["leak"]


def hashes(public: Public) -> set[str]:
    """Hashes by which a reader who guesses the private records could find the guess confirmed."""
    dataset = public.run.dataset
    with np.load(public.data) as arrays:
        contents = [arrays["x"].tobytes(), arrays["y"].tobytes(), arrays["x"].tobytes() + arrays["y"].tobytes()]
    contents += [public.data.read_bytes(), dataset.x.tobytes(), dataset.x[dataset.split.pool].tobytes()]
    contents.append(dataset.fingerprint.encode())
    kinds = [getattr(hashlib, name) for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s", "sha3_256")]
    digests = {kind(content).hexdigest() for content in contents for kind in kinds} | {dataset.fingerprint}
    return {digest[:8] for digest in digests} | {identity(public.run.config, dataset)}


def test_no_public_hash_confirms_a_guess_of_the_records(public):
    def confirmed(files: dict[str, bytes]) -> set[str]:
        return {digest for digest in hashes(public) for content in files.values() if digest.encode() in content}

    assert not confirmed(public.files)
    assert confirmed(public.internal)  # run folders end with such a hash
    checksum = json.loads(next(c for n, c in public.files.items() if n.endswith("card.json")))["data"]["checksum"]
    assert checksum.startswith("hmac-sha256:")


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from numbers(inner)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield content


def test_no_public_number_counts_the_members_that_a_model_really_has(public):
    pool = len(public.run.dataset.split.pool)
    realized = {int(count) for count in public.run.membership().sum(axis=1)} - {pool // 2}
    expected = len(public.run.membership()) * pool // 2  # of all models; the draw may hit it, and tells nothing then
    realized |= {pool - count for count in realized} | ({int(public.run.membership().sum())} - {expected})
    public_numbers = {
        name: set(numbers(json.loads(content))) for name, content in public.files.items() if name.endswith(".json")
    }
    overlap = {name: realized & held for name, held in public_numbers.items()}
    assert not any(overlap.values()), overlap
    inside = [json.loads(content) for name, content in public.internal.items() if name.endswith("report.json")]
    assert realized & set(numbers(inside))


def test_no_public_number_counts_a_class(public):
    dataset = public.run.dataset
    public_numbers = {
        name: set(numbers(json.loads(content))) for name, content in public.files.items() if name.endswith(".json")
    }
    public_numbers |= {
        name: {float(cell) for cell in re.findall(r"(?<![\w.])\d+(?![\w.])", content.decode())}
        for name, content in public.files.items()
        if name.endswith(".csv")
    }
    counts = set(np.bincount(dataset.y[dataset.split.pool]).tolist())
    counts |= {MODEL_COUNT * count for count in counts}
    counts |= {count // 2 for count in counts} | {count - count // 2 for count in counts}
    assert not {name: counts & held for name, held in public_numbers.items() if counts & held}
    inside = [json.loads(content) for name, content in public.internal.items() if name.endswith("report.json")]
    scored = [row for run in inside[0]["runs"] for row in run["rows"] if row["group"] == "class=1" and row["attack"]]
    assert {row["members"] + row["nonmembers"] for row in scored} <= counts, "inside they are counted"


def test_no_public_file_lists_records(public):
    assert not [name for name in public.files if "expos" in Path(name).name]
    assert [name for name in public.internal if name.endswith("exposed.csv")]
    report = json.loads(next(content for name, content in public.files.items() if name.endswith("report.json")))
    pool = set(public.run.dataset.split.pool.tolist())
    for listed in lists(report):
        whole = [value for value in listed if isinstance(value, int) and not isinstance(value, bool)]
        assert len(whole) < 10 or not set(whole) <= pool


def lists(content: Any) -> Iterator[list[Any]]:
    if isinstance(content, list):
        yield content
    for inner in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from lists(inner)


def test_the_released_model_tells_nothing_about_the_models_of_the_fleet(public):
    run, split = public.run, public.run.dataset.split
    folder = next(Path(name).parent for name in public.files if name.endswith("card.json"))
    answers = Release.load(folder).predict_proba(run.dataset.x[split.pool])
    sure = answers[np.arange(len(answers)), run.dataset.y[split.pool]]
    right = max(float(np.mean((sure > np.median(sure)) == row)) for row in run.membership())
    assert right < 0.5 + math.sqrt(math.log(MODEL_COUNT / FALSE_ALARM) / (2 * len(sure)))
