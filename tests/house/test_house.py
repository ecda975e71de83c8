"""The house keeps its order: which room may import which, who alone touches what, and what the wheel holds."""

import ast
import configparser
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from drivesim.data import opening

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "drivesim"
# A room imports from the rows below its own; rooms of one row do not import each other.
ROWS = (
    {"cli"},
    {"jobs"},
    {"report"},
    {"training", "rollout", "metrics"},
    {"data", "world"},
    {"models", "diffusion"},
    {"scene", "config", "schema", "yamlfile", "weights", "disk", "pickled", "randomness", "signals"},
    {"errors"},
)
LEAVES = ROWS[-2] | ROWS[-1]
ENTRY_POINTS = {
    "drivesim.cli",
    "drivesim.cli.__main__",
    "drivesim.metrics.fvd",
}  # the command, and the metric that others' code imports


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def imports(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it; relative imports resolved."""
    found = set()
    package = name_of(file).split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {f"{source}.{alias.name}" if f"{source}.{alias.name}" in FILES else source for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def row(name: str) -> int:
    return next(number for number, names in enumerate(ROWS) if name in names)


def test_every_room_has_a_row() -> None:
    assert {room(module) for module in FILES if module != "drivesim"} <= set().union(*ROWS)


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, file in FILES.items()
        for other in imports(file)
        if module != "drivesim" and other.startswith("drivesim.") and room(other) != room(module)
        if row(room(other)) <= row(room(module)) and not {room(module), room(other)} <= LEAVES
    ]
    assert not wrong


def test_the_package_itself_imports_nothing() -> None:
    assert not imports(PACKAGE / "__init__.py") and not imports(PACKAGE / "jobs" / "__init__.py")


def test_no_file_without_a_reader() -> None:
    used = set().union(*map(imports, FILES.values())) | ENTRY_POINTS
    orphans = [name for name, file in FILES.items() if file.name != "__init__.py" and name not in used]
    assert not orphans, "a file that nobody imports goes"


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("av", {f"drivesim.data.{name}" for name in ("opening", "probing", "frames", "writer")}),
        ("safetensors", {"drivesim.weights", "drivesim.rollout.journal", "drivesim.metrics.store"}),
        ("yaml", {"drivesim.yamlfile"}),
        ("pydantic", {"drivesim.schema", "drivesim.config"}),
        ("pickle", set()),
        ("zipfile", {"drivesim.pickled"}),
        ("tarfile", set()),
        ("socket", {"drivesim.rollout.journal"}),
        ("urllib", set()),
        ("http", set()),
        ("requests", set()),
        ("diffusers", set()),
    ],
)
def test_who_alone_opens_what(library: str, owners: set[str]) -> None:
    found = {name for name, file in FILES.items() if any(m.split(".")[0] == library for m in imports(file))}
    assert found <= owners


def test_nothing_is_unpickled() -> None:
    """``torch.load`` without ``weights_only`` runs code from the file."""
    calls = [
        f"{name}:{node.lineno}"
        for name, file in FILES.items()
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    ]
    assert not calls


@cache
def calls_of(name: str) -> list[tuple[str, ast.Call]]:
    """Every call in a module, and the words that it is called by."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree_of(FILES[name])) if isinstance(node, ast.Call)]


def given(call: ast.Call, key: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == key), None)


RUNS = r"(eval|exec|compile|__import__|(os|posix)\.(system|popen|exec\w*|spawn\w*|posix_spawn\w*)|pty\.spawn)"
UNPACKS = r".*\.(extract|extractall|unpack_archive)"
UNPICKLES = r"(c?[pP]ickle|dill|joblib|marshal|shelve|torch\.(jit|package))\.\w+|torch\.hub\.load\w*|pd\.read_pickle"
DECODES = r"(cv2\.(imread|imreadmulti|VideoCapture)|imageio\.\w+|Image\.open|torchvision\.io\.\w+)"
YAML = r"yaml\.(load|load_all|unsafe_load\w*|full_load\w*|Loader|UnsafeLoader|FullLoader)"
XML = r"(ElementTree|ET|minidom|sax|lxml)(\.\w+)*\.(parse|fromstring|XML|iterparse|XMLParser)"


@pytest.mark.parametrize("words", [RUNS, UNPACKS, UNPICKLES, DECODES, YAML, XML])
def test_what_would_run_or_unpack_what_is_in_a_file_is_called_nowhere(words: str) -> None:
    found = [f"{name}:{call.lineno} {by}" for name in FILES for by, call in calls_of(name) if re.fullmatch(words, by)]
    assert not found


def test_no_shell() -> None:
    shells = [
        f"{name}:{c.lineno}" for name in FILES for _, c in calls_of(name) if given(c, "shell") not in (None, "False")
    ]
    assert not shells


def test_arrays_hold_no_objects() -> None:
    loads = [(name, c) for name in FILES for by, c in calls_of(name) if by in ("np.load", "numpy.load")]
    assert loads and all(given(call, "allow_pickle") == "False" for _, call in loads)


def test_video_is_opened_for_reading_in_one_place_with_both_lists() -> None:
    opens = [(name, call) for name in FILES for by, call in calls_of(name) if by == "av.open"]
    assert {name for name, call in opens if given(call, "mode") != "'w'"} == {"drivesim.data.opening"}
    (only,) = (call for name, call in opens if name == "drivesim.data.opening")
    assert given(only, "options") == "OPEN | BOUND | hasty"
    assert {"format_whitelist", "protocol_whitelist"} <= opening.OPEN.keys() and "max_pixels" in opening.BOUND
    assert opening.OPEN["protocol_whitelist"] == "file"


def test_xml_is_parsed_by_defusedxml_alone() -> None:
    held = {"Element", "ParseError", "SubElement", "indent", "tostring"}  # to hold and to write, not to parse
    for file in FILES.values():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "xml":
                assert {alias.name for alias in node.names} <= held, file
            assert not (
                isinstance(node, ast.Import) and any(a.name.split(".")[0] in ("xml", "lxml") for a in node.names)
            )


def test_the_malicious_releases_are_excluded() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (lightning,) = (x for x in setup["options"]["install_requires"].split() if x.startswith("pytorch-lightning"))
    allowed = SpecifierSet(lightning.removeprefix("pytorch-lightning"))
    assert "2.6.2" not in allowed and "2.6.3" not in allowed and "2.6.1" in allowed and "2.6.6" in allowed
    (torch,) = (x for x in setup["options"]["install_requires"].split() if x.startswith("torch>"))
    assert "2.9.1" not in SpecifierSet(torch.removeprefix("torch")), "CVE-2025-32434, CVE-2026-24747"


def test_the_recipes_and_tools_hold_no_package() -> None:
    """A package named ``datasets`` would shadow other people's."""
    assert not list((ROOT / "datasets").rglob("*.py"))
    assert not list((ROOT / "tools").rglob("__init__.py")) and not list((ROOT / "configs").rglob("*.py"))


def test_no_path_of_a_machine_is_written_down() -> None:
    homes = ["/" + name + "/" for name in ("work", "home", "root", "Users")]
    texts = [
        file for folder in ("drivesim", "configs", "datasets", "tools", "tests") for file in (ROOT / folder).rglob("*")
    ]
    texts = [file for file in texts if file.suffix in {".py", ".yaml", ".md", ".cfg", ".toml", ".j2", ".html"}]
    assert not [file for file in [*texts, *ROOT.glob("*.md")] if any(home in file.read_text("utf-8") for home in homes)]


def test_the_wheel_holds_drivesim_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "drivesim",
        "datasets",
        "configs",
        "tests",
    ):
        (source / name).symlink_to(ROOT / name)  # a build leaves folders behind, so it does not run in the repository
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"drivesim"}
    missing = {str(file.relative_to(ROOT)) for file in FILES.values()} - set(names)
    assert not missing
    data = {str(f.relative_to(ROOT)) for f in PACKAGE.rglob("*") if f.suffix in {".safetensors", ".j2", ".html"}}
    assert data <= set(names), "files that the package needs are not in the wheel"
    assert any(name.endswith("licenses/LICENSE") for name in names) and any(name.endswith("NOTICE") for name in names)


def test_every_dependency_is_pinned_for_make() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {re.split(r"[<>!=]", line)[0].lower() for line in wanted.split()} <= pins


def test_the_lock_holds_the_pins_with_hashes() -> None:
    """Every package of ``constraints.txt`` but torch, at the same version, each with a SHA-256."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    assert all(found)
    pins = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    wanted = {canonicalize_name(name): version for name, version in pins} | {"torch": None}
    locked = {canonicalize_name(row[1]): row[2] for row in found if row}
    assert locked | {"torch": None} == wanted


def test_ci_installs_by_the_lock() -> None:
    dry = subprocess.run(["make", "-n", "install", "VENV=nowhere"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "--require-hashes --no-deps --only-binary :all: -r requirements.lock" in " ".join(
        dry.replace("\\\n", " ").split()
    )
