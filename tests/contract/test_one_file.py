"""A mechanism of any kind is one file and one YAML: nothing else is edited or registered."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HEADER = """\
from typing import Unpack
from torch import Tensor, nn
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.layer import AttentionLayer, LayerOptions
from attention_lab.attention.masks import Mask
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.normalizers import Normalizer
from attention_lab.attention.positions import Positions
from attention_lab.attention.scores.base import DotProductFamily
"""
#: By kind: where its YAML is, further lines of the YAML, and its class.
KINDS = {
    "score": (
        "attention/score",
        "_partial_: true\n",
        """
class Mine(DotProductFamily):
    formula, paper = "2 q·k", "mine"

    def fold(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, float]:
        return query, key, 2.0
""",
    ),
    "normalizer": (
        "attention/normalizer",
        "_partial_: true\n",
        """
class Mine(Normalizer):
    formula, paper = "softmax(2 l)", "mine"

    def forward(self, logits: Tensor, visible: Tensor | None = None) -> Tensor:
        return (logits - logits.amax(-1, keepdim=True)).mul(2).softmax(-1)
""",
    ),
    "positions": (
        "attention/positions",
        "_partial_: true\n",
        """
class Mine(Positions):
    formula, paper = "2 q, k", "mine"

    def place(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return 2 * query, key
""",
    ),
    "mask": (
        "attention/mask",
        "",
        """
class Mine(Mask):
    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < 3
""",
    ),
    "mechanism": (
        "attention",
        "defaults: [_heads, _self_]\nfactor: 3.0\ntile: 8\n",
        """
class Mine(AttentionLayer):
    info = MechanismInfo(
        formula="mean", paper="mine", time="L·S·w", symbols={"w": "factor"}, distribution=False,
        speed_arguments=("tile",), contract_arguments={"factor": 2.0},
    )

    def __init__(
        self, embed_dim: int, kdim: int | None = None, *, factor: float, tile: int,
        **layer: Unpack[LayerOptions],
    ) -> None:
        super().__init__(embed_dim, kdim, **layer)
        self.factor = factor

    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        inputs, visible = inputs.repeat_heads(), inputs.visible()
        size = (*inputs.query.shape[:3], inputs.key.shape[2])
        weights = inputs.query.new_ones(size)
        weights = weights if visible is None else weights * visible
        weights = self.factor * weights / weights.sum(-1, keepdim=True).clamp(min=1)
        return weights @ inputs.value, weights if inputs.need_weights else None
""",
    ),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with a mechanism of each kind, in one file and one YAML each."""
    for kind, (folder, lines, code) in KINDS.items():
        (tmp_path / f"my_{kind}.py").write_text(HEADER + code)
        node = tmp_path / "conf" / folder / f"my_{kind}.yaml"
        node.parent.mkdir(parents=True, exist_ok=True)
        node.write_text(f"# A {kind} of a user\n{lines}_target_: my_{kind}.Mine\n")
    return tmp_path


def test_one_file_and_one_yaml_are_enough(package: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=package,
            env={"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = run("attention_lab", "list", "attention", "--config-dir", "conf")
    shown = run("attention_lab", "list", "attention", "my_mechanism", "--config-dir", "conf")
    assert "cannot be used" not in shown
    assert "w factor" in shown
    contract = ("pytest", "-v", "-p", "no:cacheprovider", "--pyargs", "attention_lab.contract")
    tests = "(test_own_mask or test_every_argument or test_hidden_keys) and my_"
    checked = run(*contract, "--attention-lab-config-dir", "conf", "-k", tests)
    for kind in KINDS:
        assert f"A {kind} of a user" in listed or f"  my_{kind} " in listed, kind
        test = "test_own_mask" if kind == "mask" else "test_hidden_keys_do_not_matter"
        assert re.search(rf"::{test}\[\S*my_{kind}\b\S* PASSED", checked), kind
    assert "::test_every_argument_has_an_effect[my_mechanism-cpu] PASSED" in checked
