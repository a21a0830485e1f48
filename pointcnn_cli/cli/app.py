"""The command line: the commands, the options before them, and the one place that turns failures into words and exit
codes."""

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pointcnn_cli import __version__
from pointcnn_cli.cli import (
    compare,
    config,
    cv,
    data,
    diagnose,
    doctor,
    evaluate,
    export,
    predict,
    report,
    train,
    tune,
)
from pointcnn_cli.cli.console import SETTINGS, say_error
from pointcnn_cli.cli.streams import STDOUT, discard, writing_result
from pointcnn_cli.cli.usage import explain_command, explain_option
from pointcnn_cli.errors import Interrupted, PointcnnError

REPORT_BUG = (
    f"this is a bug in pointcnn {__version__}; please report it with the command and the output of: "
    "pointcnn --debug ..."
)


class Commands(TyperGroup):
    """The group of all commands; a failure in any of them ends here."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the arguments; --help and --version write to stdout here."""
        with _telling_failures(), writing_result():
            return super().make_context(*arguments, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; where there is none, say which was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if _is_usage_error(error):
                explain_command(error, args[0], self.commands)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _telling_failures():
            return super().invoke(ctx)


@contextlib.contextmanager
def _telling_failures() -> Iterator[None]:
    """Turn any failure into words on stderr and an exit code."""
    try:
        yield
    except Interrupted as error:
        say_error(error.message, error.hint, title="Stopped")
        raise typer.Exit(error.exit_code) from None
    except PointcnnError as error:
        _show(error, error.message, error.hint)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        # Whoever read our output has what it wanted.
        discard(STDOUT)
        raise typer.Exit(0) from None
    except MemoryError as error:
        _show(error, "out of memory", "close other programs, or use a smaller file or train.batch_size")
        raise typer.Exit(7) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _is_usage_error(error):
            explain_option(error)
            raise
        _show(error, f"unexpected {type(error).__name__}: {error}", REPORT_BUG)
        raise typer.Exit(1) from None


def _is_usage_error(error: Exception) -> bool:
    """Typer's own errors know how to show themselves; its copy of Click is private, so they are told by what they can
    do."""
    return hasattr(error, "exit_code") and hasattr(error, "show")


def _show(error: BaseException, message: str, hint: str | None) -> None:
    if SETTINGS.debug:
        traceback.print_exception(error)
    say_error(message, hint)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pointcnn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only warnings, errors and the result.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="More detail, such as the layers of the network.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show Python tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Train, evaluate and apply 3D-CNNs on four-channel point-cloud sequences (millimetre-wave radar).

    Start with:  [bold]pointcnn train configs/base.yaml[/bold]
    """
    SETTINGS.quiet, SETTINGS.verbose, SETTINGS.debug = quiet, verbose, debug
    if verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")  # TensorFlow may speak; else it is kept quiet


app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(cv.cv)
app.command()(diagnose.diagnose)
app.command()(compare.compare)
app.command()(report.report)
app.command()(export.export)
app.command()(doctor.doctor)
app.command()(tune.tune)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
