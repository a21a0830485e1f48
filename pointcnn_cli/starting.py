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
    _warn_of_bfloat16(config, device, reporter)
    return device, team


def _warn_of_bfloat16(config: Config, device: str, reporter: Reporter) -> None:
    """TensorFlow 2.21's Conv3D gives garbage in bfloat16 on CPUs with AMX, at depth 1; our layers make it a Conv2D."""
    stock = not config.model.fast and config.train.precision == "mixed_bfloat16"
    if stock and device.startswith("CPU") and name_backend() == "tensorflow":
        reporter.warn(
            "TensorFlow's own Conv3D computes wrongly in bfloat16 on some CPUs; set model.fast to true, or "
            "train.precision to float32"
        )


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
