"""The project itself: layers, imports, dependency lists, notebooks without outputs."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LEVELS = [
    ["progress", "files"],
    ["simulate_regulatory"],
    ["simulate"],
    ["registry"],
    ["intervals", "normalize", "layers", "bam"],
    ["genome", "coverage", "genes", "labels", "peaks"],
    ["datasets", "sequences"],
    ["models", "evaluation", "training"],
    ["interpret", "checkpoints", "motifs", "variants"],
    ["charts", "learned", "genomewide", "igv", "mutagenesis"],
    ["scoring", "tracks"],
    ["explain", "report"],
    ["runs"],
    ["sweeps"],
    ["widgets"],
    ["__main__"],
]
OWNERS = {  # heavy or central packages and the modules that may import them
    "keras": {"checkpoints", "layers", "models", "training", "interpret", "mutagenesis", "learned", "datasets", "genomewide"},
    "tensorflow": {"datasets", "training", "interpret", "mutagenesis", "learned", "genomewide"},
    "pysam": {"bam", "coverage", "simulate", "registry", "variants"},
    "pyBigWig": {"coverage", "tracks", "simulate", "genomewide"},
    "memelite": {"motifs"},
    "h5py": {"labels", "scoring"},
    "papermill": {"runs"},
    "distributed": {"sweeps", "genomewide"},
    "anywidget": {"igv"},
    "altair": {"charts", "explain", "tracks"},
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def imports(module: str):
    paths = [ROOT / "nbgenomics" / f"{module}.py", *(ROOT / "nbgenomics" / module).glob("*.py")]  # a module, or a package such as widgets
    for node in (node for path in paths if path.exists() for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "nbgenomics":
                yield from (f"nbgenomics.{alias.name}" for alias in node.names)
            elif node.module:
                yield node.module


MODULES = sorted({path.stem for path in (ROOT / "nbgenomics").glob("*.py")} - {"__init__"} | {"widgets"})


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert module in LEVEL, f"give {module} a level in this test"
    for name in imports(module):
        top, _, rest = name.partition(".")
        if top == "nbgenomics" and rest and not rest.startswith("__") and rest.split(".")[0] != module:
            assert LEVEL[rest.split(".")[0]] < LEVEL[module], f"{module} imports {rest}, which is not below it"
        if top in OWNERS:
            assert module in OWNERS[top], f"{module} imports {top}, which belongs to {sorted(OWNERS[top])}"


def test_import_is_light():
    """No heavy package is loaded by `import nbgenomics`, nor by asking the command line for help."""
    heavy = ["tensorflow", "keras", "altair", "pysam", "bioframe", "numba", "papermill", "matplotlib", "pandas"]
    for command in ("import nbgenomics", "import nbgenomics.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass"):
        code = f"{command}\nimport sys, json; print(json.dumps([m for m in {heavy if 'main' not in command else heavy[:7]} if m in sys.modules]))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        assert json.loads(found) == []


def test_charts_need_no_grammar_of_iris():
    code = "from nbgenomics import charts; import sys; print('lark' in sys.modules); import jsonschema, rfc3987_syntax; print('lark' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["False", "True"]  # and who asks for it later has it


def _dependencies(path: Path) -> set[str]:
    listed = yaml.safe_load(path.read_text())["dependencies"]
    return set(next(entry["pip"] for entry in listed if isinstance(entry, dict)))


def test_dependency_lists_agree():
    """pyproject.toml, environment.yml and binder/ name the same packages in the same ranges."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared, (cpu, *_) = set(project["dependencies"]), project["optional-dependencies"]["cpu"]
    assert _dependencies(ROOT / "binder/environment.yml") == declared | {cpu.split(";")[0].strip()}
    assert _dependencies(ROOT / "environment.yml") == declared | {cpu.split(";")[0].strip().replace("-cpu", "")}
    assert all(re.search(r"[<>=]", line) for line in declared), "every dependency has a range"


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["cpu"]
    names = {re.split(r"[<>=;\[ ]", line)[0].lower().replace("-", "_") for line in lines}
    names |= {
        "sklearn",
        "vl_convert",
        "keras",
        "h5py",
        "ipython",
        "tensorflow",
        "jupyter_client",
        "jupyter_server",
        "traitlets",
        "pygments",
    }  # import names, and what TensorFlow and JupyterLab bring
    for module in MODULES:
        for name in imports(module):
            top = name.split(".")[0].lower()
            assert top in names or top in sys.stdlib_module_names or top == "nbgenomics", (
                f"{module} imports {top}, which pyproject.toml does not declare"
            )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_hygiene(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code), "commit notebooks without outputs"
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, "one cell is tagged 'parameters'"
    source = "".join(tagged[0]["source"])
    for line in source.splitlines():
        assert re.fullmatch(r"\w+: [\w\[\] |]+ = .+  # .+", line), f"parameters are written 'name: type = value  # help', got {line!r}"
    assert {"seed", "run_dir"} <= set(re.findall(r"^(\w+):", source, re.M))
    longest = max((len("".join(cell["source"]).splitlines()) for cell in code), default=0)
    assert longest <= 24, f"a cell has {longest} lines: split it"


def test_there_are_notebooks():
    assert {"01_data_preparation", "02_jund"} <= {path.stem for path in NOTEBOOKS}


def test_readme_commands_exist():
    """What README tells people to type is there."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.M))
    assert set(re.findall(r"^make (\w+)", readme, re.M)) <= targets and {"demo", "test", "lab", "check", "bench"} <= targets
    for notebook in re.findall(r"notebooks/(\w+\.ipynb)", readme):
        assert (ROOT / "notebooks" / notebook).exists(), notebook
