"""The command `pointcnn`, also as `python -m pointcnn_cli`."""

import contextlib
import os
import signal
import sys

from pointcnn_cli.errors import TrainingError
from pointcnn_cli.signals import WORDS, Stopped, ignore_signals, raise_on_signals


def main() -> None:
    """Run the command line in this process and exit with its code."""
    try:
        raise_on_signals()
        # Pydantic would look through every installed package for plugins, and run them.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        from pointcnn_cli.cli.app import app
        from pointcnn_cli.cli.streams import prepare_streams

        prepare_streams()
        app(prog_name="pointcnn")
    except SystemExit as ended:
        ignore_signals()
        _leave_others(ended.code)
        if ended.code == TrainingError.exit_code:
            # Once memory has run out in one of TensorFlow's threads, the end of the process may wait for it for ever.
            os._exit(TrainingError.exit_code)
        raise
    except Stopped as stopped:
        # What is left of the process, TensorFlow's threads for one, need not end in order.
        with contextlib.suppress(OSError):
            os.write(2, f"Stopped: {WORDS[signal.Signals(stopped.signal_number)]}\n".encode())
        os._exit(128 + stopped.signal_number)


def _leave_others(code: object) -> None:
    """End a process of a training that others take part in; do nothing in any other."""
    if "pointcnn_cli.joining" in sys.modules:
        from pointcnn_cli.joining import leave

        if leave(failed=code not in (None, 0)):
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
