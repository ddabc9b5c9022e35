"""The Python API in a notebook: the one in the docs, and an interrupted cell."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from attention_lab.tracking.run_status import read_status

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


@pytest.fixture(autouse=True)
def _quiet_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def outputs(notebook: Any) -> list[str]:
    """The outputs of each code cell, as one text."""
    return [
        "".join(str(it.get("text") or it.get("data")) for it in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook_of_the_docs_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = outputs(notebook)
    assert "Output()" in shown[1], "no progress bar"
    assert "'per'" in shown[1]
    assert "<iframe srcdoc=" in shown[4]
    assert shown[6].count("scaled_dot_product") >= 2
    assert len(list((tmp_path / "outputs" / "notebook").glob("*/result.json"))) == 4


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel in an empty directory."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def wait_for_output(client: BlockingKernelClient, cell: str, text: str) -> None:
    """Wait until a cell, given by the id of its request, prints a text."""
    deadline, printed = time.monotonic() + 300, []
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)
        except Empty:
            continue
        if message["parent_header"].get("msg_id") != cell:
            continue
        printed.append(message["content"])
        assert message["msg_type"] != "error", printed
        if text in str(message["content"]):
            return
    raise AssertionError(f"the cell has not printed {text!r}, but {printed}")


def wait_until_resumed(run: Path) -> None:
    deadline = time.monotonic() + 300
    while not json.loads((run / "status.json").read_text())["resumed"]:
        assert time.monotonic() < deadline, read_status(run)
        time.sleep(0.1)


def reply(client: BlockingKernelClient, cell: str) -> dict[str, Any]:
    """The reply to a cell; a slow kernel has also replied to questions whether it is ready."""
    while True:
        message = client.get_shell_msg(timeout=60)
        if message["parent_header"].get("msg_id") == cell:
            content: dict[str, Any] = message["content"]
            return content


def test_an_interrupted_cell_resumes_when_it_is_run_again(
    kernel: tuple[KernelManager, BlockingKernelClient], tmp_path: Path
) -> None:
    manager, client = kernel
    code = (
        "import attention_lab as al\n"
        'config = al.compose("data=digits", "model=self_attention_classifier", "trainer=cpu",\n'
        '    "trainer.max_epochs=1000")\n'
        'run = al.train(config, "run")'
    )
    cell = client.execute(code)
    wait_for_output(client, cell, "step 80/")  # the checkpoint of step 40 is then on the disk
    manager.interrupt_kernel()
    assert reply(client, cell)["ename"] == "KeyboardInterrupt"
    assert read_status(tmp_path / "run").state == "preempted"
    assert psutil.Process(manager.provisioner.pid).children(recursive=True) == []

    cell = client.execute(code)
    wait_until_resumed(tmp_path / "run")
    manager.interrupt_kernel()
    assert reply(client, cell)["ename"] == "KeyboardInterrupt"
