"""The documents: every command in them runs as written, links lead somewhere, and what is made from code is fresh.

A block fenced as `sh` or `python` is run. One that is not stands after a comment that says why:
`<!-- not run: REASON -->`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from pointcnn_cli import errors, training
from pointcnn_cli.config.load import load_config
from pointcnn_cli.config.reference import describe_config
from pointcnn_cli.reporting import Reporter

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md")]
)
BLOCK = re.compile(
    r"(?P<note><!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<kind>sh|python)\n(?P<commands>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]+)?\)")
LIMIT = 600  # seconds for a page; generous, since a busy machine takes minutes to start TensorFlow a few times


def name_page(path: Path) -> str:
    return str(path.relative_to(ROOT))


def list_commands(page: Path) -> list[str]:
    """The blocks of a page that are to be run, for a shell."""
    found = [block for block in BLOCK.finditer(page.read_text()) if not block["reason"]]
    python = "python - <<'END_OF_BLOCK'\n{}END_OF_BLOCK\n"
    return [python.format(b["commands"]) if b["kind"] == "python" else b["commands"] for b in found]


def list_anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder like a checkout; what a page writes lies nowhere else."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "data").mkdir()
    return tmp_path


def make_base_run(folder: Path) -> None:
    """What README's first command leaves: .ci/run has just run it, else a smaller one is trained."""
    runs = folder / "runs" / "base"
    if trained := sorted((ROOT / "runs" / "base").glob("*")):
        shutil.copytree(trained[-1], runs / trained[-1].name)
        return
    settings = ["data.simulate={windows: 60, subjects: 10}", "train.epochs=1"]
    training.train(load_config(ROOT / "configs" / "base.yaml", settings), runs / "small", ["pointcnn"], Reporter())


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if list_commands(page)], ids=name_page)
def test_every_command_of_a_page_runs_as_written(page: Path, workplace: Path) -> None:
    script = "".join(list_commands(page))
    if "runs/base" in script:
        make_base_run(workplace)
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=workplace, env=environment, capture_output=True, text=True,
        timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{name_page(page)}:\n{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_no_command_stands_in_a_block_that_is_not_looked_at(page: Path) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    hidden = [block for kind, block in blocks if kind in ("", "text") and re.search(r"^(\$ )?pointcnn ", block, re.M)]
    assert not hidden, f"{name_page(page)}: fence these as sh: {hidden}"


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{name_page(page)} links to {target}, which does not exist"
        if anchor and linked.suffix == ".md":
            assert anchor[1:] in list_anchors(linked.read_text()), f"{name_page(page)} links to {target}{anchor}"


def test_the_config_reference_is_the_schema() -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == describe_config(), "run: pointcnn config reference > docs/config.md"


def test_every_exit_code_is_documented() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PointcnnError)
    ]
    codes = {kind.exit_code for kind in kinds if kind is not errors.Interrupted} | {0, 3}
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert documented == codes
