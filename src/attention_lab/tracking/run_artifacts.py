"""A run's best checkpoint and viewer as W&B artifacts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attention_lab.tracking.record_files import read_record

#: The files of a run in its artifact.
CONFIG, BEST = "config.yaml", "checkpoints/best.ckpt"


@dataclass(frozen=True)
class RunArtifacts:
    """Logs a run's best checkpoint, with its config, and its viewer as W&B artifacts.

    The checkpoint holds the vocabulary, so that a downloaded run can predict.

    Args:
        directory: the run's directory.
        mechanism: the attention mechanism, as in the config of the W&B run.
        log_model: False: nothing; True: at the end of the run; "all": also each new best
            checkpoint during training. As ``lightning.pytorch.loggers.WandbLogger``.
    """

    directory: Path
    mechanism: str
    log_model: bool | Literal["all"]

    def log_best(
        self,
        run: Any,
        monitor: str,
        score: float,
        step: int,
        policy: Literal["mutable", "immutable"],
    ) -> None:
        """Log the best checkpoint; W&B makes no new version of the same files.

        Args:
            run: the W&B run.
            monitor: the metric that selects the checkpoint.
            score: its value.
            step: the checkpoint's step.
            policy: "mutable": W&B uploads a copy, as the file may change before.
        """
        import wandb

        metadata = {"mechanism": self.mechanism, "step": step, "monitor": monitor, "score": score}
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
        for name in (CONFIG, BEST):
            artifact.add_file(str(self.directory / name), name, policy=policy)
        run.log_artifact(artifact, aliases=["best", "latest"])

    def log_finished(self, run: Any) -> None:
        """Log the best checkpoint and the viewer of a run; nothing of a run that was pruned."""
        import wandb

        if not (self.directory / "result.json").exists():
            return
        result = read_record(self.directory / "result.json")
        monitor = result["monitor"]
        score = result["validation"][monitor]
        self.log_best(run, f"validation/{monitor}", score, result["best_step"], "immutable")
        page = self.directory / "attention" / "attention.html"
        if page.exists():  # there is none if no layer has weights
            viewer = wandb.Artifact(f"attention-{run.id}", type="attention")
            viewer.add_file(str(page), page.name, policy="immutable")
            run.log_artifact(viewer)
