"""Wrong commands: one clear line, exit code 2, and nothing is created."""

import os
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, Command, after_checking

WRONG = {
    "data.num_workers=2": "data.num_workers: the training process makes the batches, since a run ",
    "data.pin_memory=true": "data.pin_memory: batches for a GPU are always pinned",
    "trainer.patience=5": "trainer.patience: there is no such key; did you mean "
    "callbacks=early_stopping callbacks.early_stopping.patience?\n",
    "callbacks=[ema,lr_monitr]": "callbacks=lr_monitr: there is no such option; did you mean lr_mo",
    "callbacks=[ema,timer] callbacks.ema.decy=1": "callbacks.ema.decy: there is no such key; "
    "did you mean callbacks.ema.decay?\n",
    "callbacks.ema.decay=0.5": "callbacks.ema.decay: callbacks=default has no such key; "
    "callbacks=ema has it\n",
    "callbacks=[ema,3]": "callbacks=[ema,3]: must be the name of an option; available: checkpoint_",
    "callbacks=[ema,swa]": "callbacks.ema and callbacks.swa both average the weights; remove one",
    "attention=aditive": "attention=aditive: there is no such option; did you mean additive?",
    "atention=additive": "atention: there is no such key; did you mean attention?",
    "attention.num_head=4": "attention.num_head: there is no such key; did you mean attention.num_",
    "atention.num_hed=4": "atention.num_hed: there is no such key; did you mean attention.num_",
    "attention/normalizer=top_k attention.normalizer.k=0": "attention.normalizer: k must be at",
    "lr=0.1": "lr: there is no such key; did you mean optimizer.lr?",
    "foo.bar=1": "foo.bar: there is no such key; available: sweep, seed, attention, model, "
    "task, data, optimizer, scheduler, parameter_groups, trainer and 2 more\n",
    "optimizer.foo=1": "optimizer.foo: there is no such key; available: optimizer.lr, "
    "optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.amsgrad",
    "logger=[csv,csv]": "logger=[csv,csv]: csv is chosen twice",
    "sweep.tune=optimizer.nosuch": "sweep.tune=optimizer.nosuch: there is no such key",
    "attention=zzz": "attention=zzz: there is no such option; available: additive, biaffine, "
    "concat, cosine, differential, dot_product, gated, general, grouped_query, l2 and ",
    "attention.mask.window=5": "attention.mask.window: attention/mask=none has no such key; "
    "attention/mask=dilated or sliding_window has it\n",
    "attention.projected_length=4": "attention.projected_length: attention=scaled_dot_product "
    "has no such key; attention=linformer has it\n",
    "attention/feature_map=elu": "attention/feature_map: attention=scaled_dot_product has no such "
    "key; attention=linear or performer has it\n",
    "model.cell=gru": "model.cell: model=encoder_decoder has no such key; "
    "model=recurrent_encoder_decoder has it\n",
    "mask=causal": "there is no group mask; did you mean attention/mask=causal?\n",
    "score=cosine,l2 -m": "there is no group score; did you mean attention/score=cosine,l2?\n",
    "positions=alibi": "there is no group positions; did you mean attention/positions=alibi?\n",
    "normalizer=sharp": "there is no group normalizer; did you mean attention/normalizer?\n",
    "attention.mask=causal": "attention.mask: must be a mapping, got 'causal'; "
    "did you mean attention/mask=causal?\n",
    "attention=aditive -m seed=1,2": "attention=aditive: there is no such option; did you",
    "attention.mask=causal -m seed=1,2": "attention.mask: must be a mapping, got 'causal'; ",
    "+attention.num_head=4": "attention.num_head: ScoredAttention has no such key; did you mean nu",
    "optimizer.lr=abc": "optimizer.lr: input should be a valid number; got 'abc'",
    "trainer.max_epochs=1.5": "trainer.max_epochs: input should be a valid integer",
    "attention.num_heads=0": "attention: num_heads must be at least 1, got 0",
    "attention.num_heads=3": "attention: embed_dim=16 is not divisible by num_heads=3",
    "attention.dropout=1.5": "attention: dropout must be in [0, 1), got 1.5",
    "optimizer.lr=-1": "optimizer: Invalid learning rate: -1",
    "model=self_attention_classifier": "model: SelfAttentionClassifier is for classification, but "
    "the data is for sequence_to_sequence",
    "attention.score._target_=torch.load": "attention.score._target_: torch.load is not a",
    "attention/mask=sliding_window attention.mask.window=0": "attention.mask: window must be "
    "at least 1, got 0",
    "attention/positions=learned attention.positions.max_length=4": "encoder.0.self_attention: ",
    "attention/normalizer=sparsemax attention.backend=sdpa": "attention: backend=sdpa cannot be",
    "attention.backend=flex": "encoder.0.self_attention: backend=flex cannot train on the cpu; ",
    "attention=linformer": "model: Linformer cannot be causal",
    "attention=nystrom": "model: NystromAttention attends within one sequence only",
    "attention=none attention/positions=rotary": "attention: Uniform uses neither queries nor keys",
    "attention=l2 attention/normalizer=relu": "attention: ReLU gives weight to positive",
    "attention/score=null": "attention/score=null: must be the name of an option; available: ",
    "attention=[1,2]": "attention=[1,2]: only one option can be chosen, as attention=additive",
    "attention=3 -m seed=1,2": "attention=3: must be the name of an option; available: additive",
    "@attention=additive": "@attention=additive: starts with @; use GROUP@PACKAGE=OPTION",
    "attention": "attention: not an override; use KEY=VALUE, or ~KEY to remove a key",
    "optimizer.lr=1,": "optimizer.lr=1,: cannot be parsed; quote the value, if it is one: ",
    "optimizer.lr=int(x)": "optimizer.lr=int(x): an error in 'int(x)': ",
    "data.limit=1,2": "data.limit=1,2: several values; add -m to sweep over them, or quote ",
    "+attention.num_heads=2": "+attention.num_heads: the config has this key already; leave out ",
    "sweep.retry=[x]": "sweep.retry=x: only failed or diverged runs can be run again",
    "+sweep.nope=3": "sweep.nope: there is no such key; available: zip",
    "hydra.launcher.parallel=x": "hydra.launcher.parallel: input should be a valid integer; got",
    "logger=wandb logger.wandb.project=": "logger.wandb.project: is empty; name a W&B project",
    "--config-dir=": "--config-dir: needs the path of a directory",
    f"seed={'9' * 5000}": "seed=999",
    "--nosuch": "--nosuch: no such flag; see `attention-lab train --help`",
    f"--config-dir={'x' * 300}": "--config-dir xxx",
    f"hydra/{'x' * 300}=1": "hydra/xxx",
    f"{'x' * 300}/y=1": "xxx",
    "--confg=job": "--confg=job: no such flag; did you mean --cfg?",
    "--cfg=nope": "argument --cfg/-c: invalid choice: 'nope' (choose from",
    "hydra.run.dir=": "hydra.run.dir: must be the path of a directory, got ''",
    "hydra/sweeper/pruner=median": "hydra/sweeper/pruner: needs hydra/sweeper=search or",
    "hydra.launcher=slurm": "hydra.launcher: must be a node of keys, got 'slurm'; did you mean "
    "hydra/launcher=slurm?",
    "sweep=1 -m seed=1,2": "sweep: must be a node of keys, got 1; leave it out",
    f"hydra.run.dir=a/{'x' * 300}": "hydra.run.dir: the name xxx",
    f"optimizer.lr={'x' * 100_000}": "optimizer.lr: input should be a valid number; got 'xxx",
    "attention=[": "",
    "data=recall attention@model.hybrid.a=linear": "attention@model.hybrid.a: the config has no "
    "such key; put + before it to add it",
    "data=recall model.hybrid.a=linear": "model.hybrid.a: there is no such key; did you mean "
    "+attention@model.hybrid.a=linear?\n",
    "data=recall +model.hybrid.a=linear": "model.hybrid.a: must be a mapping, got 'linear'; "
    "did you mean +attention@model.hybrid.a=linear?\n",
    "data=recall model.hybrid=linear": "model.hybrid: must be a mapping, got 'linear'; did "
    "you mean +attention@model.hybrid.a=linear?\n",
    "model.self_attention=cosine": "model.self_attention: must be a mapping, got 'cosine'; "
    "did you mean +attention@model.self_attention=cosine?\n",
    "data=recall model.conv_kernel_size=0": "model: conv_kernel_size must be at least 1, "
    "or null for none, got 0\n",
    "seed=-1": "seed: must be a whole number from 0",
    "+attention@seed=concat": "seed: must be a whole number, not an option or a list",
    "callbacks=[null]": "callbacks=[null]: must be the name of an option; available: checkpoint_",
    "hydra.verbose=1": "hydra.verbose: must be true, false or names of loggers, got 1",
    "seed=range(0,1000000000) -m": "seed=range(0,1000000000): has 1,000,000,000 values; at most",
    "seed=shuffle(range(0,10000000)) -m": "seed=shuffle(range(0,10000000)): has 10,000,000 values",
    "seed=int(range(1e9)) -m": "seed=int(range(1e9)): has 1,000,000,000 values; at most 100,000",
    "seed=range(100000) data.limit=range(100000) -m": "the sweep has 10,000,000,000 jobs; at most",
    "hydra.sweeper.params={seed:'range(1000000000)'} -m": "seed=range(1000000000): has 1,000,000,",
    "sweep.param_grid=[{seed:'range(1000000000)'}] -m": "seed=range(1000000000): has 1,000,000,000",
    f"trainer={'x' * 300}": "trainer=xxx",
    "sweep=[a,b]": "Error merging override sweep=[a,b]: a list and keys with values cannot be",
    "hydra.sweeper.params=x -m": "hydra.sweeper.params: must be a mapping of keys, got 'x'",
    "attention.dropout=${oc.env:NOPE}": "attention.dropout: the environment variable NOPE is not",
    "data=text model=decoder data.path=[~/a,~/b]": "data.path=[~/a,~/b]: cannot be parsed; quote "
    'the value, if it is one: \'data.path=["~/a","~/b"]\'\n',
    f"data=labels model=encoder_classifier data.train={'x' * 300}": "xxx",
    "optimizer.lr=${nosuch}": "optimizer.lr: interpolation key 'nosuch' not found\n",
    "hydra.job.env_copy=[${nosuch}]": "Interpolation key 'nosuch' not found\n",
    "hydra.job.env_copy=[NO_SUCH]": "hydra.job.env_copy: the environment variable NO_SUCH is not "
    "set\n",
    "+hydra.job.chdir=${nosuch}": "hydra.job.chdir: interpolation key 'nosuch' not found\n",
    "optimizer.lr=${nosuch:1}": "optimizer.lr: unsupported interpolation type nosuch\n",
    "optimizer.lr=???": "optimizer.lr: must be set\n",
    "+experiment.seed=1": "experiment: its file needs the first line `# @package _global_`\n",
    "data=parity model.self_attention.bias=true": "model.self_attention.bias: there is no such "
    "key; model.self_attention is ${attention}, did you mean attention.bias?\n",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_command_gives_one_line_and_creates_nothing(
    command: Command, tmp_path: Path, mistake: str
) -> None:
    tiny = [] if mistake.startswith(("model=", "data=")) else TINY
    answer = command("train", *tiny, *mistake.split())
    assert answer.code == 2
    assert answer.out in ("", "checking 2 jobs …\n" if "-m" in mistake.split() else "")
    assert answer.err.startswith(f"attention-lab: {WRONG[mistake]}")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_names_the_option_that_has_it(command: Command) -> None:
    answer = command("train", "data=digits", "data.limit=5")
    says = "data.limit: data=digits has no such key; data=g2p has it"
    assert answer == (2, "", f"attention-lab: {says}\n")


def test_suggestions_include_a_users_options(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "attention" / "mask").mkdir(parents=True)
    (tmp_path / "mine" / "attention" / "mask" / "holes.yaml").write_text(
        "_target_: holes.Holes\nevery: 3\n"
    )
    for own in (["--config-dir", "mine"], ["-cd", "mine"], ["--config-dir=mine"]):
        answer = command("train", "attention.mask.every=2", *own)
        assert answer.code == 2
        assert answer.err.endswith("; attention/mask=holes has it\n")


def test_a_missing_environment_variable_is_named_with_its_key_and_file(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    file = tmp_path / "mine" / "optimizer" / "own.yaml"
    file.write_text("defaults: [adamw, _self_]\nlr: ${oc.env:NOPE}\n")
    for more in ((), ("-m", "seed=1,2")):
        answer = command("train", "data=parity", "--config-dir", "mine", "optimizer=own", *more)
        answer = answer._replace(out=after_checking(answer.out))
        says = "the environment variable NOPE is not set, and mine/optimizer/own.yaml needs it"
        assert answer == (2, "", f"attention-lab: optimizer.lr: {says}\n")


def test_a_users_dataset_without_a_task_gets_a_message_how_to_set_one(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    file = tmp_path / "mine" / "data" / "images.yaml"
    own = "_target_: attention_lab.data.bundled.digits.Digits\nbatch_size: 32\n"
    file.write_text(own)
    arguments = ["--config-dir", "mine", "data=images", "model=self_attention_classifier"]
    arguments += ["trainer=cpu", "trainer.max_steps=1", "logger=csv", "hydra.run.dir=run"]
    answer = command("train", *arguments)
    advice = "defaults: [/task@_global_: classification]"
    says = f"task: the dataset's YAML file chooses none; add `{advice}` to it"
    assert answer == (2, "", f"attention-lab: {says}\n")
    file.write_text(f"{advice}\n{own}")
    assert command("train", *arguments).code == 0


def test_an_unsupported_backend_is_refused_with_a_supported_one(command: Command) -> None:
    answer = command("train", *TINY, "attention=additive", "attention.backend=sdpa")
    assert answer.code == 2
    assert "it cannot compute the score Additive; fused or eager works" in answer.err


def test_existing_directories_are_not_removed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert command("train", "attention.num_heads=0", "hydra.run.dir=mine/run").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--config-dir", "closed"], 2, "--config-dir closed: permission denied"),
        (["evaluate", "closed"], 1, "closed: permission denied"),
    ],
)
def test_an_unreadable_directory_is_one_line(
    command: Command, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user can read every directory")
    assert command(*arguments) == (code, "", f"attention-lab: {says}\n")
