"""Settings read from a file: TOML written by hand, and a run's config.json."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fmnist_xp.experiments import EXPERIMENTS, Experiment
from fmnist_xp.runs import Settings
from fmnist_xp.runs.config import read_settings

ROOT = Path(__file__).parents[1]
WHOLE = """
name = "mine"
epochs = 30
seed = 5
precision = "float64"
engine = "fused"
log_every = 3
block_rows = 70
dense_rows = true

[network]
hidden = [32, 16]
activation = "tanh"
initializer = "glorot_uniform"
layer_norm = true
dropout = 0.25

[loss]
type = "softmax_categorical_crossentropy"
label_smoothing = 0.125

[optimizer]
type = "sgd"
learning_rate = 1
momentum = 0.5
nesterov = true
clip_norm = 2.0

[schedule]
type = "step"
factor = 0.5
every = 10

[augmentation]
mirror = true
shift = 2

[regularization]
l2 = 0.0

[validation]
fraction = 0.25
keep_best = true
patience = 4
"""
SHORT = '[network]\nhidden = [8]\n[optimizer]\ntype = "adam"\n'


def written(folder: Path, text: str, name: str = "file.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_a_setting(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, WHOLE)) == Settings(
        Experiment(
            name="mine",
            hidden=(32, 16),
            optimizer="sgd",
            learning_rate=1,
            decay=0.0,
            momentum=0.5,
            l2=0.0,
            epochs=30,
            activation="tanh",
            initializer="glorot_uniform",
            layer_norm=True,
            dropout=0.25,
            loss="softmax_categorical_crossentropy",
            label_smoothing=0.125,
            optimizer_options={"nesterov": True, "clip_norm": 2.0},
            schedule={"type": "step", "factor": 0.5, "every": 10},
            mirror=True,
            shift=2,
        ),
        seed=5,
        precision="float64",
        engine="fused",
        log_every=3,
        block_rows=70,
        dense_rows=True,
        validation=0.25,
        keep_best=True,
        patience=4,
    )


def test_the_example_is_the_experiment_best() -> None:
    assert read_settings(ROOT / "docs" / "examples" / "best.toml") == Settings(EXPERIMENTS["best"])


@pytest.mark.parametrize(
    ("name", "expected"), [("file", "file"), ("my file (2)", "my-file-2"), (".toml", "toml"), ("…", "file")]
)
def test_a_short_file_has_its_own_name_and_the_usual_values(tmp_path: Path, name: str, expected: str) -> None:
    wanted = Experiment(expected, (8,), "adam", learning_rate=0.001)  # the class's own
    assert read_settings(written(tmp_path, SHORT, f"{name}.toml")) == Settings(wanted)


def test_a_base_keeps_what_the_file_does_not_tell(tmp_path: Path) -> None:
    base = EXPERIMENTS["best"]
    assert base.optimizer_options.keys() >= {"weight_decay", "ema"}
    found = read_settings(written(tmp_path, 'base = "best"\n[optimizer]\nweight_decay = 0.5\n')).experiment
    assert found == replace(base, optimizer_options={**base.optimizer_options, "weight_decay": 0.5})
    found = read_settings(written(tmp_path, 'base = "best"\n[optimizer]\ntype = "sgd"\nmomentum = 0.5\n')).experiment
    assert found == replace(base, optimizer="sgd", learning_rate=1.0, momentum=0.5, optimizer_options={})
    text = 'base = "best"\nname = "constant"\n[schedule]\ntype = "constant"\n'
    found = read_settings(written(tmp_path, text)).experiment
    assert found == replace(base, name="constant", schedule={"type": "constant"})
    found = read_settings(written(tmp_path, 'base = "sgd"\n[schedule]\ntype = "cosine"\n')).experiment
    assert found == replace(EXPERIMENTS["sgd"], decay=0.0, schedule={"type": "cosine"})


WRONG = {
    "no TOML": ("epochs = ", "Invalid value"),
    "a key twice": ("epochs = 1\nepochs = 2", "Cannot overwrite a value"),
    "deep": ("a = " + "[" * 10_000, "nested too deeply"),
    "nothing": ("", 'hidden in [network] is missing: give it, or the experiment to change, such as base = "quick"'),
    "no optimizer": ("[network]\nhidden = [8]", "type in [optimizer] is missing"),
    "unknown base": ('base = "adm"', "base must be one of sgd, momentum, adam, quick, best, got 'adm'; did you mean"),
    "unknown table": (SHORT + "[netwrok]\nhidden = [3]", "got 'netwrok'; did you mean network?"),
    "unknown key above": ("epoch = 3\n" + SHORT, "a key must be one of base, name, epochs, seed"),
    "unknown key": ('base = "adam"\n[network]\nhiden = [3]', "a key of [network] must be one of hidden, activation"),
    "its neighbour": ('base = "adam"\n[network]\nhiden = [3]', "got 'hiden'; did you mean hidden?"),
    "unknown option": ('base = "adam"\n[optimizer]\nbeta_3 = 0.5', "an option of adam must be one of beta_1, beta_2"),
    "unknown schedule": ('base = "adam"\n[schedule]\ntype = "cosin"', "got 'cosin'; did you mean cosine?"),
    "schedule of no type": ('base = "adam"\n[schedule]\nwarmup = 3', "the type of a schedule must be one of"),
    "unknown in a schedule": ('base = "quick"\n[schedule]\ntype = "cosine"\nwarm = 3', "did you mean warmup?"),
    "updates are the epochs": ('base = "quick"\n[schedule]\ntype = "cosine"\nupdates = 3', "one of warmup, final"),
    "missing in a schedule": ('base = "quick"\n[schedule]\ntype = "step"', "factor"),
    "unknown loss": ('base = "adam"\n[loss]\ntype = "hinge"', "loss must be one of categorical_crossentropy"),
    "unknown activation": ('base = "adam"\n[network]\nactivation = "dense"', "activation must be one of relu"),
    "unknown initializer": ('base = "adam"\n[network]\ninitializer = "he"', "he_normal"),
    "a table that is none": ("network = 3\n", "network must be an object, got 3"),
    "text for a number": ('base = "adam"\nepochs = "many"', 'epochs must be a whole number, got "many"'),
    "half a width": ('base = "adam"\n[network]\nhidden = [3.5]', "network.hidden[0] must be a whole number"),
    "number for a list": ('base = "adam"\n[network]\nhidden = 3', "network.hidden must be a list, got 3"),
    "number for a switch": ('base = "adam"\n[augmentation]\nmirror = 1', "augmentation.mirror must be true or false"),
    "a date": ('base = "adam"\nepochs = 2024-01-01', 'epochs must be a whole number, got "2024-01-01"'),
    "no width": ('base = "adam"\n[network]\nhidden = [0]', "hidden must be at least 1, got 0"),
    "no epochs": ('base = "adam"\nepochs = 0', "epochs must be at least 1, got 0"),
    "dropout of all": ('base = "adam"\n[network]\ndropout = 1.0', "dropout must be at least 0 and below 1, got 1.0"),
    "negative l2": ('base = "adam"\n[regularization]\nl2 = -1', "l2 must be at least 0 and finite, got -1"),
    "no rate": ('base = "adam"\n[optimizer]\nlearning_rate = 0', "learning_rate must be above 0 and finite, got 0"),
    "rate nan": ('base = "adam"\n[optimizer]\nlearning_rate = nan', "learning_rate must be above 0"),
    "momentum of adam": ('base = "adam"\n[optimizer]\nmomentum = 0.5', "adam has no momentum: leave it out"),
    "shift": ('base = "adam"\n[augmentation]\nshift = -1', "shift must be at least 0, got -1"),
    "precision": ('base = "adam"\nprecision = "float8"', "precision must be one of float32"),
    "engine": ('base = "adam"\nengine = "fuse"', "engine must be one of plain, fused, got 'fuse'"),
    "precision of an engine": ('base = "adam"\nprecision = "bfloat16"', "bfloat16 is for the fused engine alone"),
    "seed": ('base = "adam"\nseed = 9223372036854775808', "seed must be below 2**63"),
    "a fraction of all": ('base = "adam"\n[validation]\nfraction = 1.0', "validation must be above 0 and below 1"),
    "no fraction": ('base = "adam"\n[validation]\npatience = 3', "patience needs images held out for validation"),
    "a name with a slash": ('base = "adam"\nname = "a/b"', "name must be up to 64 letters, digits"),
    "too wide": ('base = "adam"\n[network]\nhidden = [999999999, 999999999]', "choose narrower layers"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_told_in_one_line_with_their_key(tmp_path: Path, case: str) -> None:
    text, words = WRONG[case]
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as caught:
        read_settings(path)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):  # a folder that is no run
        with pytest.raises(OSError, match="No such file"):
            read_settings(path)


def as_json(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_config_json_is_read_back(tmp_path: Path, name: str) -> None:
    settings = Settings(EXPERIMENTS[name], seed=3, validation=0.1, dense_rows=False)
    path = written(tmp_path, json.dumps(as_json(settings)), "config.json")
    assert read_settings(path) == read_settings(tmp_path) == settings


def test_an_older_runs_config_is_read_and_is_the_same(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it: an experiment had eight fields."""
    experiment = {
        "name": "momentum", "hidden": [64, 64], "optimizer": "sgd", "learning_rate": 1.0, "decay": 0.01,
        "momentum": 0.5, "l2": 5e-4, "epochs": 1100,
    }  # fmt: skip
    config = {"experiment": experiment, "seed": 2, "precision": "float32", "log_every": 10, "block_rows": None}
    settings = Settings(EXPERIMENTS["momentum"], seed=2)
    assert settings.engine == "plain"
    assert read_settings(written(tmp_path, json.dumps(config), "config.json")) == settings
    assert settings.are_in(config)
    assert not Settings(replace(EXPERIMENTS["momentum"], activation="tanh"), seed=2).are_in(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": "64"}, 'hidden must be a list, got "64"'),
        ({"optimizer_options": []}, "optimizer_options must be an object, got a list"),
        ({"schedule": 3}, "schedule must be an object, got 3"),
        ({"l2": None}, "l2 must be a number, got null"),
        ({"activation": "reul"}, "did you mean relu?"),
    ],
)
def test_a_damaged_config_json_is_told(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    config = as_json(Settings(EXPERIMENTS["adam"]))
    config["experiment"] |= change
    with pytest.raises(ValueError, match=r"config\.json: ") as caught:
        read_settings(written(tmp_path, json.dumps(config), "config.json"))
    assert words in str(caught.value)
