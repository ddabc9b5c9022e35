"""The command: its subcommands, help and listings, and what they import."""

import errno
import itertools
from pathlib import Path

import pytest

from attention_lab.cli import COMMANDS, list_options
from attention_lab.config.compose import config_directory, group_options
from tests.cli.conftest import Answer, Command, fresh
from tests.conftest import FinishedRun

#: What takes seconds to import, and has no business in answering a question about a command.
HEAVY = {"torch", "lightning", "wandb", "matplotlib", "scipy", "torchmetrics"}


def imported_by(tmp_path: Path, *arguments: str) -> set[str]:
    """The top-level packages that a command imports until it has answered."""
    code = (
        "import sys\n"
        "from attention_lab.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('IMPORTED', *{name.partition('.')[0] for name in sys.modules})"
    )
    answer = fresh("-c", code, *arguments, cwd=tmp_path)
    assert answer.code == 0, answer.err
    return set(answer.out.rpartition("IMPORTED ")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["bench", "--help"], ["list", "attention"], ["train", "--cfg", "job"]],
)
def test_help_and_listings_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    assert not imported_by(tmp_path, *arguments) & HEAVY


def test_help_and_listings_need_no_hydra(tmp_path: Path) -> None:
    assert "hydra" not in imported_by(tmp_path, "list")


def test_the_check_for_heavy_imports_detects_one(tmp_path: Path) -> None:
    assert "torch" in imported_by(tmp_path, "train", "attention.num_heads=0")


def test_help_names_every_command(command: Command) -> None:
    answer = command("--help")
    assert answer.code == 0
    assert all(f"  {subcommand} " in answer.out for subcommand in COMMANDS)
    assert command() == answer


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_every_command_has_help(command: Command, subcommand: str) -> None:
    answer = command(subcommand, "--help")
    assert answer.code == 0
    assert f"attention-lab {subcommand}" in answer.out


def test_an_unknown_command_names_the_nearest(command: Command) -> None:
    assert command("evalute") == (
        2,
        "",
        "attention-lab: no such command: 'evalute'; did you mean evaluate?\n",
    )


HELP = "; see `attention-lab {} --help`"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate", "the following arguments are required: RUN" + HELP.format("evaluate")),
        ("predict", "the following arguments are required: RUN" + HELP.format("predict")),
        ("report", "the following arguments are required: SWEEP" + HELP.format("report")),
        (
            "evaluate . --splits test",
            "unrecognized arguments: --splits test; did you mean --split?",
        ),
        (
            "predict . --tempurature=1",
            "unrecognized arguments: --tempurature=1; did you mean --temperature?",
        ),
        ("list atention", "there is no config group 'atention'; did you mean attention?"),
        (
            "evaluate . --split train",
            "argument --split: invalid choice: 'train'",
        ),
        ("report . --output", "argument --output: expected one argument"),
        *(
            (f"{name} nowhere", f"argument {argument}: nowhere is not a directory")
            for name, argument in {
                **dict.fromkeys(("evaluate", "predict"), "RUN"),
                **dict.fromkeys(("report", "report --watch", "dashboard"), "SWEEP"),
            }.items()
        ),
    ],
)
def test_wrong_arguments_give_an_error_of_one_line(
    command: Command, arguments: str, message: str
) -> None:
    subcommand, *_ = arguments.split()
    answer = command(*arguments.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"attention-lab: {subcommand}: {message}")
    assert answer.err.count("\n") == 1


def test_an_unwritable_home_directory_gives_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words_run: FinishedRun
) -> None:
    """Matplotlib would warn that it cannot write its cache there."""
    (tmp_path / "home").touch()
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    arguments = ["report", str(words_run.directory), "--output", str(tmp_path)]
    answer = fresh("-m", "attention_lab", *arguments, cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert (tmp_path / "report.html").is_file()


def options(group: str) -> set[str]:
    """The names of a group's files; each score is a mechanism, too."""
    folders = [group, "attention/score"] if group == "attention" else [group]
    files = [file for it in folders for file in (config_directory() / it).glob("[!_]*.yaml")]
    return {file.stem for file in files}


def test_an_error_of_the_system_without_a_file_is_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: list[str]) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(list_options, "run", run)
    assert command("list") == (1, "", "attention-lab: list: too many open files\n")


def test_list_has_every_option_with_its_description(command: Command) -> None:
    everything = command("list").out.splitlines()
    for group in ("attention", "data", "model", "optimizer", "scheduler", "experiment"):
        start = everything.index(f"{group}=") + 1
        lines = list(itertools.takewhile(lambda line: line[0] == " ", everything[start:]))
        described = [line.split(None, 1) for line in lines]
        assert {name for name, _ in described} == options(group)
        if group not in ("attention", "data"):
            assert command("list", group).out.splitlines() == [f"{group}=", *lines]


def test_list_attention_includes_its_parts(command: Command) -> None:
    groups = command("list", "attention").out.split("\n")
    for part in ("score", "normalizer", "positions", "mask", "feature_map"):
        start = groups.index(f"attention/{part}=") + 1
        lines = itertools.takewhile(lambda line: line.startswith("  "), groups[start:])
        assert {line.split()[0] for line in lines} == options(f"attention/{part}")


def shown(answer: Answer) -> dict[str, str]:
    """The rows that `list GROUP NAME` prints, by their first column."""
    rows = [line.strip().split("  ", 1) for line in answer.out.splitlines()]
    return {row[0]: row[-1].strip() for row in rows}


def test_list_of_a_mechanism_shows_its_keys_and_its_info(command: Command) -> None:
    additive = shown(command("list", "attention", "additive"))
    assert additive["attention.num_kv_heads=null"] == "null: num_heads"
    assert additive["attention.score.hidden_dim=null"] == "null: head_dim"
    assert "attention/normalizer=softmax" in additive
    assert additive["formula"] == "softmax of v·tanh(W q + U k)"
    assert additive["paper"] == "Bahdanau et al. 2015"
    assert additive["backends"] == "fused, eager"
    assert additive["time"] == "L·S·d·a, with L queries, S keys, d head_dim, a hidden_dim"
    assert (additive["memory"], additive["cache"]) == ("L·S", "S·(a + d)")
    nystrom = shown(command("list", "attention", "nystrom"))
    assert nystrom["attention.num_heads=8"] == "attention.num_heads=8"  # from _heads.yaml
    assert [nystrom[it] for it in ("causal", "cross-attention")] == ["no", "no"]
    assert [nystrom[it] for it in ("attention weights", "cache")] == ["yes", "none"]
    assert shown(command("list", "attention", "multi_head"))["backends"] == "sdpa, eager, flex"


def test_list_of_a_model_shows_the_key_that_all_models_have(command: Command) -> None:
    assert "model.init_from=null" in shown(command("list", "model", "decoder"))


def test_list_of_a_dataset_shows_its_sizes_and_baselines(command: Command) -> None:
    digits = shown(command("list", "data", "digits"))
    assert digits["task"] == "Classification"
    assert digits["model"] == "SelfAttentionClassifier by default"
    assert digits["examples"] == "train 1,251, validation 176, test 370"
    assert digits["test/accuracy"] == "trivial baseline 7.03 %, nearest class mean 91.35 %"


def test_list_of_a_users_dataset_says_why_it_cannot_be_loaded(
    command: Command, tmp_path: Path
) -> None:
    mine = tmp_path / "mine" / "data"
    mine.mkdir(parents=True)
    (mine / "missing.yaml").write_text(
        """# A text that is not there
defaults:
  - /task@_global_: language_model
  - override /model@_global_.model: decoder
_target_: attention_lab.data.synthetic.recall.Recall
pairs: [0]
"""
    )
    answer = command("list", "data", "missing", "--config-dir", "mine")
    assert "0 pairs" in shown(answer)["not loaded"]


def test_list_of_an_unknown_option_suggests_the_nearest(command: Command) -> None:
    answer = command("list", "attention", "addtive")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "attention-lab: attention=addtive: there is no such option; did you mean additive?\n"
    )


@pytest.mark.parametrize("arguments", [(), ("attention",), ("attention", "latent")])
def test_list_fits_the_terminal(
    command: Command, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, command("list", *arguments).out.splitlines())) <= 80


def test_list_shows_a_users_own_options(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "attention").mkdir(parents=True)
    (tmp_path / "mine" / "attention" / "sharp.yaml").write_text("# Sharper than most\n")
    answer = command("list", "attention", "--config-dir", "mine")
    assert "sharp" in answer.out
    assert "Sharper than most" in answer.out


def test_list_refuses_a_config_dir_that_does_not_exist(command: Command) -> None:
    for group in ("attention", "data"):
        answer = command("list", group, "--config-dir", "nowhere")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == "attention-lab: --config-dir nowhere: no such directory\n"


def test_files_that_only_other_options_use_are_not_listed() -> None:
    assert (config_directory() / "attention" / "_layer.yaml").is_file()
    assert "_layer" not in group_options("attention")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "cannot be read: "),
        (b"\xff\xfe\n", "cannot be read: "),
        (b"3\n", "must hold keys and values"),
        (b"defaults: 7\n", "must hold keys and values"),
    ],
)
def test_list_names_a_users_damaged_file(
    command: Command, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "mine" / "attention" / "damaged.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert "damaged" in command("list", "attention", "--config-dir", "mine").out
    answer = command("list", "attention", "damaged", "--config-dir", "mine")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert f"mine/attention/damaged.yaml: {message}" in answer.err


def test_list_of_a_users_mechanism_shows_the_keys_of_a_shipped_layer(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "attention" / "score").mkdir(parents=True)
    text = "# Mine\n_target_: mine.Score\n_partial_: true\nsize: 3\n"
    (tmp_path / "mine" / "attention" / "score" / "own.yaml").write_text(text)
    (tmp_path / "mine" / "attention" / "layered.yaml").write_text(
        "# Mine\ndefaults: [_layer, {score: absent}, _self_]\ngate: true\n"
    )
    own = shown(command("list", "attention", "own", "--config-dir", "mine"))
    assert {"attention.num_heads=1", "attention.score.size=3"} <= own.keys()
    layered = shown(command("list", "attention", "layered", "--config-dir", "mine"))
    assert {"attention.num_heads=1", "attention.gate=true", "cannot be used"} <= layered.keys()
