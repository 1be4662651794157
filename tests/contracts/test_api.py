"""Every name of the Python API can be imported, is documented and typed, and costs nothing before it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import paretune
from paretune.compression import STEPS
from paretune.core.errors import UserError
from tests_support import ROOT

FUNCTIONS = ["check", "evaluate", "optimize", "predict", "profile", "resume", "sweep", "train"]
HEAVY = {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "matplotlib", "pydantic", "typing"}


def python(code: str, *options: str) -> str:
    environment = {"PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_for_type_checkers_are_those_that_can_be_imported() -> None:
    tree = ast.parse((ROOT / "platform/paretune/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    shown = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(shown) == paretune.__all__
    for name, module in shown.items():
        assert getattr(paretune, name) is getattr(__import__(module or "", fromlist=[name]), name), name


@pytest.mark.parametrize("name", paretune.__all__)
def test_every_name_is_documented_and_listed(name: str) -> None:
    assert len(inspect.getdoc(getattr(paretune, name)) or "") > 20
    assert name in dir(paretune)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_typed_and_its_arguments_are_described(name: str) -> None:
    function = getattr(paretune, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    about = inspect.getdoc(function) or ""
    for part in ("Args:", "Raises:", "Example:"):
        assert part in about
    arguments = about.partition("Args:")[2].partition("\n\n")[0]
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"    {parameter.name}: " in arguments, parameter.name


def test_every_public_class_of_the_front_describes_its_methods() -> None:
    for name, method in vars(paretune.Front).items():
        if not name.startswith("_") and callable(method):
            assert inspect.getdoc(method), name
            assert inspect.signature(method).return_annotation is not inspect.Signature.empty, name


@pytest.mark.parametrize("name", STEPS.names)
def test_every_step_is_a_function_with_its_fields(name: str) -> None:
    function, fields = getattr(paretune.steps, name), STEPS.load(name).model_fields
    parameters = inspect.signature(function).parameters
    assert fields.keys() < parameters.keys()
    assert {"network", "example", "detector", "data", "workdir"} < parameters.keys()
    assert "step" not in parameters
    assert all(
        parameters[field].default == info.get_default(call_default_factory=True) for field, info in fields.items()
    )
    assert all(f"{field}: " in (function.__doc__ or "") for field in fields)
    assert name in dir(paretune.steps)


def test_a_step_of_another_package_is_a_function_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS.rows, "foreign", STEPS.rows["sparsify"])
    assert "sparsity" in inspect.signature(paretune.steps.foreign).parameters
    vars(paretune.steps).pop("foreign")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        paretune.no_such_name  # noqa: B018 - that is the test
    with pytest.raises(AttributeError, match=r"there are .*prune"):
        paretune.steps.no_such_step  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    """Not even ``typing``: it is as quick as a module with a version in it."""
    code = "import sys; before = set(sys.modules); import paretune; print(*sorted(set(sys.modules) - before))"
    assert python(code, "-S").split() == ["__future__", "paretune"]
    used = python("import sys, paretune; paretune.UserError, paretune.Front; print(*sys.modules)").split()
    assert (HEAVY - {"typing"}).isdisjoint(used)


def test_a_part_that_lacks_its_package_names_it() -> None:
    code = "import sys\nsys.modules['pydantic'] = None\nimport paretune\ntry:\n    paretune.check('job.yaml')\n"
    said = python(f"{code}except paretune.UserError as error:\n    print(error)")
    assert "pip install pydantic" in said
    assert issubclass(paretune.UserError, UserError)
