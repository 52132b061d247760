"""Methods by name: lazily, by import path, and from installed plug-ins."""

import subprocess
import sys
from pathlib import Path

import pytest

from mm_balance import methods
from mm_balance.errors import UserError
from mm_balance.methods import METHODS, Method, build_method, check_takes_labels, find_method, method_names, plugins
from mm_balance.methods.registry import BUILT_IN, MethodRegistry
from mm_balance.testing import planned, tiny_stage, update
from tests.helpers.outside import METHOD, write_module, write_plugin

ROOT = Path(__file__).parents[2]
LOADED = """
import sys
from mm_balance.methods import METHODS, find_method, option_lines
assert "ogm" in METHODS and list(METHODS)[0] == "concat"
def loaded():
    wanted = sorted(name for name in sys.modules if name == "torch" or name.startswith("mm_balance.methods."))
    print(*(name.removeprefix("mm_balance.methods.") for name in wanted))
loaded()
find_method("concat")
loaded()
"""


def test_importing_the_registry_loads_neither_torch_nor_a_method_and_using_one_loads_that_one():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["options registry", "base concat options registry torch"]


def test_every_line_of_the_registry_is_a_method_of_that_name():
    assert list(METHODS) == list(BUILT_IN)
    assert {name: method.name for name, method in METHODS.items()} == {name: name for name in BUILT_IN}
    assert find_method("ogm") is METHODS["ogm"]


def test_the_registry_is_a_mapping_that_programs_can_add_to():
    registry = MethodRegistry({"later": "no_such_module:Class"})
    assert "later" in registry  # not imported
    registry["mine"] = Method
    assert (list(registry), len(registry), registry["mine"]) == (["later", "mine"], 2, Method)
    del registry["later"]
    assert registry.get("later") is None


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="has no attribute 'Metod'"):
        methods.Metod  # noqa: B018


def test_an_unknown_method_is_answered_with_what_is_meant_and_what_there_is():
    with pytest.raises(
        UserError, match=r"method=ogm_g is not known \(did you mean ogm_ge\?\); give one of concat, .*Class"
    ):
        find_method("ogm_g")


def test_a_method_is_found_by_its_import_path(import_folder):
    write_module(import_folder, "found_methods")
    write_module(import_folder, "found_package.inner.methods")
    for module in ("found_methods", "found_package.inner.methods"):
        found = find_method(f"{module}:Halved")
        assert (found.name, found.__module__) == ("halved", module)
        built = build_method(f"{module}:Halved", {"factor": 0.25}, ("audio", "visual"), 10)
        assert isinstance(built, found)
        assert built.options.factor == 0.25
    assert find_method("mm_balance.methods.ogm:Ogm") is METHODS["ogm"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no_such_module:Halved", "there is no module no_such_module; set PYTHONPATH to the folder that has it"),
        ("wrong_methods.py:Halved", r"there is no module wrong_methods\.py"),
        ("wrong_methods:", "not an import path; write it as package.module:Class"),
        (":Halved", "not an import path; write it as package.module:Class"),
        ("./wrong_methods:Halved", "not an import path; write it as package.module:Class"),
        ("wrong_methods:Halfed", "wrong_methods has no Halfed; its Method classes: Halved, Nameless, Untitled, Ogm"),
        ("wrong_methods:Halved.name", r"Halved\.name is not a Method; derive the class from mm_balance\.methods\.base:Method"),
        ("wrong_methods:HalvedOptions", "HalvedOptions is not a Method; derive the class from"),
        ("wrong_methods:Nameless", "Nameless has no name; give the class one"),
        ("wrong_methods:Untitled", "Untitled has no title; give the class one"),
        ("wrong_methods:Ogm", r"Ogm\.name is 'ogm', a method of MM-Balance; give it another name"),
    ],
)  # fmt: skip
def test_mistakes_in_an_import_path_are_told_in_one_line(import_folder, path, told):
    more = """
class Nameless(Method):
    title = "without a name"

class Untitled(Method):
    name = "untitled"

class Ogm(Halved):
    name = "ogm"
"""
    write_module(import_folder, "wrong_methods", METHOD + more)
    with pytest.raises(UserError, match=told) as caught:
        find_method(path)
    assert str(caught.value).startswith(f"method={path}: ")
    assert "\n" not in str(caught.value)


def test_a_module_that_lacks_a_library_keeps_its_traceback(import_folder):
    write_module(import_folder, "lacking_methods", "import no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        find_method("lacking_methods:Halved")


def test_a_plug_in_is_found_by_the_name_that_it_gives(import_folder):
    write_module(import_folder, "plugged.methods")
    write_plugin(import_folder, "plugged", halved_plugin="plugged.methods:Halved", broken="plugged.methods:Lost")
    assert find_method("halved_plugin").__module__ == "plugged.methods"
    assert method_names() == [*METHODS, "broken", "halved_plugin"]
    assert {item.name for item in plugins()} == {"broken", "halved_plugin"}
    with pytest.raises(UserError, match=r"method=broken: plugged\.methods has no Lost; its Method classes: Halved"):
        find_method("broken")


def test_a_name_that_two_methods_have_is_refused(import_folder):
    write_plugin(import_folder, "first", ogm="first:Ogm", halved="first:Halved")
    write_plugin(import_folder, "second", halved="second:Halved")
    with pytest.raises(UserError, match=r"ogm:Ogm of MM-Balance and first:Ogm of the installed package first; unins"):
        find_method("ogm")
    with pytest.raises(UserError, match=r"method=halved is ambiguous: (first|second):.* and (first|second):"):
        find_method("halved")
    assert find_method("ogm_ge") is METHODS["ogm_ge"]


class Careless(Method):
    """Returns the loss itself."""

    name = "careless"
    title = "careless"

    def loss(self, model, batch, clock):
        return model(batch.inputs).fused.sum()


def test_what_a_loss_has_to_return_is_told():
    stage = tiny_stage(Careless)
    _, batches = planned(stage)
    with pytest.raises(
        UserError, match=r"method=careless: loss returned a Tensor; return loss_output\(output, fusion=\.\.\.\)"
    ):
        update(stage, batches[0])


def test_a_method_of_the_users_is_told_how_to_take_several_classes():
    with pytest.raises(UserError, match=r"method=careless is for one class.*set several_classes = True on the class"):
        check_takes_labels(Careless, several_classes=True)
    with pytest.raises(
        UserError, match="method=mla is for one class per sample, these data have several; use one of concat"
    ) as caught:
        check_takes_labels(METHODS["mla"], several_classes=True)
    assert "several_classes = True" not in str(caught.value)
    check_takes_labels(Careless, several_classes=False)
