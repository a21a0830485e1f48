"""What was probably meant by an option or a command that is not there."""

from collections.abc import Mapping
from typing import Any

GLOBAL_OPTIONS = ("-q", "--quiet", "-v", "--verbose", "--debug", "--version")


def explain_option(error: Any) -> None:
    """Of an unknown option behind a command: that it belongs before it, or is a key of the config. Changes the
    message."""
    name = getattr(error, "option_name", None)
    if name is None or not hasattr(error, "possibilities") or error.ctx is None:
        return
    if name in GLOBAL_OPTIONS:
        error.message = f"{name} goes before the command, as in: pointcnn {name} COMMAND ..."
        error.possibilities = None
    elif any(parameter.name == "settings" for parameter in error.ctx.command.params):
        from pointcnn_cli.config.wording import suggest_keys  # not for commands that are typed as they should be

        keys = suggest_keys((name.lstrip("-"),))
        if keys:
            error.message = f"No such option: {name}. Keys of the config are set with: --set {keys[0]}=VALUE"
            error.possibilities = None


def explain_command(error: Any, wanted: str, commands: Mapping[str, Any]) -> None:
    """Of an unknown command: that it belongs to a group. Changes the message."""
    groups = [name for name, command in commands.items() if wanted in getattr(command, "commands", {})]
    if groups:
        error.message = f"No such command {wanted!r}. Did you mean: pointcnn {groups[0]} {wanted}"
