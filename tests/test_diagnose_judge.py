"""Verdicts: the rules that hold for every code."""

import pytest

from pointcnn_cli.diagnose.findings import Fix, Measurement, missing
from pointcnn_cli.diagnose.judge import decide, judge


def measured(code="PC504", basis="test", **known) -> Measurement:
    return Measurement(code, basis, "what was seen", **{"p": 1e-4, "effect": 0.2, **known})


@pytest.mark.parametrize(
    ("measurement", "verdict"),
    [
        (measured(), "CONFIRMED"),
        (measured(p=0.01), "SUSPECTED"),
        (measured(effect=0.02), "SUSPECTED"),
        (measured(groups=10), "SUSPECTED"),
        (measured(groups=11), "CONFIRMED"),
        (measured(harm=False), "PRESENT"),
        (measured(at_most="SUSPECTED"), "SUSPECTED"),
        (measured(found=False), None),
        (measured(basis="proof", p=None, effect=None, harm=True, groups=2), "CONFIRMED"),
        (measured(basis="proof", p=None, effect=None), "PRESENT"),
        (missing("PC504", "a model"), "INCONCLUSIVE"),
    ],
)
def test_a_verdict_needs_significance_an_effect_and_enough_groups_unless_it_is_a_proof(measurement, verdict):
    assert decide(measurement) == verdict


def test_the_strongest_measurement_of_a_code_counts():
    diagnosis = judge([measured(p=0.2), measured(), missing("PC504", "more")])
    assert [(f.code, f.verdict) for f in diagnosis.findings] == [("PC504", "CONFIRMED")]


def test_what_one_check_ruled_out_and_another_could_not_measure_is_ruled_out():
    diagnosis = judge([missing("PC504", "a model"), measured(found=False)])
    assert diagnosis.findings == ()
    assert [m.code for m in diagnosis.ruled_out] == ["PC504"]


def test_a_symptom_is_no_cause_where_its_cause_is_confirmed():
    diagnosis = judge([measured(), measured("PC201", "proof", harm=True)])
    assert [(f.code, f.verdict) for f in diagnosis.findings] == [("PC201", "CONFIRMED"), ("PC504", "SUSPECTED")]
    assert diagnosis.confirmed == ("PC201",)


@pytest.mark.parametrize(("labels", "verdict"), [(0.01, "SUSPECTED"), (None, "CONFIRMED")])
def test_overfitting_is_what_is_left_once_labels_are_not_even_suspected(labels, verdict):
    doubts = [] if labels is None else [measured("PC303", p=labels)]
    found = {f.code: f.verdict for f in judge([measured(), *doubts]).findings}
    assert found["PC504"] == verdict


def test_the_cause_of_a_meaningless_score_is_told_first():
    codes = ("PC401", "PC504", "PC201", "PC305")
    findings = judge([measured(code, "proof", harm=True) for code in codes]).findings
    assert [f.code for f in findings] == ["PC305", "PC201", "PC401", "PC504"]  # 504 is explained


def test_unknown_codes_are_an_error():
    with pytest.raises(KeyError):
        judge([measured("PC999")])


def test_the_document_holds_evidence_and_fix():
    document = judge([measured(fix=Fix("do", {"split.strategy": "auto"}), details={"more": 1})]).as_document()
    (finding,) = document["findings"]
    assert finding["fix"] == {"set": {"split.strategy": "auto"}, "text": "do"}
    assert finding["evidence"]["p"] == 1e-4
    assert finding["evidence"]["more"] == 1
