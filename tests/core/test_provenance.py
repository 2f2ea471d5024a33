"""Facts in a row about the program and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from retrobench.core import provenance

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(autouse=True)
def no_other_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables by which git names a repository to its hooks."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)


def git(folder: Path, *words: str) -> str:
    """Run git as somebody, and return its output."""
    author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    result = subprocess.run(["git", *author, *words], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def checkout(folder: Path, package: str = "harness/retrobench/core") -> Path:
    """Commit a copy of the module in a project of the package's layout."""
    (folder / package).mkdir(parents=True)
    shutil.copy(provenance.__file__, folder / package)
    (folder / "plugins").mkdir()
    (folder / "plugins" / "one.py").write_text("print(1)\n")
    (folder / "README.md").write_text("A project.\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "All of it")
    return folder


def commit(folder: Path, package: str = "harness/retrobench/core") -> str:
    """Return the commit that the copy reports."""
    spec = spec_from_file_location("copied_provenance", folder / package / "provenance.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    head = module.commit()
    assert isinstance(head, str)
    return head


@needs_git
def test_commit_of_a_checkout(tmp_path: Path) -> None:
    head = git(checkout(tmp_path), "rev-parse", "HEAD")
    assert len(head) == 40
    assert commit(tmp_path) == head


@needs_git
@pytest.mark.parametrize("changed", ["harness/retrobench/core/provenance.py", "plugins/one.py"])
def test_changed_code_is_marked(changed: str, tmp_path: Path) -> None:
    head = git(checkout(tmp_path), "rev-parse", "HEAD")
    with (tmp_path / changed).open("a") as file:
        file.write("# changed\n")
    assert commit(tmp_path) == head + "+"
    git(tmp_path, "add", ".")
    assert commit(tmp_path) == head + "+", "staged is not committed"
    git(tmp_path, "commit", "--quiet", "--message", "Changed")
    new_head = git(tmp_path, "rev-parse", "HEAD")
    assert new_head != head
    assert commit(tmp_path) == new_head


@needs_git
def test_changed_text_is_not(tmp_path: Path) -> None:
    head = git(checkout(tmp_path), "rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("Another text.\n")
    assert commit(tmp_path) == head


@needs_git
@pytest.mark.parametrize("package", [".venv/lib/python3/site-packages/retrobench", "vendored/retrobench"])
def test_a_copy_inside_somebodys_checkout_has_no_commit(package: str, tmp_path: Path) -> None:
    """That commit belongs to another project."""
    assert commit(checkout(tmp_path, package), package) == ""


@pytest.mark.parametrize("package", [".venv/lib/python3/site-packages/retrobench/core", "harness/retrobench/core"])
def test_a_wheel_carries_its_commit(package: str, tmp_path: Path) -> None:
    """The commit stands in the package, so that no git is needed."""
    folder = tmp_path / package
    folder.mkdir(parents=True)
    shutil.copy(provenance.__file__, folder)
    assert commit(tmp_path, package) == ""
    (folder.parent / "commit.txt").write_text("f00dfeed+\n")
    assert commit(tmp_path, package) == "f00dfeed+"


@needs_git
def test_the_carried_commit_comes_before_that_of_a_checkout(tmp_path: Path) -> None:
    head = git(checkout(tmp_path), "rev-parse", "HEAD")
    (tmp_path / "harness" / "retrobench" / "commit.txt").write_text("f00dfeed\n")
    assert commit(tmp_path) == "f00dfeed" != head


@needs_git
def test_no_commit_where_git_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout(tmp_path)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", "")
        assert commit(tmp_path) == ""
    shutil.rmtree(tmp_path / ".git")
    assert commit(tmp_path) == ""
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) == "", "nothing is committed yet"


def test_libraries() -> None:
    versions = provenance.libraries()
    assert versions["python"] == platform.python_version()
    used = {"torch", "transformers", "accelerate", "sentence-transformers", "ir_datasets", "ranx", "bm25s", "numpy"}
    assert used | {"pytrec_eval-terrier"} <= set(versions)
    assert versions["torch"] == version("torch")
    # PyPI's distribution is 2.13.0, the module inside is 2.13.0+cu130.
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert {"faiss-cpu", "faiss-gpu"} & set(versions)


def test_hardware() -> None:
    facts = provenance.hardware()
    assert set(facts) - {"devices"} == {"device", "processor", "cores", "threads", "system"}
    assert (facts["device"] == "cpu") is not torch.cuda.is_available()
    assert facts["cores"] == os.cpu_count()
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processor"]
    assert "\n" not in str(facts["processor"])
