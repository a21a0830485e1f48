"""Keras started for a training: backend, device, and the processes and devices that train together."""

from pointcnn_cli.config.load import dump_config
from pointcnn_cli.config.schema import Config
from pointcnn_cli.distribution import Team, build_team
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.hdf5.samples import Source
from pointcnn_cli.joining import ALONE, Place, join
from pointcnn_cli.reporting import Reporter
from pointcnn_cli.runtime import (
    NAMES,
    choose_device,
    describe_environment,
    enable_determinism,
    import_keras,
    limit_threads,
    name_backend,
)
from pointcnn_cli.splits.parts import Split


def start_keras(config: Config, reporter: Reporter, place: Place = ALONE) -> tuple[str, Team]:
    """The device in words, and those that train together."""
    if place.count > 1:
        reporter.say(f"process {place.index} of {place.count}: meeting the others at {place.address}")
        join(place)
    reporter.detail(f"importing {NAMES[name_backend()]}")
    with reporter.waiting(f"starting {NAMES[name_backend()]}"):
        limit_threads(config.train.threads)
        import_keras()
    device = choose_device(config.train.device)
    team = build_team(config.train.device, place)
    if team.devices > 1:
        device += f" x {team.devices}" + (f" in {team.count} processes" if team.count > 1 else "")
    if config.train.deterministic:
        enable_determinism()
    reporter.say(f"device: {device}")
    return device, team


def check_team(team: Team, config: Config, source: Source, split: Split, epoch: int) -> None:
    """Raise ConfigError or DataError unless all processes are about to train the same, from the state of `epoch`."""
    if team.count == 1:
        return
    environment = describe_environment("")
    team.check_agreement(
        {
            "config": dump_config(config),
            "data": repr(compute_fingerprint(source)),
            "split": repr([part.tolist() for part in (split.train, split.validation)]),
            "pointcnn": repr((environment["pointcnn"], environment["packages"])),
            "state": str(epoch),
        }
    )
