"""Arguments of a study in Python that cannot be used."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Study
from orchestrator.console import InputError
from pipelines.errors import UserError

STUDY = {"study": "s", "variants": {"a": {}}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": [STUDY]}, "`source` is of type list; use the path of a study file or a dict"),
        ({"source": ""}, "`source` is empty; use"),
        ({"set": ["training.epochs=2"]}, "`set` is of type list; use a dict such as {'training"),
        ({"only": 3}, "`only` is of type int; use a pattern or a list of patterns"),
        ({"only": ["a", 3]}, "`only` is of type int"),
        ({"only": [""]}, "`only` is empty"),
        ({"storage": None}, "`storage` is of type NoneType; use a directory or a URI"),
        ({"storage": ""}, "`storage` is empty; use a directory or a URI"),
        ({"source": "a\0b.yaml"}, r"`source` is 'a.x00b.yaml': the character #x00 is not allowed"),
        ({"storage": Path("a\0b")}, r"`storage` is 'a.x00b': the character #x00 is not allowed"),
        ({"tracking": Path("mlflow.db")}, r"`tracking` is of type \w+; use a tracking URI"),
    ],
)
def test_argument_of_another_type_is_reported(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Study(**({"source": STUDY} | arguments))


@pytest.mark.parametrize("address", [5, "", Path("cluster.yaml")])
@pytest.mark.parametrize("method", ["plan", "run"])
def test_address_of_another_type_is_reported(method: str, address: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`address` is .*; use the address of a Ray cluster"):
        getattr(Study(STUDY, storage=tmp_path), method)(address)


def test_other_types_of_the_same_kind_are_used(tmp_path: Path) -> None:
    study = Study(STUDY, set=Counter({"training.epochs": 2}), only=None, storage=tmp_path)
    assert study.trials == ["a"]
    assert Study(STUDY, only=("a",)).trials == ["a"]


def test_errors_name_the_arguments_and_not_the_options(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for call, message in (
        (lambda: Study(STUDY, only="c"), "`only` c: matches no trial; the study has: a"),
        (lambda: Study(STUDY, set={"training.epochs": "x"}), '`set` training.epochs="x": '),
        (lambda: Study(STUDY, storage=tmp_path / "file").plan(), "`storage` .*file: cannot be"),
        (lambda: Study(STUDY, storage=tmp_path).table(), "with `storage`, or set MLFLOW_TRACKING"),
        (
            lambda: Study(STUDY, storage=tmp_path).run("c.yaml"),
            r"`address` c.yaml .* only plan\(\)",
        ),
    ):
        with pytest.raises(UserError, match=message) as raised:
            call()
        assert "--" not in str(raised.value)


def test_options_of_other_commands_keep_their_names(tmp_path: Path) -> None:
    message = "`address` 127.0.0.1:9: nothing answers.*`ray status --address HOST:PORT`"
    with pytest.raises(UserError, match=message):
        Study(STUDY, storage=tmp_path).run("127.0.0.1:9")
