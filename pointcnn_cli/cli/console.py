"""What a person sees: progress and messages on stderr, results on stdout."""

import contextlib
import errno
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pointcnn_cli.cli.layout import print_fitting, wrap_words
from pointcnn_cli.cli.streams import print_bytes, writing_result
from pointcnn_cli.reporting import Reporter, describe_duration

WIDE = 100  # columns of a terminal that has room for the scores beside the bar


@dataclass
class Settings:
    """The options that stand before the command."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


SETTINGS = Settings()


class SteadyConsole(Console):
    """Rich's console would end the process with 1 when nobody reads on; here the caller decides."""

    def on_broken_pipe(self) -> None:
        """Hand the error on."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads on")


def make_console(stderr: bool = True) -> Console:
    """A console on stderr (or stdout). Made anew for each use, since tests and pipes exchange the streams."""
    return SteadyConsole(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def say_error(message: str, hint: str | None, title: str = "Error") -> None:
    """One failure: what is wrong, and what to do next."""
    console = make_console()
    console.print(f"{title}:", style="bold red", end=" ")
    console.print(_fit(console, message, taken=len(title) + 2), markup=False)
    if hint:
        console.print("Try:", style="bold", end=" ")
        console.print(hint, markup=False)


def print_json(document: Any) -> None:
    r"""One JSON document on stdout, in UTF-8 in every locale; what is no text in a path becomes JSON's \udcxx."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    data = text.encode(errors="surrogateescape")  # paths as they are on disk, whatever the locale made of them
    try:
        data.decode()
    except UnicodeDecodeError:
        data = text.encode(errors="backslashreplace")
    print_bytes(data)


def print_table(table: Table) -> None:
    """A table on stdout. Raises OutputError."""
    with writing_result():
        print_fitting(make_console(stderr=False), table)


class ConsoleReporter(Reporter):
    """Shows progress: a bar on a terminal, at most one plain line an epoch elsewhere."""

    def __init__(self) -> None:
        self._console = make_console()
        self._animated = self._console.is_terminal and not self._console.is_dumb_terminal and not SETTINGS.quiet
        self._progress: Progress | None = None
        self._busy = False
        self._task = TaskID(0)
        self._epochs = 0
        self._first_epoch = 1
        self._steps = 1
        self._started = 0.0
        self._best = ""

    def say(self, text: str) -> None:
        if not SETTINGS.quiet:
            self._console.print(_fit(self._console, text), markup=False)

    def detail(self, text: str) -> None:
        if SETTINGS.verbose:
            self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self._console.print("Warning:", style="bold yellow", end=" ")
        self._console.print(_fit(self._console, text, taken=len("Warning: ")), markup=False)

    def show_split(self, parts: list[dict[str, Any]]) -> None:
        if not SETTINGS.quiet:
            print_fitting(self._console, split_table(parts))

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        if not self._animated or self._busy or self._progress is not None or SETTINGS.verbose:
            yield
            return
        self._busy = True
        try:
            with self._console.status(f"{text} ...", spinner="line", refresh_per_second=4):
                yield
        finally:
            self._busy = False

    def start_training(self, first_epoch: int, epochs: int, steps: int) -> None:
        self._first_epoch, self._epochs, self._steps = first_epoch, epochs, steps
        self._started = time.monotonic()
        if not self._animated:
            return
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
        if self._console.width >= WIDE:
            columns.append(TextColumn("{task.fields[scores]}"))
        total = (epochs - first_epoch + 1) * steps
        self._start_bar(columns, f"epoch {first_epoch}/{epochs}", total)

    def end_step(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        if self._progress is not None:
            self._progress.update(
                self._task,
                description=f"epoch {epoch}/{self._epochs}",
                completed=(epoch - self._first_epoch) * self._steps + step,
                scores=f"loss {logs.get('loss', 0):.3f} accuracy {logs.get('accuracy', 0):.3f}{self._best}",
            )

    def end_epoch(self, row: Mapping[str, float], best_epoch: int) -> None:
        epoch = int(row["epoch"])
        self._best = f" validation {row['val_accuracy']:.3f} best epoch {best_epoch}"
        done = epoch - self._first_epoch + 1
        left = (time.monotonic() - self._started) / done * (self._epochs - epoch)
        self.say(
            f"epoch {epoch}/{self._epochs}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.3f}  "
            f"validation loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.3f}  "
            f"best epoch {best_epoch}  {row['seconds']:.1f} s, {describe_duration(left)} left"
        )

    def end_training(self) -> None:
        self._stop_bar()

    def start_rows(self, rows: int) -> None:
        if self._animated and self._progress is None:
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._start_bar(columns, "rows", rows)

    def end_rows(self, rows: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, rows)

    def end_prediction(self) -> None:
        self._stop_bar()

    def _start_bar(self, columns: list[Any], description: str, total: int) -> None:
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._progress.add_task(description, total=total, scores="")
        self._progress.start()

    def _stop_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _fit(console: Console, text: str, taken: int = 0) -> str:
    """`text` broken between words on a terminal; elsewhere as it is, for other tools."""
    return wrap_words(text, console.width, taken) if console.is_terminal else text


def split_table(parts: list[dict[str, Any]]) -> Table:
    """Class and group counts of each part, the ceiling of its accuracy, and the best constant answer."""
    table = Table(title="split", title_justify="left")
    table.add_column("")
    for part in parts:
        table.add_column(Text(part["name"]), justify="right")
    table.add_row("rows", *[str(part["rows"]) for part in parts])
    if parts[0]["groups"] is not None:
        table.add_row("groups", *[str(part["groups"]) for part in parts])
    for name in parts[0]["classes"]:
        counts = [part["classes"][name] for part in parts]
        table.add_row(Text(f"  {name}"), *[str(c) if c else "[red]0[/red]" for c in counts])
    for key, text in (("ceiling", "accuracy ceiling"), ("chance", "best constant answer")):
        table.add_row(text, *["" if part[key] is None else f"{part[key]:.3f}" for part in parts])
    return table


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """The score as a table for a person."""
    low, high = metrics["accuracy_ci"]
    table = Table(title=f"score on {metrics['n']} rows", title_justify="left")
    for title in ("", "precision", "recall", "f1", "rows"):
        table.add_column(title, justify="left" if not title else "right")
    for name, row in metrics["per_class"].items():
        table.add_row(
            Text(name), f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['f1']:.3f}", str(row["support"])
        )
    groups = "" if metrics["n_groups"] is None else f" over {metrics['n_groups']} groups"
    lines = [
        f"accuracy {metrics['accuracy']:.3f}, 95 % interval {low:.3f} to {high:.3f}{groups}",
        f"best constant answer {metrics['chance_accuracy']:.3f}, ceiling {metrics['ceiling_accuracy']:.3f}",
        f"balanced accuracy {metrics['balanced_accuracy']:.3f}, macro F1 {metrics['macro_f1']:.3f}, "
        f"log loss {metrics['log_loss']:.3f}, calibration error {metrics['expected_calibration_error']:.3f}",
    ]
    if metrics["selected_on_these_rows"]:
        lines.append("the weights were chosen on these rows, so the score is somewhat too good")
    table.caption, table.caption_justify = "\n".join(lines), "left"
    return table
