"""
The table of the page *coming from another design*.
"""

from tests.support.pages import REPOSITORY, missing_tests, rows_of_table

PAGE = REPOSITORY / "docs" / "explanation" / "coming-from-another-design.md"
ROWS = list(range(1, 49))


def test_the_page_has_a_row_for_each_idea_and_each_names_its_tests():
    rows = {int(row[0]): row for row in rows_of_table(PAGE)}

    assert sorted(rows) == ROWS
    assert all("`tests/" in row[-1] for row in rows.values())
    assert missing_tests(PAGE) == []


def test_each_idea_that_is_done_otherwise_names_its_tests():
    section = PAGE.read_text().partition("## Ideas that are done otherwise\n")[2]
    lines = section.partition("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("| ") and "original idea" not in line]

    assert len(rows) == 15
    assert [row for row in rows if "`tests/" not in row] == []
