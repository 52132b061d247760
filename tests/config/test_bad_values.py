"""Values, presets and saved configurations that make no sense: one line each, before any work."""

import json
import math

import pytest

from mm_balance.config import format_value, options, resolve, restore
from mm_balance.config.resolve import parse_method_options, parse_value, read_preset
from mm_balance.config.search import parse_space
from mm_balance.errors import UserError
from mm_balance.methods import find_method
from mm_balance.methods.options import declared_options

DECLARED = options()
WHOLE = [name for name, option in DECLARED.items() if option.type is int]
NUMBERS = [name for name, option in DECLARED.items() if option.type is float]


def one_line(error):
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("text", ["9" * 20, "9" * 309, "9" * 4301, "-" + "9" * 400])
def test_whole_numbers_that_no_computer_counts_to_are_refused(name, text):
    with pytest.raises(UserError) as error:
        parse_value(DECLARED[name], text)
    assert one_line(error).startswith(name)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["1e308", "1e39", "inf", "nan", "-inf", "1e999"])
def test_numbers_that_the_network_cannot_represent_are_refused(name, text):
    with pytest.raises(UserError) as error:
        parse_value(DECLARED[name], text)
    assert one_line(error).startswith(name)


def test_a_size_that_no_memory_holds_is_refused():
    for name in ("image_size", "frames", "workers", "clip_seconds", "frames_per_second"):
        with pytest.raises(UserError, match="out of range"):
            parse_value(DECLARED[name], "2000000000")


def test_method_options_and_spaces_have_the_same_bounds():
    declared = declared_options(find_method("gce").Options)
    name = next(name for name, option in declared.items() if option.type in (int, float))
    with pytest.raises(UserError, match=name):
        parse_method_options("gce", declared, f"{name}={'9' * 400}")
    with pytest.raises(UserError, match="refit_every"):
        parse_space(f"refit_every=1:{'9' * 400}", DECLARED)
    with pytest.raises(UserError, match="gap_weight"):
        parse_space("gap_weight=0.1:1e308", DECLARED)


@pytest.mark.parametrize(
    "value", [1e-13, 1.2345678e-11, 1e-300, 0.1 + 0.2, 1e22, 123456789.123456789, 0.0, -0.5, 1.0, 3.4e38]
)
def test_a_number_is_read_back_as_it_was_written(value):
    text = format_value(value)
    assert float(text) == value
    assert "e" not in text


def test_what_is_no_number_is_written_as_such():
    assert format_value(math.inf) == "inf"
    assert format_value(math.nan) == "nan"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rate: .inf", "learning_rate"),
        ("learning_rate: .nan", "learning_rate"),
        ("learning_rate: 1.0e+400", "learning_rate"),
        (f"batch_size: {'9' * 400}", "batch_size"),
        (f"batch_size: {'9' * 5000}", "YAML"),
        ("batch_size: 32\nlearning_rate: 0.1\nbatch_size: 64", "batch_size twice"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested"),
        ("batch_size: [32]", "batch_size"),
        ("batch_size: {size: 32}", "batch_size"),
        ("batch_size: 2026-11-30", "batch_size"),
        ("? [batch_size]\n: 32", ""),
    ],
)
def test_a_preset_that_makes_no_sense_is_named(tmp_path, text, named):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_preset(str(file))
    line = one_line(error)
    assert "mine.yaml" in line
    assert named in line


def test_a_preset_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"batch_size: \xff\xfe")
    with pytest.raises(UserError, match=r"mine\.yaml.*UTF-8"):
        read_preset(str(file))


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 300 + ".csv"])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(UserError):
        read_preset(name)
    if not name.endswith(".csv"):
        with pytest.raises(UserError, match="is not known"):
            read_preset(name, of_dataset=True)


def test_a_data_set_is_no_path_to_a_preset(tmp_path):
    file = tmp_path / "secret.yaml"
    file.write_text("batch_size: 32")
    with pytest.raises(UserError, match="is not known"):
        resolve({"dataset": str(file.with_suffix(""))})


def saved():
    return json.loads(json.dumps(resolve({}).values()))


def test_a_saved_configuration_is_restored_as_it_was():
    assert restore(saved()).values() == resolve({}).values()


@pytest.mark.parametrize("damaged", [[], 3, None, "text", [["seed", 1]]])
def test_a_saved_configuration_of_a_wrong_shape_is_named(damaged):
    with pytest.raises(UserError, match=r"config\.json"):
        restore(damaged)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "abc"), ("learning_rate", -1), ("learning_rate", math.nan), ("warmup_epochs", -5), ("seed", 1.5),
        ("batch_size", [32]), ("encoder", {}), ("deterministic", "yes"), ("batch_size", None), ("preset", 3),
    ],
)  # fmt: skip
def test_a_saved_value_that_is_not_allowed_is_named(name, value):
    with pytest.raises(UserError, match=rf"config\.json.*{name}"):
        restore({**saved(), name: value})


def test_a_saved_configuration_without_a_parameter_that_always_was_there_is_named():
    damaged = saved()
    del damaged["preset"]
    with pytest.raises(UserError, match=r"config\.json.*preset"):
        restore(damaged)
