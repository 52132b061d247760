"""Parameters: what the command line accepts, what it refuses and how, and what presets may do."""

import subprocess
import sys

import pytest

from mm_balance.commands import COMMANDS
from mm_balance.config import (
    AUTO,
    GROUPS,
    format_value,
    options,
    parse_value,
    resolve,
    restore,
    study_options,
    warmup_parameters,
)
from mm_balance.errors import UserError


def test_defaults_resolve_for_every_command():
    for command in COMMANDS.values():
        assert command.parse([]).given == {}
        config = command.resolve({})
        assert config.optimization.batch_size == 32
        assert config.model.encoder == "resnet_narrow"
        assert config.adaptive.adaptive_learning_rate == config.optimization.learning_rate


def test_only_what_was_given_counts_as_given():
    words = ["--seed", "0", "--gap_weight=0.5", "--learning_rate", "auto", "--resume_run", "auto"]
    assert COMMANDS["main"].parse(words).given == {"seed": 0, "gap_weight": 0.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rate", "abc"], ["learning_rate=abc", "not a number", "above 0"]),
        (["--learning_rate", "0"], ["learning_rate=0", "out of range"]),
        (["--learning_rate", "nan"], ["learning_rate=nan", "out of range"]),
        (["--learning_rate", "inf"], ["out of range"]),
        (["--learning_rate", ""], ["learning_rate is empty"]),
        (["--anneal", "foo"], ["anneal=foo", "constant, linear, cosine, exponential"]),
        (["--loss_form", "prosee"], ["did you mean prose?"]),
        (["--seed", "1.5"], ["seed=1.5", "whole number"]),
        (["--batch_size", "1"], ["batch_size=1", "at least 2"]),
        (["--corruption", "0.6"], ["corruption=0.6", "at most 0.5"]),
        (["--dataset", "cremda"], ["dataset=cremda is not known", "did you mean cremad?"]),
        (["--preset", "nowhere.yaml"], ["preset=nowhere.yaml: no such file"]),
        (["--gap_weight", "-1"], ["gap_weight=-1", "at least 0"]),
        (["--gap_weigth", "1"], ["unknown parameter `gap_weigth`", "did you mean gap_weight?"]),
        (["--gap"], ["unknown parameter `gap`"]),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_them(arguments, words):
    with pytest.raises(UserError) as raised:
        COMMANDS["main"].parse(arguments)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "imagenet"}, "dataset=imagenet is not known"),
        ({"preset": "nowhere.yaml"}, "no such file"),
        ({"anneal": "exponential", "anneal_end": 0.0}, "anneal_end above 0"),
        ({"device": "gpu"}, "device=gpu"),
        ({"modalities": "audio"}, "two or more"),
        ({"modalities": "audio,audio"}, "two or more"),
        ({"precision": "float16", "device": "cpu"}, "needs a CUDA device"),
    ],
)
def test_combinations_that_cannot_work_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        resolve(given)


def test_an_explicit_value_beats_the_preset():
    assert resolve({}).warmup.warmup_epochs == 6
    assert resolve({"warmup_epochs": 2}).warmup.warmup_epochs == 2
    assert resolve({"preset": "quick"}).warmup.warmup_epochs == 2
    assert resolve({"preset": "quick", "warmup_epochs": 3}).warmup.warmup_epochs == 3


def test_a_named_preset_goes_over_that_of_the_data_set_and_is_no_data_set():
    config = resolve({"dataset": "clips/manifest.csv", "preset": "embeddings"})
    assert (config.model.encoder, config.train.epochs) == ("by_kind", 24)
    assert resolve({"dataset": "clips/manifest.csv"}).train.epochs == 100
    assert resolve({"preset": "embeddings", "encoder": "resnet_narrow"}).model.encoder == "resnet_narrow"
    with pytest.raises(UserError, match="dataset=embeddings is not known"):
        resolve({"dataset": "embeddings"})
    with pytest.raises(UserError, match="no such file; give auto, quick, embeddings or the path"):
        resolve({"preset": "embedding"})


def test_balanced_fusion_weight_follows_the_loss_form():
    assert resolve({}).gap_mixture.balanced_fusion_weight == 0.0
    assert resolve({"loss_form": "abstract_v2"}).gap_mixture.balanced_fusion_weight == 1.0
    assert (
        resolve({"loss_form": "abstract_v2", "balanced_fusion_weight": 0.25}).gap_mixture.balanced_fusion_weight == 0.25
    )


def test_an_explicit_value_beats_a_preset_where_it_is_the_declared_default_too(tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text("gap_weight: 2.0\nmethod: gap_mixture\noptimizer: adam\nseed: 7\n")
    parse = COMMANDS["main"].parse
    for words, expected in ((["--gap_weight", "0.5"], 0.5), (["--gap_weight", "0.6"], 0.6), ([], 2.0)):
        config = parse(["--preset", str(path), *words]).config
        assert config.gap_mixture.gap_weight == expected
        assert (config.run.seed, config.method.method, config.optimization.optimizer) == (7, "gap_mixture", "adam")
    assert resolve({"preset": str(path), "seed": 0}).run.seed == 0


def test_a_command_s_default_is_below_the_preset_and_what_it_does_not_take_is_above(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method: ogm\n")
    given = {"preset": str(path)}
    assert COMMANDS["train"].resolve({}).method.method == "concat"
    assert COMMANDS["train"].resolve(given).method.method == "ogm"
    assert COMMANDS["main"].resolve({}).method.method == "gap_mixture"
    assert COMMANDS["adaptive"].resolve(given).method.method == "gap_mixture"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense: 3", "sets nonsense, which is not a parameter"),
        ("gap_weigth: 3", "did you mean gap_weight"),
        ("resume_run: abc", "resume_run, which belongs on the command line"),
        ("preset: quick", "preset, which belongs on the command line"),
        ("batch_size: many", "mine.yaml: batch_size=many"),
        ("gap_weight: -1", "mine.yaml: gap_weight=-1"),
        ("- 1", "mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_in_a_preset_are_refused(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        resolve({"preset": str(path)})


def test_a_preset_file_lies_on_top_of_the_data_sets_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch_size: 16\nlearning_rate: 1e-2\nanneal: linear\ntrials: 3\n")
    config = resolve({"preset": str(path)})
    assert (config.optimization.batch_size, config.optimization.learning_rate) == (16, 0.01)
    assert (config.warmup.warmup_epochs, config.gap_mixture.anneal) == (6, "linear")


def test_options_of_the_paper_s_method_are_parameters_and_may_be_given_as_text():
    loss = resolve({"method": "gap_mixture", "method_options": "gap_weight=2.0,loss_form=abstract_v2"}).gap_mixture
    assert (loss.gap_weight, loss.loss_form, loss.balanced_fusion_weight) == (2.0, "abstract_v2", 1.0)
    with pytest.raises(UserError, match="gap_weight is given twice"):
        resolve({"gap_weight": 1.0, "method_options": "gap_weight=2.0"})
    with pytest.raises(UserError, match="gap_weight is an option of gap_mixture, not of method=ogm"):
        resolve({"method": "ogm", "gap_weight": 1.0})


def test_an_explicit_value_beats_the_options_text_of_a_preset_and_is_never_ignored(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("method_options: gap_weight=2.0,shift_weight=3.0\n")
    loss = resolve({"preset": str(path), "gap_weight": 0.5}).gap_mixture
    assert (loss.gap_weight, loss.shift_weight) == (0.5, 3.0)
    path.write_text("method: ogm\n")
    with pytest.raises(UserError, match="gap_weight is an option of gap_mixture, not of method=ogm"):
        resolve({"preset": str(path), "gap_weight": 0.5})


def test_a_saved_configuration_comes_back_without_its_preset_and_with_what_is_new(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch_size: 16\n")
    config = resolve({"preset": str(path), "seed": 3})
    path.unlink()
    saved = config.values()
    assert restore(saved) == config
    del saved["posterior_source"]  # as if it had been made before that parameter existed
    assert restore(saved) == config
    with pytest.raises(UserError, match="another version of MM-Balance, with gone"):
        restore({**saved, "gone": 1})


def test_text_and_value_are_inverse_for_every_default():
    for option in options().values():
        if option.default not in (AUTO, "none"):
            assert parse_value(option, format_value(option.default)) == option.default
    assert format_value(0.0001) == "0.0001"
    assert format_value(1.0) == "1.0"
    assert format_value(None) == "none"


def test_the_parameters_that_a_warm_up_depends_on_and_no_more():
    named = set(warmup_parameters())
    assert {"seed", "learning_rate", "optimizer", "encoder", "warmup_epochs", "precision"} <= named
    assert not {"gap_weight", "adaptive_epochs", "device", "mixture"} & named


def test_what_may_change_when_a_run_is_continued_is_declared():
    assert {name for name, item in options().items() if item.may_grow} == {"warmup_epochs", "adaptive_epochs", "epochs"}
    machine = {name for name, item in options().items() if item.machine}
    assert machine == {
        "allow_outside",
        "data_dir",
        "preset",
        "workers",
        "device",
        "system_metrics",
        "resume_run",
        "worst",
        "register_as",
    }
    asked = study_options()
    assert {name for name, item in asked.items() if item.may_grow} == {"trials", "confirm_seeds"}
    assert {name for name, item in asked.items() if item.machine} == {
        "workers", "devices", "storage", "worker_restarts",
    }  # fmt: skip


def test_every_option_is_documented_and_its_default_allowed():
    for option in options().values():
        assert option.help
        assert option.default in ("auto", "none") or parse_value(option, format_value(option.default)) == option.default
        assert not option.choices or option.default in (*option.choices, "auto")
    assert [command.name for command in COMMANDS.values() if not command.parameters] == ["sync"]


def test_a_parameter_s_name_is_its_own_in_all_groups():
    assert len(options()) == sum(len(members.__dataclass_fields__) for members in GROUPS.values())


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["main", "--help"], 0, "common parameters:"),
        (["study", "--help"], 0, "common parameters:"),
        (["train", "--help"], 0, "--method NAME --help"),
        (["main", "--sed", "1"], 1, "did you mean seed?"),
        (["main", "--learning_rate", "abc"], 1, "not a number"),
        (["train", "--dataset", "cremda"], 1, "did you mean cremad?"),
        (["evaluate"], 1, "run_id is missing"),
        (["worker"], 1, "study_name is missing"),
    ],
)
def test_help_and_mistakes_load_no_heavy_library(words, status, text):
    code = (
        "import sys; from mm_balance.commands import COMMANDS\n"
        "try: status = COMMANDS[sys.argv[1]](sys.argv[2:])\n"
        "except SystemExit as ended: status = ended.code\n"
        "heavy = ('torch', 'mlflow', 'optuna', 'sklearn', 'numpy', 'pandas')\n"
        "print(status, [name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert text in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == f"{status} []"


def test_help_is_one_line_of_usage_then_the_most_used_and_digits_only_last(capsys):
    with pytest.raises(SystemExit):
        COMMANDS["main"].parse(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: python -m entrypoints.main [--PARAMETER VALUE ...]"
    assert lines[1] == ""
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles[:2] == ["options:", "common parameters:"]
    assert titles[-1] == "the embedded data set `digits` only:"
