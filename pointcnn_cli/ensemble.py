"""The ensemble of a cross-validation: its members answer for every row, and their probabilities are averaged.

Weights are never averaged: one network takes those of each member in turn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointcnn_cli.config.schema import Config
from pointcnn_cli.cvdir import CvDir, Member, build_member_config, check_member, is_cv, list_members, read_config
from pointcnn_cli.errors import RunError
from pointcnn_cli.prediction import LoadedRun, Predictor, Trained, load_run
from pointcnn_cli.reporting import Reporter


@dataclass(frozen=True)
class LoadedEnsemble:
    """What a cross-validation says of itself and of its finished members, without their models."""

    cv: CvDir
    config: Config
    """Of the whole; members differ from it in fold and seed."""
    members: tuple[LoadedRun, ...]
    places: tuple[Member, ...]
    """Fold and seed of each of `members`."""

    @property
    def path(self) -> Path:
        """The directory."""
        return self.cv.path

    @property
    def runs(self) -> tuple[LoadedRun, ...]:
        """The members."""
        return self.members

    @property
    def manifest(self) -> dict[str, Any]:
        """That of the first member: what it says of classes, shapes and data holds for all."""
        return self.members[0].manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the outputs."""
        return self.members[0].classes

    def build_predictor(self, calibrated: bool = False) -> Predictor:
        """One network and the weights of every member. Raises RunError, also where `calibrated` and a member has no
        temperature."""
        temperatures = tuple(member.read_temperature() for member in self.members) if calibrated else None
        weights = [member.read_weights() for member in self.members]
        epochs = {epoch for _, _, epoch in weights}
        return Predictor(
            self.members[0].build_network(),
            tuple(arrays for _, arrays, _ in weights),
            temperatures,
            f"the weights of each of {len(self.members)} members of {self.path}",
            epochs.pop() if len(epochs) == 1 else None,
        )


def load_trained(path: Path, reporter: Reporter) -> Trained:
    """A run or, where `path` is the directory of a cross-validation, its ensemble. Raises RunError."""
    return load_ensemble(path, reporter) if is_cv(path) else load_run(path, reporter)


def load_ensemble(path: Path, reporter: Reporter) -> LoadedEnsemble:
    """The finished members of a cross-validation; the others are named in a warning, and left out.

    Raises RunError where none is finished, or one was trained otherwise than cv.json asks.
    """
    cv = CvDir.open(path)
    manifest = cv.read_manifest()
    config, places = read_config(cv, manifest), list_members(manifest)
    finished = tuple(place for place in places if cv.is_finished(place))
    if not finished:
        raise RunError(f"{path}: none of its {len(places)} members is finished", "run the pointcnn cv command again")
    if left := [place.name for place in places if place not in finished]:
        reporter.warn(
            f"{path}: {len(left)} of {len(places)} members are not finished and are left out: {', '.join(left)}"
        )
    members = tuple(load_run(cv.run(place).path, reporter) for place in finished)
    for place, member in zip(finished, members, strict=True):
        check_member(member.run, build_member_config(config, place))
    return LoadedEnsemble(cv, config, members, finished)
