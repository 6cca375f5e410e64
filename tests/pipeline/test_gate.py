"""The gate: every way in which a claim can break keeps the site from being published."""

import textwrap
from pathlib import Path

import nbformat
import pytest
import yaml

from promptlib import claims
from workflow import extras
from workflow.collect import FIELDS, claim_tests, claims_of, gate, record
from workflow.sources import BuildError

ROOT = Path(__file__).resolve().parents[2]
RECORDED = {
    "wing/same": {"kind": "identity"},
    "wing/trained": {"kind": "outcome", "quick": "supported"},
}


def records(**changes):
    both = {
        "wing/same": {"kind": "identity", "verdict": "holds"},
        "wing/trained": {"kind": "outcome", "verdict": "supported"},
    }
    for name, change in changes.items():
        both[f"wing/{name}"] |= change
    return [
        {"id": name, "summary": "…", "tests": ["tests/test_x.py::test_y"]} | record
        for name, record in both.items()
    ]


def test_the_gate_is_open_when_all_is_as_recorded():
    assert gate("quick", records(), RECORDED) == []


@pytest.mark.parametrize("kind", ["identity", "bound", "estimate"])
def test_a_failing_claim_closes_the_gate(kind):
    recorded = RECORDED | {"wing/same": {"kind": kind}}
    assert gate("quick", records(same={"kind": kind, "verdict": "fails"}), recorded) == [
        "wing/same fails: …"
    ]


@pytest.mark.parametrize(
    ("recorded", "now"), [("supported", "contradicted"), ("contradicted", "supported")]
)
def test_an_outcome_that_turns_closes_the_gate(recorded, now):
    known = RECORDED | {"wing/trained": {"kind": "outcome", "quick": recorded}}
    (problem,) = gate("quick", records(trained={"verdict": now}), known)
    assert f"recorded '{recorded}' for quick, now '{now}'" in problem


@pytest.mark.parametrize("recorded", ["supported", "contradicted", "undecided"])
@pytest.mark.parametrize("now", ["undecided", "uninformative", "single run"])
def test_what_noise_can_do_never_closes_the_gate(recorded, now):
    known = RECORDED | {"wing/trained": {"kind": "outcome", "quick": recorded}}
    assert gate("quick", records(trained={"verdict": now}), known) == []
    known["wing/trained"]["quick"] = now
    assert gate("quick", records(trained={"verdict": recorded}), known) == []


def test_a_profile_without_a_recorded_verdict_has_nothing_to_turn():
    assert gate("paper", records(trained={"verdict": "contradicted"}), RECORDED) == []


def test_lost_new_doubled_and_untested_claims_close_the_gate():
    whole = records()
    assert gate("quick", whole[:1], RECORDED) == [
        "wing/trained is recorded, and no notebook claims it"
    ]
    assert gate("quick", [*whole, whole[0]], RECORDED) == ["wing/same is claimed 2 times"]
    assert gate("quick", whole, {"wing/same": RECORDED["wing/same"]}) == [
        "wing/trained (outcome, supported) is not in config/verdicts.yml"
    ]
    assert gate("quick", records(same={"tests": []}), RECORDED) == [
        "wing/same has no test marked @pytest.mark.claim('wing/same')"
    ]
    assert gate("quick", records(same={"kind": "bound"}), RECORDED) == [
        "wing/same is recorded as identity, claimed as bound"
    ]


NEEDY = {
    "wing/same": {"kind": "identity", "needs": "real"},
    "wing/trained": RECORDED["wing/trained"],
}
UNCHECKED = {"verdict": "not checked", "details": {"needs": "real"}}


def there(extra):
    return True


def absent(extra):
    return False


def test_a_claim_may_stay_unchecked_only_while_its_extra_is_missing():
    unchecked = records(same=UNCHECKED)
    assert gate("quick", unchecked, NEEDY, absent) == []
    assert gate("quick", unchecked, NEEDY, there) == [
        "wing/same was not checked, though nothing that it needs is missing"
    ]
    assert gate("quick", unchecked[1:], NEEDY, absent) == [  # and it may never be dropped
        "wing/same is recorded, and no notebook claims it"
    ]
    assert gate("quick", records(same={"tests": [], **UNCHECKED}), NEEDY, absent) == [
        "wing/same has no test marked @pytest.mark.claim('wing/same')"
    ]


def test_what_a_claim_needs_is_part_of_the_record():
    checked = records(same={"details": {"needs": "real"}})
    assert gate("quick", checked, NEEDY, there) == []
    assert gate("quick", checked, RECORDED, there) == [
        "wing/same is recorded as needing no extra, claimed as needing real"
    ]
    assert gate("quick", records(), NEEDY, there) == [
        "wing/same is recorded as needing real, claimed as needing no extra"
    ]
    assert gate("quick", records(same=UNCHECKED), RECORDED, absent) == [
        "wing/same is recorded as needing no extra, claimed as needing real"
    ]


def test_a_claim_that_fails_fails_with_its_extra_too():
    failing = records(same={"verdict": "fails", "details": {"needs": "real"}})
    assert gate("quick", failing, NEEDY, there) == ["wing/same fails: …"]


def test_recording_without_the_extra_keeps_what_was_known():
    known = {"wing/trained": {"kind": "outcome", "needs": "real", "quick": "undecided"}}
    (_, trained) = records(trained=UNCHECKED)
    written = yaml.safe_load(record("quick", [trained | {"notebook": "wing/chapter"}], known))
    assert written == known


def test_an_empty_book_does_not_pass():
    assert len(gate("quick", [], RECORDED)) == 2


def test_claims_are_read_from_outputs_in_order():
    made = [
        claims.identity(f"wing/{n}", "s", errors=[0], tolerance=1, source="this book", checks="x.y")
        for n in ("b", "a")
    ]
    cell = nbformat.v4.new_code_cell("…")
    cell.outputs = [
        nbformat.v4.new_output("display_data", data=claim._repr_mimebundle_()) for claim in made
    ]
    cell.outputs.insert(1, nbformat.v4.new_output("stream", text="noise"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("p"), cell])
    assert claims_of(notebook) == made


def test_marks_are_found_without_importing_the_tests(tmp_path):
    folder = tmp_path / "tests" / "wing"
    folder.mkdir(parents=True)
    (folder / "test_one.py").write_text(
        textwrap.dedent(
            """
            import absent_module
            import pytest

            @pytest.mark.claim("wing/one")
            @pytest.mark.parametrize("x", [1])
            def test_a(x): ...

            @pytest.mark.claim("wing/one")
            def test_b(): ...
            """
        )
    )
    assert claim_tests(tmp_path / "tests") == {
        "wing/one": ["tests/wing/test_one.py::test_a", "tests/wing/test_one.py::test_b"]
    }


def test_recorded_verdicts_are_well_formed():
    recorded = yaml.safe_load((ROOT / "config" / "verdicts.yml").read_text())
    marked = claim_tests(ROOT / "tests")
    assert recorded
    for name, entry in recorded.items():
        assert entry["kind"] in claims.KINDS, name
        allowed = {"kind", "quick", "paper"} if entry["kind"] == "outcome" else {"kind"}
        assert set(entry) <= allowed | {"needs"}, name
        assert entry.get("needs", "real") in extras.extras(), name
        if entry["kind"] == "outcome":
            verdicts = {entry[profile] for profile in entry if profile not in FIELDS}
            assert verdicts <= set(claims.VERDICTS) - {"holds", "fails", "not checked"}, name
    assert set(marked) == set(recorded)


def test_recording_opens_the_gate_keeps_other_profiles_and_refuses_failures():
    whole = [
        item | {"notebook": "wing/chapter"} for item in records(trained={"verdict": "undecided"})
    ]
    known = {"wing/trained": {"kind": "outcome", "quick": "supported", "paper": "contradicted"}}
    written = yaml.safe_load(record("quick", whole, known))
    assert written == {
        "wing/same": {"kind": "identity"},
        "wing/trained": {"kind": "outcome", "quick": "undecided", "paper": "contradicted"},
    }
    assert gate("quick", whole, written) == []
    whole[0]["verdict"] = "fails"
    with pytest.raises(BuildError, match="wing/same fails"):
        record("quick", whole, known)
