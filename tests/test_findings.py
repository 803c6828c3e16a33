from alignet_ray.findings import OK, WARNING, WRONG, Findings


def test_a_note_is_shown_only_where_the_check_failed() -> None:
    findings = Findings()
    findings.add("rows", 12)
    findings.check("repeated", 0, True, "remove them")
    findings.check("order", "mixed", False, "sort them", WARNING)
    assert [row["verdict"] for row in findings.rows] == ["", OK, WARNING]
    assert [row["note"] for row in findings.rows] == ["", "", "sort them"]


def test_warnings_do_not_make_a_file_wrong() -> None:
    findings = Findings()
    findings.check("order", "mixed", False, "sort them", WARNING)
    assert findings.ok
    findings.check("rows", 0, False, "there are none")
    assert not findings.ok
    assert findings.count(WRONG) == 1
