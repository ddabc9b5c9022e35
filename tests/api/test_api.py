"""The Python API: compose, train, load a run, load sweeps."""

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attention_lab as al
from attention_lab.api import train as train_module
from attention_lab.api.open_run import UnusableRun
from attention_lab.config.components import ConfigError
from attention_lab.config.compose import WrongCommand
from attention_lab.config.resolve import RunSpec
from attention_lab.reports.runs import NotARun
from attention_lab.tracking.run_directory import RunExists, read_config
from attention_lab.training import prediction
from tests.conftest import FinishedRun

SMALL = (
    "data=g2p",
    "data.limit=600",
    "model.d_model=16",
    "trainer=cpu",
    "trainer.max_steps=3",
    "logger=csv",
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of two mechanisms with two seeds each."""
    directory = tmp_path_factory.mktemp("sweep")
    for attention in ("scaled_dot_product", "additive"):
        for seed in (0, 1):
            config = al.compose(f"attention={attention}", *SMALL)
            config.seed = seed
            al.train(config, directory / f"{attention}-{seed}")
    return directory


@pytest.fixture
def run(sweep: Path) -> al.Run:
    return al.load_run(sweep / "additive-0")


def test_importing_the_package_imports_neither_torch_nor_lightning() -> None:
    code = "import attention_lab, sys; print([m for m in ('torch', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(al.__all__) <= {*dir(al), *al.__all__}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        al.trian  # noqa: B018


def test_a_run_equals_that_of_the_command(sweep: Path, tmp_path: Path) -> None:
    arguments = ["attention=additive", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "attention_lab", "train", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    of_command = json.loads((tmp_path / "run" / "result.json").read_text())
    of_python = json.loads((sweep / "additive-0" / "result.json").read_text())
    assert of_python["test"] == of_command["test"]
    assert read_config(sweep / "additive-0") == read_config(tmp_path / "run")


def test_changed_values_are_recorded_as_overrides(run: al.Run, sweep: Path) -> None:
    status = json.loads((sweep / "additive-1" / "status.json").read_text())
    assert status["overrides"] == ["attention=additive", *SMALL, "seed=1"]
    assert run.config.choices.attention == "additive"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The runs that would be trained."""
    specs: list[RunSpec] = []
    monkeypatch.setattr(train_module, "launch", specs.append)
    return specs


def test_changed_values_are_spelled_as_in_overrides(launched: list[RunSpec]) -> None:
    config = al.compose(*SMALL)
    config.attention.talking_heads = True
    config.trainer.max_steps = None
    config.optimizer.betas = [0.8, 0.9]
    al.train(config)
    assert launched[0].overrides == [
        *SMALL,
        "attention.talking_heads=true",
        "optimizer.betas=[0.8,0.9]",
        "trainer.max_steps=null",
    ]


def test_the_model_and_the_data_use_a_changed_attention_and_seed(launched: list[RunSpec]) -> None:
    """As with overrides; the recorded overrides are those of the changed values only."""
    config = al.compose("attention=multi_head", *SMALL)
    config.attention.num_heads = 2
    config.seed = 3
    al.train(config)
    values = launched[0].config.values
    assert values["model"]["cross_attention"]["num_heads"] == 2
    assert values["data"]["seed"] == 3
    assert launched[0].overrides[len(SMALL) + 1 :] == ["seed=3", "attention.num_heads=2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attention=aditive", "did you mean additive?"),
        ("optimizer.lrr=1", "did you mean optimizer.lr?"),
        ("attention.mask=causal", "did you mean attention/mask=causal?"),
        ("model.d_model", "not an override"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, message: str) -> None:
    with pytest.raises(WrongCommand, match=message) as error:
        al.compose(override)
    assert "\n" not in str(error.value)


def test_wrong_values_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = al.compose(*SMALL)
    with pytest.raises(AttributeError, match="lrr"):
        config.optimizer.lrr = 1
    config.optimizer.lr = float("nan")
    with pytest.raises(ConfigError, match=r"optimizer\.lr: must be a finite number"):
        al.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(WrongCommand, match=r"config_dir=.*: no such directory"):
        al.compose(config_dir=tmp_path / "missing")


def test_options_of_ones_own_directory(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.5\n")
    config = al.compose("experiment=mine", config_dir=tmp_path)
    assert config.optimizer.lr == 0.5
    config.optimizer.lr = -1.0  # refused after the options have been found again
    with pytest.raises(ConfigError, match=r"optimizer\.lr|lr must|learning rate"):
        al.train(config, tmp_path / "run")
    (tmp_path / "train.yaml").write_text("seed: 5\n")
    with pytest.raises(WrongCommand, match=r"train\.yaml: has the name of a shipped file"):
        al.compose(config_dir=tmp_path)


def test_a_finished_run_is_not_trained_again(sweep: Path) -> None:
    config = al.compose("attention=additive", *SMALL)
    with pytest.raises(RunExists, match="has finished"):
        al.train(config, sweep / "additive-0")


def test_metrics_have_a_row_for_each_step(run: al.Run) -> None:
    metrics = run.metrics
    assert metrics.index.is_unique
    assert metrics.loc[3, "validation/per"] == run.result["last"]["per"]  # type: ignore[index]
    assert metrics.loc[3, "test/per"] == pytest.approx(run.result["test"]["per"])  # type: ignore[index]


def test_the_model_is_in_evaluation_mode_with_the_weights_of_its_checkpoint(run: al.Run) -> None:
    assert isinstance(run.model, torch.nn.Module)
    assert not run.model.training
    state = torch.load(run.directory / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    for name, weight in run.model.named_parameters():
        assert torch.equal(weight.cpu(), state[f"model.{name}"])


def test_loading_leaves_the_random_generators_alone(sweep: Path) -> None:
    def draw() -> tuple[Any, ...]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    al.load_run(sweep / "additive-0").predict(["tomato"])
    assert draw() == expected


def test_predictions_equal_those_of_the_command(run: al.Run) -> None:
    command = [sys.executable, "-m", "attention_lab", "predict", str(run.directory)]
    done = subprocess.run(command, input="tomato\n\nword\n", capture_output=True, text=True)
    assert run.predict(["tomato", "", "word"]) == done.stdout.split("\n")[:3]


def test_predict_decodes_with_beams_and_warns_of_unknown_tokens(run: al.Run) -> None:
    assert len(run.predict((word for word in ["a", "b"]), num_beams=2)) == 2
    (best, second), _ = run.predict(["tomato", "word"], num_beams=2, n_best=2)
    assert best.text == run.predict(["tomato"], num_beams=2)[0]
    assert best.score > second.score
    with pytest.warns(UserWarning, match="read as <unk>: 1"):
        run.predict(["é"])
    with pytest.raises(TypeError, match=r"run.predict\(\[text\]\)"):
        run.predict("tomato")
    with pytest.raises(TypeError, match="temprature"):
        run.predict(["a"], temprature=1.0)


def test_runs_predict_together_as_with_the_command(
    run: al.Run, sweep: Path, digits_run: FinishedRun
) -> None:
    other, words = al.load_run(sweep / "scaled_dot_product-1"), ["tomato", "", "word"]
    alone = run.predict(words)
    command = [sys.executable, "-m", "attention_lab", "predict"]
    command += [str(run.directory), str(other.directory), "--num-beams", "3", "--n-best", "2"]
    done = subprocess.run(command, input="\n".join(words), capture_output=True, text=True)
    best = run.predict(words, num_beams=3, n_best=2, ensemble_with=[other])
    assert done.stdout.splitlines() == [
        f"{number}\t{score:.4f}\t{text}"
        for number, each in enumerate(best, start=1)
        for text, score in each
    ]
    assert best != run.predict(words, num_beams=3, n_best=2)
    assert run.predict(words, ensemble_with=[run]) == run.predict(words) == alone
    digits = al.load_run(digits_run.directory)
    with pytest.raises(ValueError, match="they are for sequence_to_sequence and classification"):
        run.predict(words, ensemble_with=[digits])


def test_an_ensemble_does_not_move_the_networks_of_other_runs(
    run: al.Run, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another device or, as here, data type: their tasks would not know."""
    original = prediction.predictor
    monkeypatch.setattr(
        "attention_lab.api.run.predictor",
        lambda task, sampling: original(task.double(), sampling),
    )
    other = al.load_run(sweep / "scaled_dot_product-1")
    assert other.model.training is False
    run.predict(["tomato"], ensemble_with=[other])
    assert {weight.dtype for weight in other.model.parameters()} == {torch.float32}


def test_attention_maps_have_named_positions(run: al.Run) -> None:
    maps = run.attention("cat", target="K AE T")
    cross = maps["decoder.0.cross_attention"]
    assert cross.rows == ["K", "AE", "T", "</s>"]
    assert cross.columns == ["c", "a", "t"]
    assert cross.weights.shape == (1, 4, 3)
    torch.testing.assert_close(cross.weights.sum(-1), torch.ones(1, 4))
    assert maps.output == "K AE T"
    assert len(maps) == len(list(maps)) == 6
    assert "srcdoc" in maps._repr_html_()
    assert "additive-0, step 3" in repr(maps)


def test_attention_maps_are_saved_as_arrays(run: al.Run, tmp_path: Path) -> None:
    """The arrays need no pickle, and have the names of rows and columns, in Unicode too."""
    maps = run.attention("cat", target="K AE T")
    maps.save(tmp_path / "new" / "maps.npz")
    with np.load(tmp_path / "new" / "maps.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    kinds = ("weights", "rows", "columns", "hidden")
    assert set(arrays) == {f"{layer}/{kind}" for layer in maps for kind in kinds}
    for layer, each in maps.items():
        assert np.array_equal(arrays[f"{layer}/weights"], each.weights.numpy())
        assert arrays[f"{layer}/rows"].tolist() == each.rows
        assert arrays[f"{layer}/columns"].tolist() == each.columns
    later = np.triu(np.ones((4, 4), bool), 1)
    assert np.array_equal(arrays["decoder.0.self_attention/hidden"][0], later)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        maps.save(tmp_path / "maps.csv")


def test_evaluate_equals_the_test_of_the_run(run: al.Run) -> None:
    assert run.evaluate("test") == pytest.approx(run.result["test"])  # type: ignore[index]
    assert not (run.directory / "evaluations").exists()


def test_a_sweep_is_a_table_with_what_was_swept(sweep: Path) -> None:
    runs = al.load_sweep(sweep).runs
    assert sorted(zip(runs["attention"], runs["seed"], strict=True)) == [
        ("additive", 0),
        ("additive", 1),
        ("scaled_dot_product", 0),
        ("scaled_dot_product", 1),
    ]
    assert set(runs["status"]) == {"finished"}
    assert runs["test/per"].notna().all()
    assert (runs["parameters"] > 0).all()
    assert list(runs.columns[-2:]) == ["error", "directory"]


def test_a_comparison_has_the_statistics_of_the_report(sweep: Path) -> None:
    table = al.load_sweep(sweep).compare(baseline="attention=additive", metric="test/wer")
    row = table[(table.group == "scaled_dot_product") & (table.metric == "wer")].iloc[0]
    scores = {
        attention: [
            json.loads((sweep / f"{attention}-{seed}" / "result.json").read_text())["test"]["wer"]
            for seed in (0, 1)
        ]
        for attention in ("scaled_dot_product", "additive")
    }
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(np.mean(scores["scaled_dot_product"]))
    difference = np.mean(scores["scaled_dot_product"]) - np.mean(scores["additive"])
    assert row["difference"] == pytest.approx(difference)
    assert isinstance(table.attrs["caveats"], list)
    with pytest.raises(ValueError, match="matches no group"):
        al.load_sweep(sweep).compare(baseline="attention=none")


def test_a_comparison_of_different_data_warns(sweep: Path, tmp_path: Path) -> None:
    overrides = ["data.limit=700" if each == "data.limit=600" else each for each in SMALL]
    al.train(al.compose("attention=none", *overrides), tmp_path / "other")
    with pytest.warns(UserWarning, match="the runs have different data"):
        al.load_sweep(sweep, tmp_path / "other").compare()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        al.load_sweep(sweep).compare()


def test_what_is_no_run_is_one_line(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UnusableRun, match=r"is not a run's directory: it has no config\.yaml"):
        al.load_run(tmp_path)
    with pytest.raises(UnusableRun, match="is not a run's directory"):
        al.load_run(sweep / "additive-0" / "config.yaml")
    with pytest.raises(ValueError, match="checkpoint='first'"):
        al.load_run(sweep / "additive-0", checkpoint="first")
    with pytest.raises(NotARun, match="is neither a run"):
        al.load_sweep(tmp_path)


def test_a_damaged_run_is_one_line(run: al.Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.yaml").write_bytes((run.directory / "config.yaml").read_bytes())
    loaded = al.load_run(copy)
    assert (loaded.status, loaded.result) == ("waiting", None)
    assert loaded.metrics.empty
    with pytest.raises(UnusableRun, match=r"has no checkpoint best\.ckpt"):
        loaded.predict(["a"])
    (copy / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(UnusableRun, match=r"best\.ckpt"):
        loaded.model  # noqa: B018
    (copy / "config.yaml").write_text("schema_version: 99\n")
    with pytest.raises(UnusableRun, match=r"config\.yaml"):
        al.load_run(copy)
