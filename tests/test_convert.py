"""`convert_files` on arrays (.npy, .npz, .mat): what is accepted, what is refused and in which words."""

import io
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.convert.arrays import check_declared_size
from pointcnn_cli.convert.files import ConvertSummary, convert_files
from pointcnn_cli.errors import DataError, MissingDependencyError, OutputError, PointcnnError, UsageError
from pointcnn_cli.hdf5.reading import open_hdf5

NAMES = ("channel_1", "channel_2", "channel_3", "channel_4")
ROWS, POINTS, FRAMES = 6, 5, 4
LABELS = np.array([2, 0, 1, 0, 2, 1])
GROUPS = np.array([7, 7, 3, 3, 9, 9])


def make_arrays(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Four channels (rows, 3 or 1, points, frames), labels and groups; every value differs, so order can be seen."""
    arrays = {}
    for name, depth in zip(NAMES, (3, 1, 1, 1), strict=True):
        values = np.arange(rows * depth * POINTS * FRAMES, dtype="float32") + 1
        arrays[name] = values.reshape(rows, depth, POINTS, FRAMES)
    return arrays | {"label": LABELS[:rows], "group": GROUPS[:rows]}


def save_npy(folder: Path, arrays: dict[str, np.ndarray]) -> list[Path]:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return [folder / f"{name}.npy" for name in arrays]


def save_matlab73(path: Path, arrays: dict[str, np.ndarray], kinds: dict[str, str] | None = None) -> Path:
    """A v7.3 file as MATLAB writes it: a user block, axes reversed, the class in an attribute."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            dataset = file.create_dataset(name, data=np.transpose(values))
            dataset.attrs["MATLAB_class"] = np.bytes_((kinds or {}).get(name, "double"))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def convert(inputs: list[Path] | Path, output: Path, **settings) -> ConvertSummary:
    inputs = inputs if isinstance(inputs, list) else [inputs]
    settings = {"channel_names": NAMES, "labels_name": "label", "groups_name": "auto"} | settings
    return convert_files(inputs, output, **settings)


def refused(error: type[PointcnnError], inputs: list[Path] | Path, output: Path, **settings) -> str:
    """The message of the refusal; nothing was written."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(error) as caught:
        convert(inputs, output, **settings)
    assert sorted(output.parent.iterdir()) == before
    return f"{caught.value.message}\nhint: {caught.value.hint}"


def check_content(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The file holds the arrays, in their order, and the package's own reader takes it."""
    with h5py.File(path) as file:
        for name in NAMES:
            np.testing.assert_array_equal(file[name][..., 0], arrays[name])
            assert file[name].dtype == arrays[name].dtype
        names = [str(n) for n in file["label"].attrs["classes"]]
        assert [names[i] for i in file["label"][:]] == [str(v) for v in arrays["label"]]
    with open_hdf5(DataConfig(path=str(path))) as source:
        assert source.index.rows == len(arrays["label"])
        assert [source.index.group_names[i] for i in source.index.groups] == [str(v) for v in arrays["group"]]


# --- .npy ---


def test_npy_files_by_position_keep_order_and_dtype(tmp_path):
    arrays = make_arrays()
    summary = convert(save_npy(tmp_path, arrays), tmp_path / "out.h5")
    check_content(tmp_path / "out.h5", arrays)
    assert (summary.rows, summary.classes, summary.class_rows, summary.groups) == (6, ("0", "1", "2"), (2, 2, 2), 3)
    assert len(summary.files) == 6
    assert summary.notes == ()


def test_npy_without_groups_says_so_and_a_last_axis_of_one_is_taken(tmp_path):
    arrays = make_arrays()
    del arrays["group"]
    arrays["channel_2"] = arrays["channel_2"][..., None]
    summary = convert(save_npy(tmp_path, arrays), tmp_path / "out.h5")
    assert summary.groups == 0
    assert "no groups" in summary.notes[0]
    with h5py.File(tmp_path / "out.h5") as file:
        assert "group" not in file
        assert file["channel_2"].shape == (ROWS, 1, POINTS, FRAMES, 1)


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        (np.array(["walk", "box", "walk", "jump", "box", "box"]), ("box", "jump", "walk"), [2, 0, 2, 1, 0, 0]),
        (np.array([b"b", b"a", b"b", b"a", b"b", b"a"]), ("a", "b"), [1, 0, 1, 0, 1, 0]),
        (np.array([10.0, 9.0, 10.0, 9.0, 9.0, 10.0]), ("9", "10"), [1, 0, 1, 0, 0, 1]),
        (np.eye(4)[LABELS], ("0", "1", "2", "3"), LABELS.tolist()),
    ],
    ids=["text", "bytes", "whole floats", "one-hot with an empty class"],
)
def test_labels_may_be_text_whole_floats_or_one_hot(tmp_path, labels, classes, codes):
    summary = convert(save_npy(tmp_path, make_arrays() | {"label": labels}), tmp_path / "out.h5")
    assert summary.classes == classes
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["label"][:].tolist() == codes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_3": make_arrays(5)["channel_3"]}, ["channel 3", "rows", "5"]),
        ({"channel_4": np.ones((6, 1, 5, 3), "f4")}, ["channel 4", "frames", "3"]),
        ({"channel_1": np.ones((6, 5, 4, 3), "f4")}, ["channel 1", "(6, 5, 4, 3)", "depth last?"]),
        ({"channel_2": np.ones((6, 1, 5, 4), complex)}, ["channel 2", "complex128"]),
        ({"channel_2": np.full((6, 1, 5, 4), np.nan, "f4")}, ["channel 2", "120 values in 6 rows", "NaN"]),
        ({"channel_2": np.full((6, 1, 5, 4), 1e300)}, ["channel 2", "beyond float32"]),
        ({"label": np.array([0, 1, 2])}, ["labels", "(3,)", "6 rows"]),
        ({"label": np.array([0.5, 1, 2, 0, 1, 2])}, ["labels", "row 0 is 0.5"]),
        ({"label": np.array(["a", "", "b", "a", "b", "a"])}, ["labels", "row 1 is empty"]),
        ({"label": np.array([-1, 0, 1, 0, 1, -1])}, ["labels", "-1", "negative"]),
        ({"label": np.ones((6, 3))}, ["labels", "not one-hot"]),
        ({"group": np.array([1, 2])}, ["groups", "(2,)", "6 rows"]),
        ({"group": np.array(["a\nb"] * 6)}, ["groups", "unusable name"]),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, words):
    message = refused(DataError, save_npy(tmp_path, make_arrays() | change), tmp_path / "out.h5")
    assert [word for word in words if word not in message] == [], message


def test_too_few_and_too_many_npy_files_are_named(tmp_path):
    paths = save_npy(tmp_path, make_arrays())
    assert "no file for channel 4, labels" in refused(DataError, paths[:3], tmp_path / "out.h5")
    assert "7 files" in refused(DataError, [*paths, paths[0]], tmp_path / "out.h5")


def test_pickled_npy_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "trapped",)

    paths = save_npy(tmp_path, make_arrays())
    np.save(paths[4], np.array([Trap()] * ROWS, dtype=object), allow_pickle=True)
    assert "pickle" in refused(DataError, paths, tmp_path / "out.h5")
    paths[4].write_bytes(pickle.dumps(Trap()))
    assert "not a whole .npy file" in refused(DataError, paths, tmp_path / "out.h5")
    assert not (tmp_path / "trapped").exists()


def test_truncated_npy_and_a_header_that_claims_too_much_are_refused(tmp_path):
    paths = save_npy(tmp_path, make_arrays())
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-8])
    assert "channel_2.npy: not a whole .npy file" in refused(DataError, paths, tmp_path / "out.h5")
    paths[1].write_bytes(b"")
    assert "channel_2.npy: not a whole .npy file" in refused(DataError, paths, tmp_path / "out.h5")
    paths[1].write_bytes(whole.replace(b"(6, 1, 5, 4), }", b"(9999999999,)}"))
    assert "channel_2.npy: not a whole .npy file" in refused(DataError, paths, tmp_path / "out.h5")


# --- .npz ---


def test_npz_by_names(tmp_path):
    arrays = make_arrays()
    np.savez_compressed(tmp_path / "in.npz", **arrays, other=np.zeros(3))
    convert(tmp_path / "in.npz", tmp_path / "out.h5")
    check_content(tmp_path / "out.h5", arrays)


def test_missing_names_are_all_named_with_what_is_there(tmp_path):
    np.savez(tmp_path / "in.npz", **{n: v for n, v in make_arrays().items() if n not in ("channel_2", "label")})
    message = refused(DataError, tmp_path / "in.npz", tmp_path / "out.h5", groups_name="person")
    assert "no array 'channel_2', 'label', 'person'" in message
    assert "channel_1, channel_3, channel_4, group" in message


def test_no_groups_are_read_where_none_are_wanted(tmp_path):
    np.savez(tmp_path / "in.npz", **make_arrays())
    assert convert(tmp_path / "in.npz", tmp_path / "out.h5", groups_name=None).groups == 0


def test_npz_with_objects_wrong_sizes_or_damage_is_refused(tmp_path):
    path = tmp_path / "in.npz"
    np.savez(path, **make_arrays() | {"label": np.array([{}] * ROWS, dtype=object)})
    assert "array 'label': holds Python objects" in refused(DataError, path, tmp_path / "out.h5")
    np.savez(path, **{n: v for n, v in make_arrays().items() if n != "label"})
    with zipfile.ZipFile(path, "a") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**32, 9)})
        archive.writestr("label.npy", header.getvalue())
    assert "declares 309,237,645,312 bytes" in refused(DataError, path, tmp_path / "out.h5")
    path.write_bytes(path.read_bytes()[:200])
    assert "not a whole .npz file" in refused(DataError, path, tmp_path / "out.h5")


def test_sizes_out_of_proportion_to_what_is_stored_are_refused():
    check_declared_size("a", 100 * 2**20, 10 * 2**20)
    check_declared_size("a", 2**20, 1000)
    with pytest.raises(DataError, match="times less"):
        check_declared_size("a", 100 * 2**20, 100_000)
    with pytest.raises(DataError, match="at most"):
        check_declared_size("a", 2**40, 2**40)


# --- .mat ---


def test_matlab_v73_axes_are_turned_round(tmp_path):
    arrays = make_arrays() | {"label": LABELS + 1.0}
    column = {"label": arrays["label"][:, None], "group": arrays["group"][None, :]}  # MATLAB has no vectors
    path = save_matlab73(tmp_path / "in.mat", arrays | column)
    convert(path, tmp_path / "out.h5")
    check_content(tmp_path / "out.h5", arrays | {"label": LABELS + 1})


def test_matlab_v73_character_labels_are_read_and_cells_refused_with_the_cure(tmp_path):
    texts = np.array([[ord(c) for c in text.ljust(4)] for text in ("walk", "box", "walk", "box", "run", "run")], "u2")
    path = save_matlab73(tmp_path / "in.mat", make_arrays() | {"label": texts}, {"label": "char"})
    assert convert(path, tmp_path / "out.h5").classes == ("box", "run", "walk")
    path = save_matlab73(tmp_path / "in.mat", make_arrays(), {"label": "cell"})
    message = refused(DataError, path, tmp_path / "other.h5")
    assert "'label': a MATLAB cell" in message
    assert "char(label)" in message


def test_matlab_v73_data_outside_the_file_are_refused(tmp_path):
    path = save_matlab73(tmp_path / "in.mat", make_arrays())
    (tmp_path / "raw").write_bytes(bytes(ROWS * 8))
    with h5py.File(path, "r+") as file:
        del file["channel_2"], file["channel_3"], file["label"]
        file["channel_2"] = h5py.ExternalLink(tmp_path / "other.h5", "x")
        file.create_dataset("label", (ROWS,), "i8", external=[(str(tmp_path / "raw"), 0, ROWS * 8)])
    message = refused(DataError, path, tmp_path / "out.h5")
    assert "external link" in message
    assert "stored outside" in message
    assert "'channel_3'" in message


def test_older_matlab_files_are_read_with_scipy(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    arrays = make_arrays()
    savemat(tmp_path / "in.mat", arrays | {"label": np.array(["walk", "box", "run", "box", "walk", "run"])})
    convert(tmp_path / "in.mat", tmp_path / "out.h5")
    check_content(tmp_path / "out.h5", arrays | {"label": np.array(["walk", "box", "run", "box", "walk", "run"])})
    savemat(tmp_path / "cell.mat", arrays | {"label": np.array(["walk"] * ROWS, dtype=object)})
    assert "a MATLAB cell" in refused(DataError, tmp_path / "cell.mat", tmp_path / "cell.h5")
    savemat(tmp_path / "less.mat", {"channel_1": arrays["channel_1"]})
    assert "no array 'channel_2'" in refused(DataError, tmp_path / "less.mat", tmp_path / "less.h5")
    (tmp_path / "bad.mat").write_bytes((tmp_path / "in.mat").read_bytes()[:-20])
    assert "not a whole MATLAB file" in refused(DataError, tmp_path / "bad.mat", tmp_path / "bad.h5")


def test_older_matlab_files_without_scipy_name_the_library(tmp_path, monkeypatch):
    (tmp_path / "in.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(600))
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # as where scipy is not installed
    message = refused(MissingDependencyError, tmp_path / "in.mat", tmp_path / "out.h5")
    assert "scipy" in message


# --- arguments and output ---


def test_missing_files_unknown_suffixes_and_mixed_kinds_are_named(tmp_path):
    paths = save_npy(tmp_path, make_arrays())
    output = tmp_path / "out.h5"
    message = refused(DataError, [tmp_path / "gone.npy", tmp_path / "lost.csv"], output)
    assert "gone.npy" in message
    assert "lost.csv" in message
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "a.h5").touch()
    (tmp_path / "a.npz").touch()
    assert "a.xlsx" in refused(DataError, tmp_path / "a.xlsx", output)
    assert "needs no conversion" in refused(DataError, tmp_path / "a.h5", output)
    assert "different kinds" in refused(UsageError, [*paths, tmp_path / "a.npz"], output)
    assert "one is read at a time" in refused(UsageError, [tmp_path / "a.npz", tmp_path / "a.npz"], output)
    assert "nothing to convert" in refused(UsageError, [], output)
    assert "--stride is 0" in refused(UsageError, paths, output, stride=0)
    assert "channel names" in refused(UsageError, paths, output, channel_names=("a", "b", "c", "label"))


def test_existing_output_is_refused_without_force_and_kept_on_failure(tmp_path):
    paths = save_npy(tmp_path, make_arrays())
    output = tmp_path / "out.h5"
    output.write_bytes(b"precious")
    assert "exists already" in refused(OutputError, paths, output)
    refused(DataError, paths[:2], output, force=True)
    assert output.read_bytes() == b"precious"
    convert(paths, output, force=True)
    check_content(output, make_arrays())
    with pytest.raises(OutputError, match="no folder"):
        convert(paths, tmp_path / "gone" / "out.h5")
    assert "input and output" in refused(UsageError, paths, paths[0], force=True)


def test_one_class_is_written_and_noted(tmp_path):
    summary = convert(save_npy(tmp_path, make_arrays() | {"label": np.zeros(ROWS, int)}), tmp_path / "out.h5")
    assert any("only one class" in note for note in summary.notes)
