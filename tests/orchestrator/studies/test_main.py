"""The command line of `orchestrator.studies`."""

import pytest

from orchestrator.studies.__main__ import main


def error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as raised:
        main(arguments, prog="orchestrator studies")
    assert raised.value.code == 2
    return capsys.readouterr().err


def test_misspelled_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    message = "error: unknown command 'stat'; did you mean `status`? known: list, compare, status"
    assert message in error(["stat"], capsys)
    assert "arguments are required: COMMAND" in error([], capsys)


@pytest.mark.parametrize("command", ["list", "status", "compare", "logs", "stop", "resume"])
def test_help_explains_the_arguments_and_gives_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"], prog="orchestrator studies")
    text = capsys.readouterr().out
    assert f"\n\nexamples:\n  orchestrator studies {command}" in text
    usage = text.partition("\n\n")[0].split()
    for name in {"STUDY", "OTHER", "TRIAL"} & set(usage):
        assert f"\n  {name}  " in text, "an argument without an explanation"
