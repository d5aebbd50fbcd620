"""What a test needs and does not find: skipped at a desk, failed where CI runs."""

import pytest


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_module_or_program_skips_at_a_desk_and_fails_in_ci(ci, outcome, monkeypatch, imported, require):
    monkeypatch.setenv("CI", ci)
    for find in (imported, require):
        with pytest.raises(outcome, match="nowhere_to_be_found"):
            find("nowhere_to_be_found")


def test_what_is_there_is_found(imported, require):
    assert imported("json").dumps([]) == "[]"
    assert require("sh").endswith("/sh")
