"""Build Debian packages: a private virtual environment under /opt from the pinned wheels. Compiles nothing.

The other architecture needs no emulation: a virtual environment is a folder of files, and its wheels are downloaded
as such. It is bound to the release's Python, so there is one package for each Debian release and architecture.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = Path("opt/edge-gateway")
COMMANDS = {"edge-agent": "edge_agent.__main__", "edge-aggregator": "aggregator.__main__"}
CONFFILES = ["house.yaml", "pole.yaml", "aggregator.yaml"]
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release: its Python and the newest glibc a wheel may ask for."""

    number: int
    python: str
    glibc_minor: int


RELEASES = {12: Release(12, "3.11", 36), 13: Release(13, "3.13", 41)}


def main() -> int:
    """Build what was asked for and say where it lies and how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--debian", type=int, choices=sorted(RELEASES), action="append", help="release (default: 12)")
    parser.add_argument("--architecture", choices=sorted(MACHINES), action="append", help="default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="where the packages go (default: dist)")
    options = parser.parse_args()
    os.environ.setdefault("SOURCE_DATE_EPOCH", _last_change())
    options.output.mkdir(parents=True, exist_ok=True)
    work = ROOT / "build/deb"
    wheel = _own_wheel(work / "wheel")
    for number in options.debian or [12]:
        for architecture in options.architecture or sorted(MACHINES):
            package = build(RELEASES[number], architecture, wheel, work, options.output)
            print(f"{package}  {package.stat().st_size / 1e6:.1f} MB")
    return 0


def build(release: Release, architecture: str, wheel: Path, work: Path, output: Path) -> Path:
    """Build one package and return it."""
    tree = work / f"debian{release.number}-{architecture}"
    shutil.rmtree(tree, ignore_errors=True)
    _environment(tree, release, architecture, wheel)
    _system_files(tree)
    version = f"{_project()['version']}-1~deb{release.number}"
    _control(tree, release, architecture, version)
    package = output / f"edge-gateway_{version}_{architecture}.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, package)
    return package


def _own_wheel(folder: Path) -> Path:
    """Build the project's wheel from a copy, so that no leftover of the checkout's own build gets in."""
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "source"
    packages = ["edge_agent", "drivers", "simulators", "aggregator"]
    for name in packages:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    return next(folder.glob("*.whl"))


def _environment(tree: Path, release: Release, architecture: str, wheel: Path) -> None:
    """Lay out a virtual environment by hand: a link to the system's Python, the wheels unpacked beside it."""
    home = tree / HOME
    packages = home / f"lib/python{release.python}/site-packages"
    (home / "bin").mkdir(parents=True)
    (home / "bin/python3").symlink_to(f"/usr/bin/python{release.python}")
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {release.python}\n"
    )
    where = ["--target", packages, "--no-compile", *_platform(release, architecture)]
    _pip("install", "--require-hashes", "--no-deps", "-r", ROOT / "requirements/package.txt", *where)
    _pip("install", "--no-index", "--no-deps", "--upgrade", wheel, *where)
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for command, module in COMMANDS.items():
        script = home / "bin" / command
        script.write_text(f"#!/{HOME}/bin/python3 -P\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n")
        script.chmod(0o755)


def _platform(release: Release, architecture: str) -> list[str]:
    """Return pip's words for a machine of that release: only ready wheels, for no newer C library than it has."""
    machine = MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(release.glibc_minor, 4, -1)]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    tag = release.python.replace(".", "")
    words = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", release.python]
    for abi in (f"cp{tag}", "abi3", "none"):
        words += ["--abi", abi]
    for platform in platforms:
        words += ["--platform", platform]
    return words


def _system_files(tree: Path) -> None:
    """Put units, users, the D-Bus policy, example configurations and register maps where Debian keeps such files."""
    copies = {
        "systemd/edge-agent.service": "lib/systemd/system/edge-agent.service",
        "systemd/edge-aggregator.service": "lib/systemd/system/edge-aggregator.service",
        "systemd/edge-gateway.sysusers.conf": "usr/lib/sysusers.d/edge-gateway.conf",
        "systemd/edge-gateway.dbus.conf": "usr/share/dbus-1/system.d/edge-gateway.conf",
        "LICENSE": "usr/share/doc/edge-gateway/copyright",
        **{f"configs/{name}": f"etc/edge-gateway/{name}" for name in CONFFILES},
        **{
            str(path.relative_to(ROOT)): f"usr/share/edge-gateway/{folder}/{path.name}"
            for folder in ("modbus", "echonet")
            for path in (ROOT / "configs" / folder).iterdir()
            if path.is_file()
        },
    }
    for source, target in copies.items():
        (tree / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, tree / target)
    (tree / "usr/bin").mkdir()
    for command in COMMANDS:
        (tree / "usr/bin" / command).symlink_to(f"/{HOME}/bin/{command}")


def _control(tree: Path, release: Release, architecture: str, version: str) -> None:
    folder = tree / "DEBIAN"
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    size_kib = sum(path.stat().st_size for path in files) // 1024
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}"
        for path in files
    ]
    folder.mkdir()
    minor = int(release.python.partition(".")[2])
    control = (ROOT / "packaging/debian/control").read_text()
    for key, value in {
        "@VERSION@": version,
        "@ARCHITECTURE@": architecture,
        "@SIZE@": str(size_kib),
        "@PYTHON@": f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})",
    }.items():
        control = control.replace(key, value)
    (folder / "control").write_text(control)
    (folder / "md5sums").write_text("\n".join(sums) + "\n")
    (folder / "conffiles").write_text("".join(f"/etc/edge-gateway/{name}\n" for name in CONFFILES))
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(ROOT / "packaging/debian" / script, folder / script)
        (folder / script).chmod(0o755)


def _project() -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _last_change() -> str:
    """Return the time of the last commit, so that the same commit gives the same package."""
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return asked or "1767225600"


def _pip(*words: str | Path) -> None:
    _run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", *words)


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
