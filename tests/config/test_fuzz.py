"""Nonsense for every parser: it is understood, or refused in one line, and never anything else."""

import contextlib
import csv
import io
import json
import random
import string

import pytest

from mm_balance.commands import COMMANDS
from mm_balance.config import format_value, options, resolve, restore, study_options
from mm_balance.config.resolve import parse_method_options, parse_value, read_preset
from mm_balance.config.search import parse_space
from mm_balance.engine.checkpoint import read_checkpoint, write_checkpoint
from mm_balance.errors import UserError, one_line
from mm_balance.methods import METHODS
from mm_balance.methods.options import declared_options
from mm_balance.study.settings import parse_objectives
from mm_balance.study.storage import locate, study_folder
from tests.helpers.faults import recorded
from tests.helpers.manifests import HEADER, load

CASES = pytest.mark.parametrize("cases", [25, pytest.param(500, marks=pytest.mark.verify)])
SEED = 20261130
DECLARED = {**options(), **study_options()}
ATOMS = [
    "", " ", "0", "1", "-1", "1.5", "1e5", "1e400", "-1e-400", "nan", "inf", "-inf", "none", "auto", "true", "True", "null", "~",
    "0x10", "1_000", "٣", "½", "9" * 20, "9" * 400, "9" * 5000, "a", "concat", "cosine", "../..", "/etc/passwd", "a\0b", "\n", "\t",
    "\u200b", "\u202e", "😀", "=", ",", "|", ":", "::", "a=b", "{", "}", "[", "]", "{{7*7}}", "%s", "%(x)s", "$HOME", "`id`", "';--",
    "<script>", "x" * 300, "é", "\ud800", "digits", "digits.csv", "env:HOME", "postgresql://u:p@h/d",
]  # fmt: skip


def text(draw):
    """A few atoms, or letters, in a row."""
    return "".join(
        draw.choice(ATOMS) if draw.random() < 0.7 else "".join(draw.choices(string.printable, k=draw.randrange(1, 8)))
        for _ in range(draw.choice([1, 1, 1, 2, 3, 6]))
    )


def understood_or_refused(parse, *words):
    """Whether it is understood; what is refused takes one line of bounded length, as it is printed."""
    try:
        parse(*words)
    except UserError as error:
        line = one_line(str(error))
        assert line.isprintable()
        assert 0 < len(line) < 20_000
        return False
    return True


def fuzz(name, cases, case):
    """Run ``case`` with the random numbers of every case."""
    sees = "one line that names what is wrong"
    for number in range(cases):
        with recorded(f"nonsense for a parser: {name}", sees):
            case(random.Random(f"{SEED} {name} {number}"))


@CASES
def test_values(cases):
    fuzz(
        "values",
        cases,
        lambda draw: understood_or_refused(parse_value, draw.choice(list(DECLARED.values())), text(draw)),
    )


@CASES
def test_numbers_survive_being_written(cases):
    def case(draw):
        value = draw.choice([1, -1]) * draw.random() * 10.0 ** draw.randrange(-300, 300)
        assert float(format_value(value)) == value

    fuzz("numbers", cases, case)


@CASES
def test_command_lines(cases):
    def case(draw):
        command = draw.choice(list(COMMANDS.values()))
        words = []
        for _ in range(draw.randrange(1, 5)):
            name = draw.choice([*command.parameters, "nosuch"]) if draw.random() < 0.9 else text(draw)
            words += [f"--{name}={text(draw)}"] if draw.random() < 0.5 else [f"--{name}", text(draw)]
        with contextlib.suppress(SystemExit):  # --help
            understood_or_refused(command.parse, words)

    fuzz("command lines", cases, case)


@CASES
def test_method_options(cases):
    def case(draw):
        method = METHODS[draw.choice(list(METHODS))]
        declared = declared_options(method.Options)
        parts = [f"{draw.choice([*declared, text(draw)])}={text(draw)}" for _ in range(draw.randrange(1, 4))]
        understood_or_refused(parse_method_options, method.name, declared, ",".join(parts))

    fuzz("method options", cases, case)


@CASES
def test_spaces(cases):
    def case(draw):
        parts = [
            f"{draw.choice([*options(), text(draw)])}={draw.choice([':', '|', '']).join(text(draw) for _ in range(3))}"
            for _ in range(draw.randrange(1, 4))
        ]
        understood_or_refused(parse_space, ",".join(parts), options())

    fuzz("search spaces", cases, case)


@CASES
def test_names_and_places_of_studies(cases, tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path))

    def case(draw):
        understood_or_refused(parse_objectives, text(draw))
        understood_or_refused(study_folder, text(draw))
        understood_or_refused(locate, text(draw), "mine")

    fuzz("objectives, names and storages of studies", cases, case)


@CASES
def test_presets(cases, tmp_path):
    def case(draw):
        lines = [
            f"{draw.choice([*DECLARED, text(draw)])}{draw.choice([': ', ':', ' '])}{text(draw)}"
            for _ in range(draw.randrange(1, 5))
        ]
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        if draw.random() < 0.3:
            content = damaged(content, draw)
        file = tmp_path / "preset.yaml"
        file.write_bytes(content)
        if understood_or_refused(read_preset, str(file)):
            understood_or_refused(resolve, {"preset": str(file)})

    fuzz("presets", cases, case)


@CASES
def test_saved_configurations(cases):
    saved = json.loads(json.dumps(resolve({}).values()))
    values = [None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "abc", [], [1], {}, {"a": 1}]

    def case(draw):
        changed = dict(saved)
        for _ in range(draw.randrange(1, 4)):
            name = draw.choice([*saved, text(draw)])
            if draw.random() < 0.2:
                changed.pop(name, None)
            else:
                changed[name] = draw.choice([*values, text(draw)])
        understood_or_refused(restore, changed if draw.random() < 0.9 else draw.choice(values))

    fuzz("saved configurations", cases, case)


@CASES
def test_manifests(cases, tmp_path):
    def case(draw):
        rows = [
            [f"s{number}", draw.choice(["train", "val", "test"]), draw.choice("ab"), "0.wav", "0.png"]
            for number in range(6)
        ]
        table = [list(HEADER), *rows]
        for _ in range(draw.randrange(1, 6)):
            row = draw.choice(table)
            row[draw.randrange(len(row))] = text(draw)
        file = io.StringIO()
        writer = csv.writer(file) if draw.random() < 0.8 else csv.writer(file, delimiter=";")
        writer.writerows(table)
        content = file.getvalue().encode("utf-8", "surrogatepass")
        manifest = tmp_path / "manifest.csv"
        manifest.write_bytes(damaged(content, draw) if draw.random() < 0.4 else content)
        understood_or_refused(
            lambda: load(manifest, data_dir=tmp_path / "stores", on_error=draw.choice(["fail", "skip"]))
        )

    fuzz("manifests", cases, case)


@CASES
def test_checkpoints(cases, tmp_path):
    import torch

    whole = tmp_path / "whole"
    write_checkpoint({"model": {"weight": torch.arange(100.0)}, "progress": {"epoch": 3}}, whole)
    content = whole.read_bytes()

    def case(draw):
        file = tmp_path / "checkpoint"
        changed = damaged(content, draw)
        file.write_bytes(changed)
        assert not understood_or_refused(read_checkpoint, file) or changed == content

    fuzz("checkpoints", cases, case)


def damaged(content, draw):
    """Some bytes changed, left out, repeated or cut off."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(changed)) if changed else 0
        match draw.choice(["flip", "cut", "drop", "repeat"]):
            case "flip" if changed:
                changed[place] ^= 1 << draw.randrange(8)
            case "cut":
                del changed[place:]
            case "drop":
                del changed[place : place + draw.randrange(1, 20)]
            case _:
                changed[place:place] = changed[place : place + draw.randrange(1, 20)]
    return bytes(changed)
