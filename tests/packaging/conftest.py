"""The sdist and the wheel, built once, and an environment with nothing but the wheel and what it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_SECONDS = 600.0


def run(command: Sequence[str | Path], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the variables through which this environment would show."""
    hidden = ("AKOOL_", "DAGSTER_", "PYTHON", "MYPY", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )


def run_well(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = run(command, folder, **variables)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


@pytest.fixture(scope="session")
def source_files() -> frozenset[str]:
    """Return every file of the repository that Git knows or would add, as paths relative to the repository."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("compares with the files in Git, and this is no clone")
    listed = run_well(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], REPOSITORY)
    return frozenset(name for name in listed.split("\0") if name and (REPOSITORY / name).is_file())


@dataclass(frozen=True)
class Distributions:
    """The files of a release."""

    sdist: Path
    wheel: Path

    def sdist_files(self) -> list[str]:
        """Return the files in the sdist, without the folder that holds them all."""
        with tarfile.open(self.sdist) as archive:
            return [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]

    def wheel_files(self) -> list[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()


@pytest.fixture(scope="session")
def distributions(source_files: frozenset[str], tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the sdist from a copy of the repository, and the wheel from that sdist, as a release does."""
    folder = tmp_path_factory.mktemp("distributions")
    copy, built = folder / "source", folder / "built"
    for name in source_files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, copy / name)
    run_well([sys.executable, "-m", "build", "--no-isolation", "--outdir", built, copy], folder)
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without an extra, into a new environment; return the environment's folder of programs."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    run_well([sys.executable, "-m", "venv", "--without-pip", environment], environment.parent)
    python = environment / "bin" / "python"
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    installer: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install"]
    if uv is not None:
        installer = [uv, "pip", "install", "--python", python]
    run_well([*installer, "--quiet", distributions.wheel], environment.parent)
    return python.parent
