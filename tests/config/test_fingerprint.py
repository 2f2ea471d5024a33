"""A plugin's fingerprint covers its source and the neighbours that it imports."""

from __future__ import annotations

from pathlib import Path

from retrobench.config.fingerprint import fingerprint


def test_a_neighbour_counts_where_it_is_imported(tmp_path: Path) -> None:
    module = tmp_path / "mine.py"
    neighbour = tmp_path / "near.py"
    second_neighbour = tmp_path / "far.py"
    unrelated = tmp_path / "unrelated.py"
    module.write_text("def wrap():\n    from near import layer\n")
    neighbour.write_text("import far.away, json\n")
    second_neighbour.write_text("a = 1\n")
    unrelated.write_text("a = 1\n")
    first = fingerprint(module)
    unrelated.write_text("a = 2\n")
    assert fingerprint(module) == first
    second_neighbour.write_text("a = 2\n")
    assert fingerprint(module) != first


def test_the_whole_of_a_package_counts(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    layers = package / "deep" / "layers.py"
    layers.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    layers.write_text("a = 1\n")
    first = fingerprint(package)
    layers.write_text("a = 2\n")
    assert fingerprint(package) != first


def test_where_the_source_lies_does_not_count(tmp_path: Path) -> None:
    first = tmp_path / "first" / "mine.py"
    second = tmp_path / "second" / "mine.py"
    for module in (first, second):
        module.parent.mkdir()
        module.write_text("a = 1\n")
    assert fingerprint(first) == fingerprint(second)


def test_a_compiled_module_counts_too(tmp_path: Path) -> None:
    module = tmp_path / "mine.cpython-311.so"
    module.write_bytes(b"\0one")
    first = fingerprint(module)
    module.write_bytes(b"\0two")
    assert fingerprint(module) != first
