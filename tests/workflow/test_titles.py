"""Names of runs tell runs apart."""

from mm_balance.config import resolve
from mm_balance.workflow.titles import LONGEST, overrides, run_title


def title(command, **given):
    return run_title(command, resolve({"dataset": "digits", **given}), "digits")


def test_names_say_command_method_data_and_seed():
    assert title("main") == "main gap_mixture digits seed 0"
    assert title("adaptive", seed=3) == "adaptive gap_mixture digits seed 3"
    assert title("warmup") == "warmup digits seed 0"
    assert title("train", method="ogm") == "ogm digits seed 0"


def test_names_say_what_was_overridden_and_nothing_else():
    assert title("main", gap_weight=2.0, fusion="sum") == "main gap_mixture digits seed 0, fusion=sum gap_weight=2.0"
    assert title("main", gap_weight=0.5, device="cpu") == "main gap_mixture digits seed 0", "the usual value; a machine"
    assert title("warmup", gap_weight=2.0) == "warmup digits seed 0", "a warm-up has no such parameter"
    assert title("main", preset="quick") == "main gap_mixture digits seed 0, preset=quick"
    assert title("train", method="ogm_ge", method_options="alpha=0.3") == "ogm_ge digits seed 0, alpha=0.3"
    assert overrides("main", resolve({"method_options": "gap_weight=2.0"})) == {"gap_weight": "2.0"}


def test_long_names_count_what_they_cannot_name():
    given = {"batch_size": 16, "learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.1, "gap_weight": 2.0,
             "shift_weight": 3.0, "hard_weight": 4.0, "fusion": "gated"}  # fmt: skip
    name = title("main", **given)
    assert len(name) <= LONGEST
    left_out = int(name.rsplit("(+", 1)[1].rstrip(")"))
    assert left_out > 0
    assert name.count("=") + left_out == len(given)
