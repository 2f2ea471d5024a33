"""Discovery of real distributions: a module and its metadata in a folder on sys.path, as pip installs them."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from retrobench.config.declaration import configure_objective, find_preset
from retrobench.config.discovery import InstalledObjective, discover, find_objective, parse_objective
from retrobench.errors import RetrobenchError

TOY = '''
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from retrobench import hookimpl

if TYPE_CHECKING:
    from nowhere import Preset

@dataclass(frozen=True)
class Toy:
    """Learns nothing."""

    ratio: float = 0.3
    form: Literal["mean", "sum"] = "mean"

    contract: ClassVar[int] = 1

    name: ClassVar[str] = "toy"
    paper: ClassVar[str] = "A, B 2020"
    pretrains: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    representation: ClassVar[str] = "cls"
    presets: ClassVar[Mapping[str, Preset]] = {"paper": {"ratio": 0.5}}

    def __post_init__(self):
        if self.ratio > 1:
            raise ValueError("ratio is a share, at most 1")

    def collate(self, passages, vocabulary, max_length, generator):
        return {}

    def wrap(self, backbone, context):
        return backbone

@hookimpl
def retrobench_objectives():
    return [Toy]
'''
LACKS_A_MEMBER = [
    ("@dataclass(frozen=True)", "@dataclass", "Toy is not a frozen dataclass; decorate it"),
    ("@dataclass(frozen=True)", "", "Toy is not a frozen dataclass; decorate it"),
    ('    paper: ClassVar[str] = "A, B 2020"\n', "", "Toy.paper must be a text, declared as a ClassVar."),
    ("name: ClassVar[str]", "name: str", "Toy.name must be a text, declared as a ClassVar."),
    ('= "toy"', '= "toy:1"', "Toy.name is 'toy:1'; use letters, digits"),
    ("    contract: ClassVar[int] = 1\n", "", "Toy.contract must be 1, declared as a ClassVar."),
    ('= "toy"', '= "my toy"', "Toy.name is 'my toy'; use letters, digits"),
    ('= "toy"', '= "-toy"', "Toy.name is '-toy'; use letters, digits"),
    ('= "toy"', '= "toy.py"', "Toy.name is 'toy.py'; use letters, digits"),
    ('= "toy"', '= "bm25"', "Toy.name is 'bm25', the name of a baseline; give it another."),
    ('= "cls"', '= "csl"', "Toy.representation is 'csl'; known: cls, mean, terms, cls+terms."),
    ("ratio: float", "ratio: Preset", "Toy has a setting of the type Preset, which its module does not import"),
    ("ratio: float = 0.3", "ratio: float = 'much'", "objective.ratio must be a finite number, got 'much' (toy)."),
    ("contract: ClassVar[int] = 1", "contract: ClassVar[int] = 2", "Toy.contract is 2, and this version"),
    ("pretrains: ClassVar[bool] = True", "", "Toy.pretrains must be True or False"),
    ("couples_batch: ClassVar[bool] = False", "", "Toy.couples_batch must be True or False"),
    ("representation: ClassVar[str]", "other: ClassVar[str]", "Toy.representation must be a text"),
    ("presets: ClassVar", "other: ClassVar", "Toy.presets must be a mapping"),
    ("def collate", "def other", "Toy.collate() is missing; an objective that pre-trains needs it."),
    ("def wrap", "def other", "Toy.wrap() is missing; an objective that pre-trains needs it."),
    ("ratio: float = 0.3", "ratio: float", "Toy.ratio has no default; every setting needs one."),
    ("ratio: float = 0.3", "ratio: float = 3", "objective: ratio is a share, at most 1 (toy)."),
    ('Literal["mean", "sum"]', "set", "objective.form must be a field of type bool, int,"),
    ('{"ratio": 0.5}', '{"ration": 0.5}', "Unknown setting 'objective.ration'. Did you mean 'objective.ratio'?"),
]
NO_SEQUENCE_OF_CLASSES = [
    ("[Toy]", "Toy", "retrobench_objectives() must return a sequence of classes, not <class"),
    ("[Toy]", "'toy'", "retrobench_objectives() must return a sequence of classes, not 'toy'."),
    ("[Toy]", "[]", "retrobench_objectives() must return a sequence of classes, not []."),
    ("[Toy]", "None", "retrobench_objectives() must return a sequence of classes, not None."),
    ("[Toy]", "['toy']", "retrobench_objectives() must return classes, not 'toy'."),
]
BROKEN = [
    (
        "from retrobench import",
        "import absent_module\nfrom retrobench import",
        "ModuleNotFoundError: No module named 'absent_module' (MODULE, line 8)",
    ),
    ("class Toy:", "class Toy", "SyntaxError: expected ':' (MODULE, line 14)"),
    (
        "    return [Toy]",
        "    return [Toy] / 0",
        "TypeError: unsupported operand type(s) for /: 'list' and 'int' (MODULE, line 41)",
    ),
    ("@hookimpl", "raise SystemExit(7)", "SystemExit: 7 (MODULE, line 39)"),
    ("def retrobench_objectives", "def retrobench_objective", "Did you mean 'retrobench_objectives'?"),
    ("@hookimpl", "", "No hook in it; mark a function retrobench_objectives() with @retrobench.hookimpl."),
    ("retrobench_objectives()", "retrobench_objectives(track)", "Argument(s) {'track'} are declared"),
]

Install = Callable[..., Path]
numbers = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install one module as a distribution, under a module name that no other test uses."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def install(
        distribution: str, source: str = TOY, *, point: str = "toy", origin: str = "", files: Sequence[str] = ()
    ) -> Path:
        """Write the distribution. Its record names the module and `files`, which the caller writes."""
        folder = tmp_path / f"{distribution}-{next(numbers)}"
        module = folder / f"{distribution}_{next(numbers)}.py"
        info = folder / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        module.write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[retrobench]\n{point} = {module.stem}\n")
        record = [module.name, *files]
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in record))
        if origin:
            (info / "direct_url.json").write_text(origin)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        return module

    return install


def rows_of(*distributions: str, files: Sequence[Path] = ()) -> list[InstalledObjective]:
    """Return the objectives that the distributions, or plugin files of these names, provide."""
    return [row for row in discover(files) if row.distribution in distributions]


def test_a_distribution_gives_an_objective(install: Install) -> None:
    install("acme")
    (row,) = rows_of("acme")
    assert row.name == "toy"
    assert row.version == "1.0"
    assert row.paper == "A, B 2020"
    assert (row.status, row.reason) == ("ok", "")
    assert re.fullmatch("[0-9a-f]{64}", row.code)
    assert find_objective("toy", discover()).objective is row.objective


def test_rows_are_sorted_by_name(install: Install) -> None:
    install("acme", TOY.replace('"toy"', '"zeta"'), point="a")
    install("bolt", TOY.replace('"toy"', '"alpha"'), point="z")
    names = [row.name for row in discover()]
    assert names == sorted(names)
    assert "alpha" in names
    assert "zeta" in names


def test_two_distributions_may_use_one_entry_point_name(install: Install) -> None:
    install("acme", TOY.replace('"toy"', '"first"'))
    install("bolt", TOY.replace('"toy"', '"second"'))
    first, second = rows_of("acme", "bolt")
    assert (first.name, first.status) == ("first", "ok")
    assert (second.name, second.status) == ("second", "ok")


def test_a_name_provided_twice_names_both_distributions(install: Install) -> None:
    install("acme")
    install("bolt", point="other")
    acme, bolt = rows_of("acme", "bolt")
    assert (acme.distribution, acme.status) == ("acme", "duplicate")
    assert (bolt.distribution, bolt.status) == ("bolt", "duplicate")
    assert acme.reason == "provided 2 times, by acme 1.0 and bolt 1.0"
    assert bolt.reason == acme.reason
    with pytest.raises(RetrobenchError, match=r"'toy' cannot be used: provided 2 times, by acme 1.0 and bolt 1.0\. "):
        find_objective("toy", discover())


@pytest.mark.parametrize(("old", "new", "reason"), LACKS_A_MEMBER + NO_SEQUENCE_OF_CLASSES + BROKEN)
def test_a_bad_plugin_is_a_row_with_its_reason(install: Install, old: str, new: str, reason: str) -> None:
    source = TOY.replace(old, new)
    assert source != TOY
    module = install("acme", source)
    install("bolt", TOY.replace('"toy"', '"sound"'), point="sound")
    (good,) = rows_of("bolt")
    (bad,) = rows_of("acme")
    assert (good.name, good.status) == ("sound", "ok")
    assert (bad.status, bad.objective, bad.code) == ("failed", None, "")
    assert reason.replace("MODULE", module.name) in bad.reason
    assert "\n" not in bad.reason


def test_a_failed_plugin_concerns_only_the_name_it_claims(install: Install) -> None:
    install("acme", "import absent_module", point="broken")
    install("bolt")
    installed = discover()
    assert find_objective("toy", installed).status == "ok"
    with pytest.raises(RetrobenchError, match=r"^Objective 'broken' cannot be used: acme 1.0 failed: ModuleNotFound"):
        find_objective("broken", installed)
    with pytest.raises(RetrobenchError, match=r"Unknown objective 'tyo'. Did you mean 'toy'\? .*Not loaded: broken of"):
        find_objective("tyo", installed)


def test_a_failed_plugin_that_claims_a_good_objectives_name_stops_it(install: Install) -> None:
    install("acme", "import absent_module", point="toy")
    install("bolt", point="other")
    with pytest.raises(RetrobenchError, match=r"'toy' cannot be used: acme 1.0 failed: ModuleNotFoundError"):
        find_objective("toy", discover())


def test_one_bad_class_leaves_its_neighbour_usable(install: Install) -> None:
    worse = "class Worse(Toy):\n    name: ClassVar[str] = 'worse'\n    other: int = 'x'\n"
    bad = f"@dataclass(frozen=True)\n{worse}\n@hookimpl"
    install("acme", TOY.replace("@hookimpl", bad).replace("[Toy]", "(Toy, Worse)"))
    toy_row, worse_row = rows_of("acme")
    assert (toy_row.name, toy_row.status) == ("toy", "ok")
    assert (worse_row.name, worse_row.status) == ("worse", "failed")
    assert worse_row.reason == "objective.other must be a whole number, got 'x' (worse)."


def test_an_objective_without_pretraining_needs_no_methods(install: Install) -> None:
    source = TOY.replace("pretrains: ClassVar[bool] = True", "pretrains: ClassVar[bool] = False")
    install("acme", source.replace("def collate", "def other").replace("def wrap", "def another"))
    (row,) = rows_of("acme")
    assert row.status == "ok"


def test_a_plugin_that_prints_leaves_standard_output_alone(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("acme", TOY.replace("@hookimpl", "print('hello')\n\n@hookimpl"))
    (row,) = rows_of("acme")
    assert row.status == "ok"
    assert capsys.readouterr() == ("", "hello\n")


ORIGINS = {
    "index": "",
    "local folder": json.dumps({"url": "file:///", "dir_info": {}}),
    "editable": json.dumps({"url": "file:///", "dir_info": {"editable": True}}),
}


def code_of(distribution: str) -> str:
    (row,) = rows_of(distribution)
    assert (row.version, row.status, row.reason) == ("1.0", "ok", "")
    return row.code


@pytest.mark.parametrize("origin", ORIGINS)
def test_two_builds_of_one_version_are_told_apart_by_their_source(origin: str, install: Install) -> None:
    module = install("acme", TOY, origin=ORIGINS[origin])
    original = code_of("acme")
    assert re.fullmatch("[0-9a-f]{64}", original)
    module.write_text(TOY + "# changed\n")
    assert code_of("acme") != original
    module.write_text(TOY)
    assert code_of("acme") == original


USES = TOY + "\n\ndef use():\n    import acme_layers, bolt_layers\n"


def test_a_helper_of_the_same_distribution_counts(install: Install) -> None:
    module = install("acme", USES, files=["acme_layers.py"])
    helper = module.with_name("acme_layers.py")
    helper.write_text("a = 1\n")
    original = code_of("acme")
    helper.write_text("a = 2\n")
    assert code_of("acme") != original


def test_a_helper_package_of_the_same_distribution_counts(install: Install) -> None:
    module = install("acme", USES, files=["acme_layers/__init__.py", "acme_layers/deep.py"])
    package = module.with_name("acme_layers")
    package.mkdir()
    (package / "__init__.py").write_text("")
    original = code_of("acme")
    (package / "deep.py").write_text("a = 2\n")
    assert code_of("acme") != original


def test_another_distribution_in_the_folder_does_not_count(install: Install) -> None:
    module = install("acme", USES, files=["acme_layers.py"])
    module.with_name("acme_layers.py").write_text("a = 1\n")
    stranger = module.with_name("bolt_layers.py")
    stranger.write_text("a = 1\n")
    original = code_of("acme")
    stranger.write_text("a = 2\n")
    assert code_of("acme") == original


def test_retrobench_itself_does_not_count(install: Install) -> None:
    """Built-in plugins are of its distribution. Its version stands in every key."""
    module = install("acme", TOY, files=["retrobench/objective.py"])
    package = module.with_name("retrobench")
    package.mkdir()
    (package / "objective.py").write_text("a = 1\n")
    original = code_of("acme")
    (package / "objective.py").write_text("a = 2\n")
    assert code_of("acme") == original


def test_a_file_gives_an_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("json.py")  # the name of a module that is loaded already
    file.write_text(TOY)
    (original,) = rows_of("json.py", files=[file, tmp_path / "json.py"])
    assert (original.name, original.version) == ("toy", "")
    assert (original.status, original.reason) == ("ok", "")
    file.write_text(TOY + "# changed\n")
    (changed,) = rows_of("json.py", files=[file])
    assert len(changed.code) == 64
    assert changed.code != original.code


def test_a_broken_file_is_a_row_and_a_missing_one_an_error(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import absent_module")
    (row,) = rows_of(str(file), files=[file])
    assert (row.name, row.status) == ("mine", "failed")
    assert row.reason == "ModuleNotFoundError: No module named 'absent_module' (mine.py, line 1)"
    with pytest.raises(RetrobenchError, match=r"^Plugin '.*absent\.py' is missing or no \.py file\. Give --plugin"):
        discover([tmp_path / "absent.py"])
    with pytest.raises(RetrobenchError, match=r"^Plugin folder '.*' has no \.py file with a function marked"):
        discover([tmp_path])


def test_a_file_can_duplicate_an_installed_objective(install: Install, tmp_path: Path) -> None:
    install("acme")
    file = tmp_path / "mine.py"
    file.write_text(TOY)
    rows = rows_of("acme", str(file), files=[file])
    assert len(rows) == 2
    for row in rows:
        assert row.status == "duplicate"
        assert "acme 1.0" in row.reason
        assert str(file) in row.reason


def test_presets_and_settings_make_a_frozen_objective(install: Install) -> None:
    install("acme")
    toy = find_objective("toy", discover()).objective
    assert toy is not None
    assert parse_objective("toy:paper") == ("toy", "paper")
    assert parse_objective("toy") == ("toy", None)
    assert find_preset(toy, None) == {}
    settings = {**find_preset(toy, "paper"), "form": "sum"}
    objective = configure_objective(toy, settings)
    assert repr(objective) == "Toy(ratio=0.5, form='sum')"
    with pytest.raises(RetrobenchError, match=r"^Unknown toy preset 'papre'\. Did you mean 'paper'\? Known: paper\."):
        find_preset(toy, "papre")
    unknown_setting = r"^Unknown setting 'objective\.rati'\. Did you mean 'objective\.ratio'\? Known: objective\.f"
    with pytest.raises(RetrobenchError, match=unknown_setting):
        configure_objective(toy, {"rati": 1})
    with pytest.raises(RetrobenchError, match=r"^objective\.form must be one of 'mean', 'sum', got 'max' \(toy\)\.$"):
        configure_objective(toy, {"form": "max"})
    with pytest.raises(RetrobenchError, match=r"^objective: ratio is a share, at most 1 \(toy\)\.$"):
        configure_objective(toy, {"ratio": 2})


@pytest.mark.parametrize("text", ["", ":paper", "toy:"])
def test_half_an_objective_is_refused(text: str) -> None:
    with pytest.raises(RetrobenchError, match="is neither NAME nor NAME:PRESET"):
        parse_objective(text)


def test_every_built_in_is_usable() -> None:
    built_in = set()
    for point in entry_points(group="retrobench"):
        if point.dist is not None and point.dist.name == "retrobench":
            built_in.add(point.name)
    assert built_in
    rows = rows_of("retrobench")
    assert {row.name for row in rows} == built_in
    for row in rows:
        assert row.status == "ok", row.reason
