"""Where rows come from: a config names files or the simulator, and what follows does not see which."""

import numpy as np
import pytest

from pointcnn_cli.config.schema import DataConfig, SimulateConfig
from pointcnn_cli.errors import DataError
from pointcnn_cli.hdf5.fingerprint import compute_fingerprint
from pointcnn_cli.hdf5.writing import write_samples
from pointcnn_cli.simulate import simulate_samples
from pointcnn_cli.sources import open_source

SETTINGS = SimulateConfig(windows=24, subjects=4, seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "simulated.h5"
    write_samples(path, simulate_samples(SETTINGS))
    return DataConfig(path=str(path))


def test_simulated_rows_equal_those_of_a_file_that_holds_them(written):
    with open_source(DataConfig(simulate=SETTINGS)) as simulated, open_source(written) as stored:
        assert simulated.index.classes == stored.index.classes
        assert simulated.index.channel_shapes == stored.index.channel_shapes
        for name in ("labels", "groups", "recordings", "start_frames"):
            assert np.array_equal(getattr(simulated.index, name), getattr(stored.index, name))
        for one, other in zip(simulated.read(np.arange(24)), stored.read(np.arange(24)), strict=True):
            assert one.tobytes() == other.tobytes()
        assert simulated.index.files[0].path == "<simulated>"


def test_simulated_rows_come_back_by_their_fingerprint():
    data = DataConfig(simulate=SETTINGS)
    with open_source(data) as first, open_source(data) as second:
        assert compute_fingerprint(first) == compute_fingerprint(second)
    with open_source(data) as one, open_source(DataConfig(simulate=SETTINGS.model_copy(update={"seed": 4}))) as other:
        assert compute_fingerprint(one) != compute_fingerprint(other)


def test_classes_are_mapped_to_the_expected_order(written):
    with open_source(written) as source:
        names, labels = source.index.classes, source.index.labels
    with open_source(written, expected_classes=names[::-1]) as source:
        assert source.index.classes == names[::-1]
        assert np.array_equal(source.index.labels, len(names) - 1 - labels)


def test_a_missing_file_is_an_error_and_never_simulated(tmp_path):
    with pytest.raises(DataError, match=r"missing\.h5"):
        open_source(DataConfig(path=str(tmp_path / "missing.h5")))
