import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from palisade.data.bundled import BreastCancer, Digits
from palisade.data.dataset import prepare
from palisade.data.split import Roles

REPOSITORY_ROOT = Path(__file__).parents[2]


def test_digits_are_ready_for_training():
    dataset = prepare(Digits(), Roles(population=0.1), seed=3)
    assert dataset.x.shape == (1797, *dataset.shape) and dataset.x.dtype == np.float32
    assert dataset.y.shape == (1797,) and len(dataset.classes) == 10
    assert (len(dataset.split.pool), len(dataset.split.population), len(dataset.split.test)) == (1258, 180, 359)
    assert dataset.published and dataset.published.endswith(dataset.fingerprint)
    assert dataset.preprocessing.statistics == "constants"


@pytest.mark.parametrize("change", ["rows", "labels", "persons", "classes", "preprocessing"])
def test_one_changed_byte_changes_the_fingerprint(change):
    records = BreastCancer().load()
    rows, labels = records.rows.copy(), records.labels.copy()
    rows[7, 3] = np.nextafter(rows[7, 3], 1e9)
    labels[7] = 1 - labels[7]
    changes = {
        "rows": rows,
        "labels": labels,
        "persons": np.arange(569),
        "classes": ("benign", "malignant"),
        "preprocessing": Digits().load().preprocessing,
    }
    assert replace(records, **{change: changes[change]}).fingerprint() != records.fingerprint()
    assert replace(records, name="other").fingerprint() == records.fingerprint()


@pytest.mark.parametrize(
    "config", sorted((REPOSITORY_ROOT / "conf" / "data").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_source_has_its_yaml_with_every_key(config):
    with initialize_config_dir(str(REPOSITORY_ROOT / "conf"), version_base="1.3"):
        settings = compose("train", overrides=[f"data={config.stem}"]).data
    missing = {key: "x" for key in settings if OmegaConf.is_missing(settings, key)}
    source = instantiate(OmegaConf.merge(settings, missing))
    assert {"_target_", *vars(source)} == set(settings)


def test_loading_imports_no_torch():
    code = (
        "import sys; from palisade.data.dataset import prepare; from palisade.data.split import Roles;"
        "assert 'sklearn' not in sys.modules and 'pandas' not in sys.modules;"
        "from palisade.data.bundled import Digits;"
        "import palisade.data.arrays, palisade.data.location30, palisade.data.table;"
        "assert 'pandas' not in sys.modules;"
        "prepare(Digits(), Roles(), 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, check=True)
