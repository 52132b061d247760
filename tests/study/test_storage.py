"""Storages and names of studies that cannot be: one line each."""

import pytest

from mm_balance.errors import UserError
from mm_balance.study.handle import find_study
from mm_balance.study.storage import locate, open_storage, study_folder


@pytest.mark.parametrize(
    "storage",
    [
        "/proc/x.journal", "/dev/null/x.journal", f"/tmp/{'x' * 300}.journal", "a\0b.journal", "~nobody-at-all/x.journal",
        "postgresql://user:SECRETPW@host:abc/db", "postgresql://user:SECRETPW@[::1/db", "nosuchdialect://user:SECRETPW@host/db",
        "sqlite:////proc/x.db", "grpc://host:abc", "://", "x.txt",
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_is_one_line(store, storage):
    with pytest.raises(UserError) as error:
        open_storage(locate(storage, "mine"), lambda *words: None)
    line = str(error.value)
    assert line.startswith("storage=")
    assert "\n" not in line
    assert len(line) < 600
    assert "SECRETPW" not in line


@pytest.mark.parametrize("content", [b"no journal\nat all\n", b'{"op_code": 99}\n', b"[1]\n", b"\xff\xfe\n", b"3\n"])
def test_a_journal_that_is_none_is_one_line(store, content):
    journal = store / "mine.journal"
    journal.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.journal: the file is no journal of studies, or damaged"):
        find_study("mine", str(journal))


def test_a_folder_in_the_place_of_a_journal_is_one_line(store):
    (store / "mine.journal").mkdir()
    with pytest.raises(UserError, match="storage="):
        find_study("mine", str(store / "mine.journal"))


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "", "x" * 101, "a b", "a\nb", "a\0b"])
def test_a_name_that_is_no_folder_is_one_line(store, name):
    with pytest.raises(UserError, match="study_name="):
        study_folder(name)
    assert study_folder("digits-gap_mixture-weights-1a2b3c.v2").parent == study_folder("x").parent
