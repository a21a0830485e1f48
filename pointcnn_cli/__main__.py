"""The command `pointcnn`, also as `python -m pointcnn_cli`."""

from pointcnn_cli.cli.app import app


def main() -> None:
    """Run the command line in this process and exit with its code."""
    app(prog_name="pointcnn")


if __name__ == "__main__":
    main()
