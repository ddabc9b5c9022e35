"""Lightning has the private attributes that we use; these tests fail if an upgrade changes them.

test_preemption.py, test_resume.py and test_run.py test what they are used for.
"""

import inspect

from lightning import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from attention_lab.training.lightning_loops import disable_signal_handlers


def test_lightning_registers_signal_handlers_in_the_method_that_we_replace() -> None:
    trainer = Trainer(accelerator="cpu", logger=False)
    assert isinstance(trainer._signal_connector, _SignalConnector)
    assert "_signal_connector.register_signal_handlers()" in inspect.getsource(Trainer._run)
    disable_signal_handlers(trainer)
    assert trainer._signal_connector.register_signal_handlers() is None


def test_lightnings_loops_have_the_attributes_that_we_set() -> None:
    loop = Trainer(accelerator="cpu", logger=False).fit_loop.epoch_loop
    assert loop.max_steps == -1
    assert isinstance(loop.val_loop, _EvaluationLoop)
    assert loop.val_loop._has_run is False
    assert loop.val_loop.restarting is False
    assert callable(loop.val_loop.reset_restart_stage)
