"""The page of faults: tries of one fault are added up, and what is lost is seen."""

from analysis.reliability import page, read


def test_tries_are_added_up_and_losses_are_seen():
    lines = [
        '{"fault": "SIGKILL of main", "tries": 1, "survived": 1, "lost": 0, "sees": "its id"}',
        '{"fault": "SIGKILL of main", "tries": 1, "survived": 0, "lost": 1, "sees": "its id"}',
        '{"fault": "a | b", "tries": 500, "survived": 500, "lost": 0, "sees": "one\\nline"}',
        '{"fault": "half wri',
    ]
    rows = [line for line in page(read(lines), "Written here.").splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| SIGKILL of main | 2 | 1 | 1 | its id |",
        "| a \\| b | 500 | 500 | 0 | one line |",
        "| **all** | 502 | 501 | 1 | |",
    ]
