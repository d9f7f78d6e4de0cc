"""What `make excepts` counts is what the code has, and what it excuses is there."""

from tests.excepts import EXCUSED, ROOT, clauses, clauses_below

SOURCE = """
class Reader:
    async def read(self):
        try:
            return self.file.read()
        except (OSError,
                ValueError) as error:
            raise ReadError(
                "no",
            ) from error
        except BaseException:
            try:
                self.file.close()
            except:
                pass
            raise
"""


def test_every_clause_is_seen_with_its_place_and_the_lines_that_show_that_it_ran() -> None:
    found = [(one.line, one.function, one.catches, one.first) for one in clauses("a.py", SOURCE)]
    assert found == [
        (6, "Reader.read", "(OSError, ValueError)", range(8, 11)),
        (11, "Reader.read", "BaseException", range(12, 16)),
        (14, "Reader.read", "anything", range(15, 16)),
    ]


def test_every_excuse_is_for_a_clause_that_is_there() -> None:
    there = {one.key for one in clauses_below([ROOT / "libs", ROOT / "services"])}
    assert [key for key in EXCUSED if key not in there] == []
