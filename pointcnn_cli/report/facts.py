"""What a page tells, as plain data: gathered once, then judged in words and drawn, without looking at the run again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pointcnn_cli.config.schema import Config
from pointcnn_cli.diagnose.findings import Diagnosis
from pointcnn_cli.report.clouds import Frame, View
from pointcnn_cli.report.scored import ScoredRows
from pointcnn_cli.rundir import RunDir
from pointcnn_cli.splits.parts import PartDescription

Kind = Literal["unseen", "shared", "ungrouped", "other", "trained", "unknown"]


@dataclass(frozen=True)
class Novelty:
    """How new the scored rows were to the network.

    `unseen`: their groups had no training row; `shared`: some had. `ungrouped`: the data have no groups. `other`: rows
    of another file. `trained`: that file is the one trained on. `unknown`: the data are not here to tell.
    """

    kind: Kind
    groups: int | None = None
    """Groups of the scored rows,"""
    shared: int = 0
    """how many of them had training rows,"""
    shared_rows: float = 0.0
    """and the share of the scored rows in them."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A row that was answered wrongly, and with confidence."""

    number: int
    """Of the row, over all files."""
    place: str
    """File, and row in it."""
    group: str | None
    true: str
    predicted: str
    confidence: float
    true_probability: float
    frames: tuple[Frame, ...] = ()
    """() where it could not be drawn."""


@dataclass(frozen=True)
class Mistakes:
    """The most confident mistakes among the scored rows."""

    shown: tuple[Mistake, ...]
    total: int
    view: View | None
    undrawn: str | None
    """Why they are not drawn; None where they are."""


@dataclass(frozen=True, eq=False)
class ReportFacts:
    """Everything that a page of a run tells."""

    run: RunDir
    config: Config
    manifest: Mapping[str, Any]
    parts: tuple[PartDescription, ...]
    notes: tuple[str, ...]
    """What is to be known of the split."""
    history: tuple[Mapping[str, float], ...]
    best_epoch: int | None
    scored: ScoredRows | None
    unscored: str | None
    """Why there is no score; None where there is one."""
    novelty: Novelty
    mistakes: Mistakes | None
    diagnosis: Diagnosis | None
    undiagnosed: str
    """What was left out of the diagnosis, or why there is none."""
    problems: tuple[str, ...] = ()
    """What is wrong with the files of the run, in sentences."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.manifest["classes"])

    @property
    def status(self) -> str:
        """How the training ended."""
        return str(self.manifest["status"])

    @property
    def untrained(self) -> tuple[str, ...]:
        """Classes that have scored rows and no training row."""
        if self.scored is None:
            counted = next((p.classes for p in self.parts if p.name == "validation"), {})
        else:
            counted = {name: one["support"] for name, one in self.scored.metrics["per_class"].items()}
        trained = self.parts[0].classes
        return tuple(name for name in self.classes if counted.get(name) and not trained.get(name))

    @property
    def own_rows(self) -> bool:
        """Whether the score is that of the run's own validation rows, so that the ceiling is that of its curves."""
        return self.novelty.kind not in ("other", "trained")
