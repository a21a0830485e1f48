"""Numbers and pictures behind a page: intervals of classes, bins, groups, the choice of mistakes and frames."""

import numpy as np
import pytest
from hdf5_files import write_file
from report_runs import write_people
from typer.testing import CliRunner

from pointcnn_cli.cli.app import app
from pointcnn_cli.config.schema import DataConfig
from pointcnn_cli.hdf5.reading import open_hdf5
from pointcnn_cli.metrics import compute_accuracy_interval, compute_calibration_error
from pointcnn_cli.report.clouds import choose_mistakes, choose_view, read_clouds
from pointcnn_cli.report.markup import build_table, clean_text, escape, tag
from pointcnn_cli.report.measures import compute_bins, compute_class_intervals, compute_group_scores, list_confusions
from pointcnn_cli.report.palette import COLOURS
from pointcnn_cli.report.plots_scores import OTHERS, merge_classes


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    groups = rng.integers(0, 12, 300)
    predicted = np.where(rng.random(300) < 0.7, labels, rng.integers(0, 3, 300))
    return labels, predicted, groups


def test_values_of_classes_are_those_of_scikit_learn_and_lie_in_their_intervals(answers):
    from sklearn.metrics import precision_recall_fscore_support

    labels, predicted, groups = answers
    scores = compute_class_intervals(labels, predicted, groups, ("a", "b", "c"))
    expected = precision_recall_fscore_support(labels, predicted, labels=[0, 1, 2])
    for number, one in enumerate(scores):
        found = [share.value for share in (one.precision, one.recall, one.f1)]
        assert found == pytest.approx([column[number] for column in expected[:3]])
        assert one.recall.rows == expected[3][number]
        for share in (one.precision, one.recall, one.f1):
            assert 0 <= share.low < share.value < share.high <= 1
            assert share.method == "wilson-design-effect"


def test_recall_has_the_interval_of_the_accuracy_on_the_rows_of_its_class(answers):
    labels, predicted, groups = answers
    one = compute_class_intervals(labels, predicted, groups, ("a", "b", "c"))[1]
    rows = labels == 1
    expected = compute_accuracy_interval(predicted[rows] == 1, groups[rows])
    assert (one.recall.low, one.recall.high, one.recall.method) == expected


def test_the_interval_of_f1_covers_the_true_value_as_often_as_it_says():
    """400 draws of 200 independent rows: 95 % of them, to within what 400 draws can show (99.9 %)."""
    rng, hits = np.random.default_rng(3), 0
    truth = np.array([[0.35, 0.15], [0.1, 0.4]])  # true class by predicted class
    exact = 2 * truth[0, 0] / (truth[0].sum() + truth[:, 0].sum())
    for _ in range(400):
        cells = rng.choice(4, 200, p=truth.ravel())
        f1 = compute_class_intervals(cells // 2, cells % 2, None, ("a", "b"))[0].f1
        hits += f1.low <= exact <= f1.high
    assert 0.91 <= hits / 400 <= 0.985


def test_classes_that_never_occur_have_no_numbers():
    one = compute_class_intervals(np.array([0, 0]), np.array([0, 0]), None, ("a", "b"))[1]
    assert (one.precision.value, one.recall.value, one.f1.value, one.f1.rows) == (None, None, None, 0)


def test_bins_add_up_to_the_calibration_error():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.2, 1, 500)
    correct = rng.random(500) < confidence**2
    bins = compute_bins(correct, confidence, None)
    assert sum(one.accuracy.rows for one in bins) == 500
    error = sum(one.accuracy.rows * abs(one.accuracy.value - one.confidence) for one in bins) / 500
    assert error == pytest.approx(compute_calibration_error(correct, confidence))
    assert all(one.low < one.confidence <= one.high for one in bins)


def test_groups_come_worst_first_with_their_most_frequent_mistake():
    labels, predicted = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 1, 0])
    scores = compute_group_scores(labels, predicted, np.array([7, 7, 7, 2, 2, 2]))
    assert [(one.group, one.accuracy.rows) for one in scores] == [(7, 3), (2, 3)]
    assert scores[0].confused == (0, 1, 2)
    assert list_confusions(labels, predicted) == [(0, 1, 2), (1, 0, 1)]
    assert list_confusions(labels, labels) == []


def test_very_many_classes_are_merged_without_losing_a_row():
    rng = np.random.default_rng(2)
    confusion = rng.integers(0, 4, (50, 50))
    merged, names = merge_classes(confusion, [str(number) for number in range(50)])
    assert merged.sum() == confusion.sum()
    assert (len(names), names[-1]) == (30, OTHERS)


# --- clouds ---


def test_mistakes_are_the_most_confident_and_not_the_same_one_six_times():
    confidence = np.array([0.9, 0.95, 0.8, 0.7, 0.99, 0.6])
    labels, predicted = np.array([0, 0, 0, 1, 2, 0]), np.array([1, 1, 1, 0, 2, 1])
    groups = np.array([5, 5, 5, 5, 5, 6])
    assert choose_mistakes(confidence, labels, predicted, groups, 4).tolist() == [1, 3, 5, 0]
    assert choose_mistakes(confidence, labels, predicted, None, 4).tolist() == [1, 0, 2, 3]
    assert choose_mistakes(confidence, labels, labels, groups, 4).tolist() == []


def test_a_view_is_found_in_usual_and_in_odd_channels():
    usual = ("position", "velocity", "intensity", "range")
    view = choose_view(usual, (3, 1, 1, 1))
    assert (view.position, view.axes, view.coloured_by) == (0, ("y", "z"), "velocity")
    assert choose_view(usual, (2, 1, 1, 1)).axes == ("x", "y")
    assert choose_view(("other", "other", "other", "other"), (1, 1, 3, 1)).position == 2
    assert choose_view(("other", "other", "other", "other"), (1, 1, 3, 1)).colour is None
    assert choose_view(usual, (1, 1, 1, 1)) is None


def test_frames_hold_the_filled_points_of_their_row(tmp_path):
    path = write_people(tmp_path / "data.h5", ["a", "b"], rows=10, groups=None)
    with open_hdf5(DataConfig(path=str(path))) as source:
        view = choose_view(("position", "velocity", "intensity", "range"), (3, 1, 1, 1))
        clouds = read_clouds(source, np.array([7, 2]), view, 4)
        channels = source.read(np.array([2]))
    frame = clouds[1][0]
    filled = np.any([(channel[0, ..., frame.number, 0] != 0).any(axis=0) for channel in channels], axis=0)
    assert frame.points == filled.sum() == len(frame.across)
    np.testing.assert_array_equal(frame.across, channels[0][0, 1, filled, frame.number, 0])
    np.testing.assert_array_equal(frame.colour, channels[1][0, 0, filled, frame.number, 0])
    assert [one.number // 3 for one in clouds[1]] == [0, 1, 2, 3]  # one of each quarter of 12 frames


# --- data inspect --plot ---


def plot(*arguments: object):
    return CliRunner().invoke(app, ["data", "inspect", *map(str, arguments)])


def test_samples_of_each_class_are_drawn_the_same_each_time(tmp_path):
    path = write_people(tmp_path / "data.h5", ["sit", "<b>&", "walk"], rows=12, groups=3)
    result = plot(path, "--plot", tmp_path / "out.svg")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out.svg").read_text()
    assert "&lt;b&gt;&amp;" in text
    assert "frame 0" in text
    assert plot(path, "--plot", tmp_path / "out.svg").exit_code == 9
    assert plot(path, "--plot", tmp_path / "out.svg", "--force").exit_code == 0
    assert (tmp_path / "out.svg").read_text() == text
    assert plot(path, "--plot", tmp_path / "out.png").exit_code == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_is_refused_for_other_formats_and_for_data_without_coordinates(tmp_path):
    path = write_file(tmp_path / "data.h5")
    assert plot(path, "--plot", tmp_path / "out.pdf").exit_code == 2
    flat = write_file(tmp_path / "flat.h5", channel_1=np.ones((12, 1, 5, 4, 1), np.float16))
    result = plot(flat, "--plot", tmp_path / "out.svg")
    assert result.exit_code == 6
    assert "nothing to draw" in result.stderr
    assert not (tmp_path / "out.svg").exists()


# --- markup and colours ---


def test_text_is_escaped_where_it_enters():
    assert clean_text("a\x00b\u202e\udcff\n") == "a\\x00b\\u202e\\udcff\\n"
    assert escape("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;"
    assert tag("a", escape("<x>"), href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">&lt;x&gt;</a>'
    table = build_table(["<h>"], [[escape("<c>")]], label='"l"')
    assert "<h>" not in table
    assert 'aria-label="&quot;l&quot;"' in table


def compute_contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    shares = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        shares.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shares) + 0.05) / (min(shares) + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_what_is_behind_them(dark):
    """4.5 for text, 3 for lines and marks, as WCAG 2.2 asks (1.4.3, 1.4.11)."""
    shade = {name: pair[dark] for name, pair in COLOURS.items()}
    for name in ("ink", "soft", "bad", "caution", "good", "ceiling", "chance"):
        for behind in ("paper", "panel"):
            assert compute_contrast(shade[name], shade[behind]) >= 4.5, (name, behind)
    for name in ("train", "validation", "test"):
        assert compute_contrast(shade[name], shade["paper"]) >= 3, name
    assert compute_contrast(shade["on-heat"], shade["heat"]) >= 4.5


def test_no_two_names_share_a_light_colour():
    """Figures are drawn in light colours, which a page replaces by name."""
    lights = [pair[0] for pair in COLOURS.values()]
    assert len(set(lights)) == len(lights)
    assert all(colour == colour.lower() for colour in lights)
