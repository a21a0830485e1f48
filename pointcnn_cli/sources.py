"""Where a config's rows come from: files, or the simulator."""

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.hdf5.samples import ArraySource, Source


def open_source(
    data: DataConfig, *, labels_required: bool = True, expected_classes: tuple[str, ...] | None = None
) -> Source:
    """Open the rows that `data` names; see `hdf5.reading.open_hdf5`, whose errors these are."""
    if data.simulate is None:
        return open_hdf5(data, labels_required=labels_required, expected_classes=expected_classes)
    from pointcnn_cli.simulate import simulate_samples

    return ArraySource(simulate_samples(data.simulate))
