"""The lock files: every package pinned and hashed, within pyproject.toml, and with no address."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TORCH_FILES = ("requirements-cpu.lock", "requirements-cuda.lock")
PIN = re.compile(r"([a-z0-9][a-z0-9._-]*)==([0-9][0-9a-z.]*)( ; [^/:\\\n]+)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}")


def read_locks() -> dict[str, str]:
    """The text of each lock file by its name."""
    return {path.name: path.read_text("utf-8") for path in sorted(ROOT.glob("requirements*.lock"))}


def pins(text: str) -> dict[str, str]:
    """Version by package."""
    return {name: version for name, version, _ in PIN.findall(text)}


def bad_lines(text: str) -> Iterator[str]:
    """What is neither a comment, nor the common file, nor a package followed by its hashes."""
    for package in re.split(r"(?<!\\)\n", text.removesuffix("\n")):
        first, *hashes = package.split(" \\\n")
        if first.startswith("# ") and "://" not in first and "file:" not in first and not hashes:
            continue
        if first == "-r requirements.lock" and not hashes:
            continue
        if not PIN.fullmatch(first):
            yield f"not a pinned package: {first}"
        elif not hashes or not all(HASH.fullmatch(line) for line in hashes):
            yield f"without hashes: {first}"


def declared_requirements() -> list[Requirement]:
    """The requirements in pyproject.toml, of the project, the extras of ``dev`` and its build."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    (others,) = (set(Requirement(it).extras) for it in extras["dev"] if project["name"] in it)
    lists = [
        pyproject["build-system"]["requires"],
        project["dependencies"],
        *(extras[name] for name in ("dev", *others)),
    ]
    found = [Requirement(text) for requirements in lists for text in requirements]
    return [requirement for requirement in found if requirement.name != project["name"]]


def installed_requirements(versions: dict[str, str]) -> Iterator[Requirement]:
    """What the installed packages require, where the installed version is the pinned one."""
    for name, version in versions.items():
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        if package.version.split("+")[0] == version:
            for requirement in map(Requirement, package.requires or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    yield requirement


def problems(locks: dict[str, str], requirements: list[Requirement]) -> list[str]:
    """What is wrong with lock files that have to meet requirements."""
    found = [f"{name}: {line}" for name, text in locks.items() for line in bad_lines(text)]
    common = pins(locks["requirements.lock"])
    for file in TORCH_FILES:
        if "-r requirements.lock\n" not in locks[file]:
            found.append(f"{file} does not include requirements.lock")
        own = pins(locks[file])
        found += [f"{file} repeats {name}" for name in own.keys() & common.keys()]
        for requirement in requirements:
            name = canonicalize_name(requirement.name)
            version = (common | own).get(name)
            if version is None:
                found.append(f"{file} has no {name}")
            elif not requirement.specifier.contains(version, prereleases=True):
                found.append(f"{file} has {name}=={version}, not {requirement}")
    cpu, cuda = (pins(locks[file]) for file in TORCH_FILES)
    found += [f"{name} differs" for name in cpu if cpu[name] != cuda.get(name)]
    return found


def test_locks_pin_and_hash_all_that_is_declared() -> None:
    assert problems(read_locks(), declared_requirements()) == []


def test_locks_pin_all_that_installed_packages_require() -> None:
    locks = read_locks()
    versions = pins(locks["requirements.lock"]) | pins(locks["requirements-cpu.lock"])
    requirements = list(installed_requirements(versions))
    assert len(requirements) > 100
    assert problems(locks, requirements) == []


def test_a_declared_requirement_is_missed() -> None:
    assert "requirements-cpu.lock has no absent" in problems(read_locks(), [Requirement("absent")])
    (_, found) = problems(read_locks(), [Requirement("torch<2")])
    assert found == "requirements-cuda.lock has torch==2.13.0, not torch<2"


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("requirements.lock", "\nrich==", "\nrich>=", "not a pinned package: rich>="),
        ("requirements.lock", r"\nrich==.*\n.*\n.*\n", "\nrich==15.0.0\n", "without hashes: rich"),
        ("requirements.lock", r"(rich==\S+ \\\n.{30})", r"\1!", "without hashes: rich"),
        ("requirements.lock", r"\nrich==\S+", "\nrich @ file:/rich.whl", "not a pinned package"),
        ("requirements.lock", "\nrich==", "\n--index-url https://a/\nrich==", "not a pinned"),
        ("requirements.lock", "^#", "# https://a/\n#", "not a pinned package: # https://a/"),
        ("requirements-cpu.lock", "torch==2.13.0", "torch==2.12.1", "torch differs"),
        ("requirements-cpu.lock", "-r .*\n", "", "does not include requirements.lock"),
        ("requirements-cpu.lock", "torch==", "rich==", "requirements-cpu.lock repeats rich"),
        ("requirements-cuda.lock", "torch==", "tortch==", "requirements-cuda.lock has no torch"),
    ],
)
def test_a_problem_is_found(file: str, old: str, new: str, problem: str) -> None:
    locks = read_locks()
    changed, replacements = re.subn(old, new, locks[file], count=1)
    assert replacements == 1
    found = problems(locks | {file: changed}, declared_requirements())
    assert any(problem in line for line in found), found
