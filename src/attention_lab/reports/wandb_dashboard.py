"""A dashboard of a comparison in W&B: a workspace and a report, made with ``wandb-workspaces``."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_lab.reports.attention_maps import step_of
from attention_lab.reports.charts.styles import PALETTE, group_styles
from attention_lab.reports.comparison import Comparison
from attention_lab.reports.groups import Group
from attention_lab.reports.headline import headline
from attention_lab.reports.runs import RecordedRun, csv_rows
from attention_lab.reports.wandb_report import wandb_group
from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.record_files import read_json
from attention_lab.tracking.record_schema import check_types
from attention_lab.tracking.untrusted_files import UnreadableRecord

STEP = "trainer/global_step"
#: The first part of a metric's name, and the title of its section, in order.
SECTIONS = {
    "validation": "Validation",
    "test": "Test",
    "train": "Training",
    "cost": "Costs",
    "attention": "Attention",
}
#: The most characters of a title.
LONGEST_TITLE = 128
#: The colour of groups that the report draws in grey.
GREY = "#646a73"


@dataclass(frozen=True)
class Dashboard:
    """The workspace and the report, which can be saved in W&B or written as JSON.

    Args:
        workspace: a ``wandb_workspaces.workspaces.Workspace``.
        report: a ``wandb_workspaces.reports.v2.Report``.
    """

    workspace: Any
    report: Any

    def save(self) -> list[str]:
        """Create both in W&B; returns their addresses."""
        return [self.workspace.save().url, self.report.save().url]

    def specification(self) -> dict[str, Any]:
        """Both as plain values, as W&B's server gets them."""
        parts = {"workspace": self.workspace, "report": self.report}
        return {
            name: part._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, part in parts.items()
        }


@dataclass(frozen=True)
class _Runs:
    """The runs of a comparison in W&B, and how they are shown.

    Args:
        name: the name of the workspace, of the report and of its set of runs.
        filter: a condition that selects the runs, as W&B's filter expression.
        keys: the keys of their config to group by.
        colours: the colour of each run, by the id of its W&B run.
        group_colours: the colour of each group, by its values of the keys.
    """

    entity: str
    project: str
    name: str
    filter: str
    keys: list[str]
    colours: Mapping[str, str]
    group_colours: Mapping[tuple[str, ...], str]


def dashboard(comparison: Comparison, entity: str, project: str, name: str) -> Dashboard:
    """A workspace and a report of a comparison, with its groups in the colours of its page.

    Nothing is sent.

    Args:
        comparison: the comparison.
        entity: the W&B entity that owns them.
        project: the W&B project of the runs.
        name: the name of the workspace and title of the report.
    """
    panels = _panels(comparison)
    groups = sorted({wandb_group(run) for run in comparison.runs})
    runs = _Runs(
        entity,
        project,
        _title(name),
        # A string: Metric("Group").isin(…) does not escape quotes in names.
        f'Metric("Group") in {groups!r}',
        [_config_key(key) for key in _swept(comparison)],
        _run_colours(comparison),
        _group_colours(comparison),
    )
    return Dashboard(_workspace(runs, panels), _report(runs, panels, headline(comparison)))


def _title(name: str) -> str:
    """A name without symbols such as "=" and emojis, which W&B refuses in names of workspaces."""
    letters = (" " if unicodedata.category(letter)[0] == "S" else letter for letter in name)
    return "".join(letters)[:LONGEST_TITLE]


def _workspace(runs: _Runs, panels: Mapping[str, list[Any]]) -> Any:
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces.expr import Config

    group_colours = {
        workspaces.GroupPath(*path): colour for path, colour in runs.group_colours.items()
    }
    colours = {run: workspaces.RunSettings(color=colour) for run, colour in runs.colours.items()}
    return workspaces.Workspace(
        entity=runs.entity,
        project=runs.project,
        name=runs.name,
        sections=[
            workspaces.Section(name=title, panels=some, is_open=True)
            for title, some in panels.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis=STEP),
        runset_settings=workspaces.RunsetSettings(
            filters=runs.filter,
            groupby=[Config(key) for key in runs.keys],
            group_colors=group_colours,
            run_settings=colours,
        ),
    )


def _report(runs: _Runs, panels: Mapping[str, list[Any]], introduction: str) -> Any:
    import wandb_workspaces.reports.v2 as reports

    colours: dict[Any, str] = {**runs.colours}
    for path, colour in runs.group_colours.items():
        keys = [
            reports.RunsetGroupKey(reports.Config(key), value)
            for key, value in zip(runs.keys, path, strict=True)
        ]
        colours[reports.RunsetGroup(runset_name=runs.name, keys=tuple(keys))] = colour
    shown = reports.Runset(
        entity=runs.entity,
        project=runs.project,
        name=runs.name,
        filters=runs.filter,
        groupby=[f"config.{key}" for key in runs.keys],
    )
    blocks: list[Any] = [reports.P(introduction)]
    for title, some in panels.items():
        grid = reports.PanelGrid(runsets=[shown], panels=some, custom_run_colors=colours)
        blocks += [reports.H2(title), grid]
    return reports.Report(
        entity=runs.entity, project=runs.project, title=runs.name, blocks=blocks, width="fluid"
    )


def _panels(comparison: Comparison) -> dict[str, list[Any]]:
    """The panels by the title of their section; sections without panels are left out."""
    import wandb_workspaces.reports.v2 as reports

    metrics = dict.fromkeys(name for run in comparison.runs for name in _columns(run))
    panels: dict[str, list[Any]] = {}
    for prefix, title in SECTIONS.items():
        own = [name for name in metrics if name.partition("/")[0] == prefix]
        if prefix == "test":
            panels[title] = [reports.BarPlot(title=name, metrics=[name]) for name in own]
            continue
        panels[title] = [
            reports.LinePlot(title=shown, x=STEP, y=list(lines))
            for shown, lines in _lines(sorted(own, key=_monitor_first(comparison))).items()
        ]
    if images := _image_keys(comparison.groups):
        panels["Attention"] += [
            reports.MediaBrowser(title="maps", media_keys=images),
            reports.MediaBrowser(title="viewer", media_keys=["attention/viewer"]),
        ]
    if any((run.directory / "predictions.csv").exists() for run in comparison.runs):
        panels["Predictions"] = [
            reports.MediaBrowser(title="predictions", media_keys=["validation/predictions"])
        ]
    return {title: some for title, some in panels.items() if some}


def _monitor_first(comparison: Comparison) -> Any:
    return lambda name: name != f"validation/{comparison.monitor}"


def _lines(metrics: Iterable[str]) -> dict[str, list[str]]:
    """The metrics of each line plot by its title; a summary of attention has a line per layer."""
    plots: dict[str, list[str]] = {}
    for name in metrics:
        prefix, _, rest = name.partition("/")
        title = f"attention/{rest.rpartition('/')[2]}" if prefix == "attention" else name
        plots.setdefault(title, []).append(name)
    return plots


def _columns(run: RecordedRun) -> Sequence[str]:
    """The metrics of a run, without those on slices, which W&B has in tables."""
    names = next(csv_rows(run.directory / "metrics.csv", run.directory), [])
    return [
        name
        for name in names
        if name.count("/") == 1 or (name.startswith("attention/") and name.count("/") == 2)
    ]


def _image_keys(groups: Iterable[Group]) -> list[str]:
    """The keys of the attention images, from the last maps of one run of each group.

    Maps that cannot be read are left out.
    """
    keys: dict[str, None] = {}
    for run in (group.finished[0] for group in groups if group.finished):
        files = (run.directory / "attention").glob("step-*/maps.json")
        last = max(files, key=lambda file: step_of(file.parent), default=None)
        if last is None:
            continue
        try:
            maps = read_json(last, run.directory)
            check_types(last, maps)
        except UnreadableRecord:
            continue
        numbers = Counter[str]()
        for each in maps:
            numbers[each["layer"]] += 1
            keys[f"attention/{each['layer']}/{numbers[each['layer']]}"] = None
    return list(keys)


def _colour(style: int | None) -> str:
    return GREY if style is None else PALETTE[style % len(PALETTE)]


def _run_colours(comparison: Comparison) -> dict[str, str]:
    """The colour of each run's group, by the id of its W&B run."""
    styles = group_styles(comparison)
    return {
        str(run.record["wandb_id"]): _colour(styles.get(group))
        for group in comparison.groups
        for run in group.runs
        if "wandb_id" in run.record
    }


def _group_colours(comparison: Comparison) -> Mapping[tuple[str, ...], str]:
    """The colour of each group, by the values that its W&B runs have for the swept keys."""
    styles, colours = group_styles(comparison), dict[tuple[str, ...], str]()
    for group in comparison.groups:
        config = group.runs[0].config
        values = hyperparameters(config) if "attention" in config else {}
        path = [str(values.get(_config_key(key))) for key in _swept(comparison)]
        colours[tuple(path)] = _colour(styles.get(group))
    return colours


def _swept(comparison: Comparison) -> list[str]:
    """The settings by which runs are grouped."""
    return comparison.swept or ["attention"]


def _config_key(key: str) -> str:
    """The key of a setting in the config of W&B runs."""
    return key.replace(".", "_").replace("/", "_")
