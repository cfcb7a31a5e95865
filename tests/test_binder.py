"""What mybinder.org does with binder/: the image that repo2docker plans, and a first notebook run from what that image would hold.

``.ci/run`` makes two environments: REPO2DOCKER is the command of one, BINDER_PYTHON the Python of another that holds what binder/environment.yml
pins and nothing else.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"


def needed(variable: str) -> Path:
    if not (given := os.environ.get(variable)):
        pytest.skip(f"{variable} is not set; .ci/run makes the environment and sets it")
    return Path(given).absolute()  # not resolved: a link into an environment is how Python knows the environment


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The files that git has, or would have, and no others."""
    folder = tmp_path_factory.mktemp("binder") / "repository"
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (source := ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def planned(repository: Path) -> str:
    """The Dockerfile that repo2docker makes of a folder; nothing is built."""
    command = [needed("REPO2DOCKER"), "--no-build", "--debug", "."]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_scripts_are_executable_and_python_is_pinned():
    for script in ("postBuild", "start"):
        assert os.access(BINDER / script, os.X_OK), f"binder/{script} is not executable: chmod +x"
    assert re.search(r"^  - python=3\.\d+$", (BINDER / "environment.yml").read_text(), re.M)


def test_the_image_is_made_of_binder_alone(tree, tmp_path):
    plan = planned(tree)
    python = re.search(r"^  - python=(.+)$", (BINDER / "environment.yml").read_text(), re.M)[1]
    assert f"python={python}" in plan
    for line in (
        'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"',
        "RUN ./binder/postBuild",
        'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"',
    ):
        assert line in plan, f"missing in what repo2docker plans: {line}"
    assert "pip install" not in plan and "pyproject" not in plan  # the package itself is postBuild's affair

    bare = shutil.copytree(tree, tmp_path / "bare", ignore=shutil.ignore_patterns("binder"))
    assert "binder/environment.yml" not in planned(bare)  # so the lines above do come from binder/


def test_a_first_notebook_runs_from_what_binder_installs(tree, tmp_path):
    python = needed("BINDER_PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON", "NBGENOMICS"))}
    env |= {"PATH": f"{python.parent}{os.pathsep}{env['PATH']}", "NBGENOMICS_DATA": str(tmp_path / "cache")}

    def call(*command, cwd: Path) -> str:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    call(tree / "binder/postBuild", cwd=tree)
    notebooks, start = tree / "notebooks", tree / "binder/start"  # JupyterLab starts kernels in the notebook's folder
    asked = "import sys, nbgenomics; print(nbgenomics.__file__, '%d.%d' % sys.version_info[:2])"
    place, version = call(start, "python", "-c", asked, cwd=notebooks).split()
    assert place.startswith(str(python.parent.parent)) and f"python={version}" in (BINDER / "environment.yml").read_text()

    call(start, "nbgenomics", "run", "00_start_here", "-p", "epochs", "5", "--quiet", "--run-dir", tmp_path / "run", cwd=notebooks)
    scores = json.loads((tmp_path / "run/manifest.json").read_text())["scores"]
    (auprc,) = (score for score in scores if score["metric"] == "auprc")
    assert auprc["low"] > 1.5 * auprc["baseline"]
    text = (tmp_path / "run/notebook.ipynb").read_text()
    assert "Form of" in text and "image/png" in text  # the form found its notebook; charts were drawn
