"""The section ``hydra`` of a config runs no code, sets no unsafe variable, writes nowhere else."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.cli.conftest import Command

#: What would leave a mark if it were called: allowed by Hydra's own blocklist.
TOUCH = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [MARK]}}"
CREATE = (
    "{_target_: attention_lab.config.components.create, "
    "node: {_target_: os.system, command: touch MARK}}"
)
#: What a config says under ``hydra``, and the key that is named.
ATTACKS = {
    f"callbacks: {{x: {TOUCH}}}": "callbacks.x._target_: pathlib.Path.touch",
    f"callbacks: {{x: {CREATE}}}": "callbacks.x._target_: attention_lab.config.components.create",
    "callbacks: {x: {_target_: joblib.load, filename: a}}": "callbacks.x._target_: joblib.load",
    "callbacks: {x: {_target_: torch.load, f: a, weights_only: false}}": "callbacks.x._target_: ",
    "callbacks: {x: {_target_: numpy.load, file: a, allow_pickle: true}}": "callbacks.x._target_: ",
    "callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}": "callbacks.x",
    "callbacks: {x: {_target_: evil.X}}": "callbacks.x._target_: evil.X",
    "callbacks: ${model}": "callbacks: must not be an interpolation",
    "callbacks: {x: '${oc.create:{_target_: evil.X}}'}": "callbacks.x._target_: evil.X",
    f"callbacks: {{directories: {{inner: {TOUCH}}}}}": "callbacks.directories.inner._target_: ",
    "callbacks: {x: [{_target_: evil.X}]}": "callbacks.x.0._target_: evil.X",
    "launcher: {_target_: evil.X}": "launcher._target_: evil.X",
    "launcher: {_target_: hydra_plugins.evil.X}": "launcher._target_: hydra_plugins.evil.X",
    f"launcher: {{time_limit: {TOUCH}}}": "launcher.time_limit._target_: pathlib.Path.touch",
    "sweeper: {_target_: evil.X}": "sweeper._target_: evil.X",
    "sweeper: {sampler: {_target_: evil.X}}": "sweeper.sampler._target_: evil.X",
    "sweeper: {sampler: {_target_: optuna.samplers.CmaEsSampler}}": (
        "sweeper.sampler._target_: optuna.samplers.CmaEsSampler"
    ),
    "sweeper: {pruner: {_target_: evil.X}}": "sweeper.pruner._target_: evil.X",
    "sweeper: {storage: 'redis://127.0.0.1'}": "sweeper.storage: must be a file",
    "runtime: {choices: {x: {_target_: evil.X}}}": "runtime.choices.x._target_: evil.X",
    "job: {env_set: {WANDB_BASE_URL: http://127.0.0.1:9}}": "job.env_set.WANDB_BASE_URL: a config",
    "job: {env_set: {LD_PRELOAD: evil.so}}": "job.env_set.LD_PRELOAD: ",
    "job: {env_set: {PYTHONPATH: .}}": "job.env_set.PYTHONPATH: ",
    "job: {env_set: {PATH: .}}": "job.env_set.PATH: ",
    "job: {env_set: {HTTPS_PROXY: http://127.0.0.1:9}}": "job.env_set.HTTPS_PROXY: ",
    "job: {env_set: {GIT_CONFIG_COUNT: '1'}}": "job.env_set.GIT_CONFIG_COUNT: ",
    "job: {env_set: '${model}'}": "job.env_set.${model}: ",
    "job: {env_copy: [HOME]}": "job.env_set.HOME: ",
    "job_logging: {version: 1, root: {handlers: [x]}, handlers: {x: {(): evil.X}}}": (
        "job_logging.handlers.x.(): evil.X"
    ),
    "hydra_logging: {version: 1, root: {handlers: []}, formatters: {x: {class: evil.X}}}": (
        "hydra_logging.formatters.x.class: evil.X"
    ),
    "hydra_logging: {handlers: {x: {class: logging.FileHandler, filename: MARK}}}": (
        "hydra_logging.handlers.x.filename: "
    ),
    "job_logging: {handlers: {x: {class: logging.StreamHandler, stream: 'ext://evil.X'}}}": (
        "job_logging.handlers.x.stream: ext://evil.X"
    ),
    "job_logging: {handlers: {x: {class: '${hydra.job.name}'}}}": "job_logging.handlers.x.class: ",
    "hydra_logging: ${model}": "hydra_logging: ${model}",
    "output_subdir: MARK": "output_subdir: must be a plain name",
    "output_subdir: ../..": "output_subdir: must be a plain name",
}


@pytest.mark.parametrize("verb", ["train", "train -m --dry-run"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_config_that_makes_hydra_run_code_is_refused_in_one_line(
    attack: str, verb: str, command: Command, tmp_path: Path
) -> None:
    mark = tmp_path.parent / f"{tmp_path.name} was run"
    (tmp_path / "theirs").mkdir()
    section = attack.replace("MARK", str(mark))
    search = "{override hydra/sweeper: search}, " * attack.startswith(
        ("sweeper: {s", "sweeper: {p")
    )
    text = f"defaults: [train, {search}_self_]\nhydra:\n  {section}\n"
    (tmp_path / "theirs" / "config.yaml").write_text(text)
    own = ("--config-dir", "theirs", "--config-name", "config", "seed=0")
    answer = command(*verb.split(), *own)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"attention-lab: hydra.{ATTACKS[attack]}".replace("MARK", "/"))
    assert answer.err.count("\n") == 1
    assert not mark.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_job_of_a_sweep_is_checked_like_the_command(command: Command, tmp_path: Path) -> None:
    """Swept values are not in the config of the command."""
    mark = tmp_path.parent / f"{tmp_path.name} was run"
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for name, section in (("good", "{}"), ("evil", f"{{x: {TOUCH}}}".replace("MARK", str(mark)))):
        text = f"# @package _global_\nhydra: {{callbacks: {section}}}\n"
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(text)
    launcher = "hydra/launcher=basic"
    for more in ((), (launcher,)):
        answer = command("train", "-m", "--config-dir", "mine", "experiment=good,evil", *more)
        assert answer.code == 2
        assert "hydra.callbacks.x._target_: pathlib.Path.touch is not allowed" in answer.err
    assert not mark.exists()


def test_flags_of_hydra_work(command: Command, tmp_path: Path) -> None:
    answer = command("train", "--cfg", "job")
    assert answer.code == 0
    assert OmegaConf.create(answer.out).seed == 0
    answer = command("train", "--hydra-help")
    assert answer.code == 0, answer.err


def test_experimental_rerun_loads_no_pickle(command: Command) -> None:
    for flag in ("--experimental-rerun", "--exp"):
        answer = command("train", flag, "config.pickle")
        assert answer.code == 2
        assert answer.err.endswith("use --from RUN\n")
