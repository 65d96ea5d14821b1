"""House rules that no single module can check: no danger, short files, docstrings, tooltips, one dependency list."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import COMFYUI, FULL, ROOT, called, files, foreign_imports, product_files

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

DISTRIBUTIONS = {"PIL": "Pillow", "imageio_ffmpeg": "imageio-ffmpeg"}

FORBIDDEN_CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load"}
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "numexpr"}
FORBIDDEN_ARGUMENTS = {("shell", True), ("weights_only", False), ("allow_pickle", True), ("trust_remote_code", True)}


def is_pickle(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "pickle"


def dangers(source: bytes) -> list[str]:
    """What in this source could run code out of data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = {alias.name.split(".")[0]: alias.asname for alias in node.names}
            found += [name for name in named if name in FORBIDDEN_MODULES or (name == "pickle" and named[name])]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            found += [module] if module in FORBIDDEN_MODULES | {"pickle"} else []
        elif isinstance(node, ast.Attribute):  # pickle's errors may be caught, nothing else of it used
            found += [f"pickle.{node.attr}"] if is_pickle(node.value) and not node.attr.endswith("Error") else []
        elif isinstance(node, ast.Call):
            name = called(node).removeprefix("builtins.")
            given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ... for k in node.keywords}
            found += [name] if name in FORBIDDEN_CALLS else []
            # a forbidden value, or one that is not written out: `shell=flag` may be True
            found += [f"{key}=" for key, value in FORBIDDEN_ARGUMENTS if key in given and given[key] in (value, ...)]
            if name == "torch.load" and given.get("weights_only") is not True:
                found.append("torch.load without weights_only=True")
    return found


def test_nothing_runs_code_out_of_data():
    found = {str(file.relative_to(ROOT)): dangers(file.read_bytes()) for file in product_files(ROOT)}
    assert {file: what for file, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("eval('1')", ["eval"]),
        ("import builtins\nbuiltins.exec(text)", ["exec"]),
        ("import os\nos.system('ls')", ["os.system"]),
        ("from pickle import loads", ["pickle"]),
        ("import pickle as p", ["pickle"]),
        ("import pickle\npickle.loads(data)", ["pickle.loads"]),
        ("import pickle\ntry:\n    load()\nexcept pickle.UnpicklingError:\n    pass", []),
        ("import numexpr as ne", ["numexpr"]),
        ("subprocess.run('ls', shell=True)", ["shell="]),
        ("subprocess.run('ls', shell=flag)", ["shell="]),
        ("torch.load(path)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=False)", ["weights_only=", "torch.load without weights_only=True"]),
        ("numpy.load(path, allow_pickle=True)", ["allow_pickle="]),
        ("model.eval()\nre.compile('x')\ntorch.load(path, weights_only=True)\nrun(x, shell=False)", []),
    ],
)
def test_code_out_of_data_is_caught(source, found):
    assert dangers(source.encode()) == found


# One file on purpose: people copy it into programs of their own.
LONGER = {"api_client/client.py": 700}


def test_files_stay_short():
    lengths = {
        f.relative_to(ROOT).as_posix(): len(f.read_bytes().splitlines()) for f in files(ROOT, ".py", ".js", ".mjs")
    }
    assert {file: length for file, length in lengths.items() if length > LONGER.get(file, 400)} == {}


def test_no_two_test_modules_share_a_name():
    """pytest imports them all by their names alone, and refuses the second when both are collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_librarys_public_names_have_docstrings():
    bare = []
    for file in files(ROOT / "t2v_core", ".py"):
        module = ast.parse(file.read_bytes())
        named = [n for n in module.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
        public = {"the module": module} | {n.name: n for n in named if not n.name.startswith("_")}
        bare += [f"{file.relative_to(ROOT)}: {name}" for name, node in public.items() if not ast.get_docstring(node)]
    assert bare == []


def test_links_between_pages_lead_somewhere():
    dead = []
    for page in files(ROOT, ".md"):
        for link in re.findall(r"\]\(([^)\s#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            if not (page.parent / link).exists():
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_every_node_input_has_a_tooltip(pack):
    assert pack.NODE_CLASS_MAPPINGS
    bare = []
    for node_id, node in pack.NODE_CLASS_MAPPINGS.items():
        shown = {kind: inputs for kind, inputs in node.INPUT_TYPES().items() if kind != "hidden"}
        for name, (_, *options) in (item for inputs in shown.values() for item in inputs.items()):
            if not (options and options[0].get("tooltip", "").strip()):
                bare.append(f"{node_id}.{name}")
    assert bare == []


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_are_the_projects_dependencies():
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert requirements == pyproject()["project"]["dependencies"]


def test_dependencies_are_floors_and_all_there_is():
    project = pyproject()["project"]
    imported = {DISTRIBUTIONS.get(name, name) for name in foreign_imports(ROOT) - COMFYUI - {"torch"}}
    assert floors(project["dependencies"]) == imported - FULL  # torch is the host's
    assert floors(project["optional-dependencies"]["full"]) == imported & FULL == FULL


def floors(dependencies: list[str]) -> set[str]:
    found = [re.fullmatch(r"([A-Za-z-]+)>=[0-9.]+", dependency) for dependency in dependencies]
    assert all(found), dependencies
    return {floor[1] for floor in found}


def strict_json(file: Path) -> dict:
    def refuse(constant):
        raise ValueError(f"{file.name}: {constant} is not JSON")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def test_workflow_files_are_whole():
    for_people, for_programs = sorted(ROOT.glob("workflows/*.json")), sorted(ROOT.glob("workflows/api/*.json"))
    assert for_people and for_programs
    for file in for_people:
        workflow = strict_json(file)
        assert workflow["nodes"] and workflow["links"], file.name
        assert file.with_suffix(".jpg").is_file(), f"{file.name} has no picture"
    for file in for_programs:
        for node in strict_json(file).values():
            assert isinstance(node["class_type"], str) and isinstance(node["inputs"], dict), file.name


def test_comfyui_finds_the_templates_in_one_folder_only():
    """It lists five folder names but serves only the first that exists, whatever lies in it."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (ROOT / name).exists()] == ["workflows"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("prompt", [None, "", """it's "red" $HOME $(shell touch x) `touch x` ; \\ # % !! ( , ü"""])
def test_make_demo_hands_the_prompt_over_as_typed(tmp_path, prompt):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")  # says what it was given; it can install nothing
    python.chmod(0o755)
    for name in (".venv", ".torch", ".headless"):  # all installed, so make goes straight on
        (tmp_path / ".venv" / name).touch()
    theirs = ("MAKE", "MFLAGS", "TORCH", "PROMPT", "T2V_")  # of the make that runs these tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment["PROMPT"] = "%n@%m %# "  # a shell's own, which is not ours
    command = ["make", "-s", "demo", *([] if prompt is None else [f"PROMPT={prompt}"])]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    expected = ["-m", "headless", "run", "workflows/api/text_to_video.json", "--out", "output"]
    assert ran.stdout.split("\0")[:-1] == expected + ([] if prompt is None else ["--set", f"Prompt.text={prompt}"])
    assert sorted(os.listdir(tmp_path)) == [".venv", "Makefile", "pyproject.toml"]
