"""The command itself: subcommands, help, listings, and how little it imports to answer."""

import itertools
from pathlib import Path

import pytest

from attention_lab.cli import COMMANDS, list_data
from attention_lab.config.compose import config_directory, group_options
from tests.cli.conftest import Command, fresh
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


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--cfg", "job"]])
def test_questions_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    assert not imported_by(tmp_path, *arguments) & HEAVY


def test_help_and_listings_do_without_hydra(tmp_path: Path) -> None:
    assert "hydra" not in imported_by(tmp_path, "list")


def test_the_guard_sees_heavy_imports(tmp_path: Path) -> None:
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
            "evaluate run --splits test",
            "unrecognized arguments: --splits test; did you mean --split?",
        ),
        (
            "predict run --tempurature=1",
            "unrecognized arguments: --tempurature=1; did you mean --temperature?",
        ),
        ("list attention data", "unrecognized arguments: data" + HELP.format("list")),
        (
            "evaluate run --split train",
            "argument --split: invalid choice: 'train'",
        ),
        ("report sweep --output", "argument --output: expected one argument"),
    ],
)
def test_wrong_arguments_are_one_line(command: Command, arguments: str, message: str) -> None:
    subcommand, *_ = arguments.split()
    answer = command(*arguments.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"attention-lab: {subcommand}: {message}")
    assert answer.err.count("\n") == 1


def test_a_home_that_cannot_be_written_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words_run: FinishedRun
) -> None:
    """Matplotlib would say in lines of its own that it cannot keep a cache there."""
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


def test_list_has_every_option_with_its_description(command: Command) -> None:
    everything = command("list").out.splitlines()
    for group in ("attention", "data", "model", "optimizer", "scheduler", "experiment"):
        start = everything.index(f"{group}=") + 1
        lines = list(itertools.takewhile(lambda line: line[0] == " ", everything[start:]))
        described = [line.split(None, 1) for line in lines]
        assert {name for name, _ in described} == options(group)
        if group not in ("attention", "data"):
            assert command("list", group).out.splitlines() == [f"{group}=", *lines]


def test_list_attention_is_read_from_the_code(command: Command) -> None:
    mechanisms, *rest = command("list", "attention").out.split("\n\n")
    rows = {line.split()[0]: line for line in mechanisms.splitlines()[2:]}
    assert set(rows) == options("attention")
    assert "v·tanh(W q + U k)" in rows["additive"]
    assert rows["additive"].split()[-4:] == ["eager", "L·S·d·a", "L·S·a", "S·d"]
    assert "Bahdanau et al. 2015" in rows["additive"]
    assert "sdpa eager flex" in rows["multi_head"]
    assert rows["linear"].endswith("f·d")
    assert rows["linformer"].split("Wang et al. 2020")[1].split()[:4] == ["-", "-", "yes", "yes"]
    assert rows["nystrom"].split("Xiong et al. 2021")[1].split()[:4] == ["-", "yes", "yes", "-"]
    for axis in ("score", "normalizer", "positions", "mask", "feature_map"):
        (part,) = (part for part in rest if part.startswith(f"attention/{axis}="))
        assert {line.split()[0] for line in part.splitlines()[1:]} == options(f"attention/{axis}")


def test_list_data_loads_each_and_computes_its_trivial_baseline(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine" / "data"
    mine.mkdir(parents=True)
    missing = """# A text that is not there
defaults:
  - /task@_global_: language_model
  - override /model@_global_.model: decoder
_target_: attention_lab.data.synthetic.recall.Recall
pairs: [0]
"""
    (mine / "missing.yaml").write_text(missing)
    shipped = list_data.group_options
    chosen = {"digits", "missing"}
    monkeypatch.setattr(
        list_data,
        "group_options",
        lambda *where: {name: file for name, file in shipped(*where).items() if name in chosen},
    )
    answer = command("list", "data", "--config-dir", "mine")
    lines = answer.out.splitlines()
    assert lines[1].split(None, 1)[0] == "digits"
    assert lines[2].strip() == (
        "1,251 / 176 / 370; accuracy: trivial baseline 0.0703, nearest class mean 0.914; "
        "Classification with SelfAttentionClassifier"
    )
    assert lines[3].split() == ["missing", *["A", "text", "that", "is", "not", "there"]]
    assert lines[4].strip().startswith("not loaded: ")
    assert "0 pairs" in lines[4]


def test_list_shows_a_users_own_options(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "attention").mkdir(parents=True)
    (tmp_path / "mine" / "attention" / "sharp.yaml").write_text("# Sharper than most\n")
    answer = command("list", "attention", "--config-dir", "mine")
    assert "sharp" in answer.out
    assert "Sharper than most" in answer.out


def test_list_knows_no_directory_that_is_not_there(command: Command) -> None:
    for group in ("attention", "data"):
        answer = command("list", group, "--config-dir", "nowhere")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == "attention-lab: --config-dir nowhere: no such directory\n"


def test_parts_of_options_are_not_options() -> None:
    assert (config_directory() / "attention" / "_layer.yaml").is_file()
    assert "_layer" not in group_options("attention")
