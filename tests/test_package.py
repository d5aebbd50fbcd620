"""The Debian package, installed, started and removed in a clean Debian. Needs root and a Debian mirror."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.package, pytest.mark.timeout(420)]

RELEASE, CODENAME = 12, "bookworm"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
ELF_MACHINES = {"amd64": 62, "arm64": 183}
SINE = """\
gateway:
  id: house-001
state_directory: /var/lib/edge-agent
clock:
  trust: system
mqtt:
  host: 127.0.0.1
  port: 1
drivers:
  wave:
    driver: sine
"""


def run(*words: str | Path, timeout_s: float = 300) -> str:
    """Run a program and return what it said; a failure shows all of it."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{words[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def packages(root: Path, tmp_path_factory) -> dict[str, Path]:
    """Both packages, by architecture."""
    folder = tmp_path_factory.mktemp("packages")
    run(sys.executable, root / "packaging/deb.py", "--debian", str(RELEASE), "--output", folder)
    return {path.stem.rpartition("_")[2]: path for path in folder.glob("*.deb")}


@pytest.fixture(scope="module")
def debian(require, tmp_path_factory) -> Path:
    """A clean Debian in a folder, from wherever this machine's own apt gets its packages."""
    mmdebstrap = require("mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("a clean Debian is made by root")
    form = "deb $(REPO_URI) $(CODENAME) $(COMPONENT)"
    targets = run("apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian").splitlines()
    sources = tmp_path_factory.mktemp("sources") / "clean.list"
    sources.write_text("".join(f"{line}\n" for line in sorted(set(targets)) if line.split()[2].startswith(CODENAME)))
    if not sources.read_text():
        pytest.skip(f"apt on this machine knows no Debian {RELEASE}: apt-get update")
    folder = tmp_path_factory.mktemp("debian") / "root"
    run(mmdebstrap, "--quiet", "--variant=apt", CODENAME, folder, sources)
    (folder / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    (folder / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (folder / "usr/sbin/policy-rc.d").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def inside(debian: Path):
    """`inside(script)` runs a shell script in the clean Debian, with its own /proc, and returns its output."""

    def shell(script: str) -> str:
        mounts = f"mount -t proc proc {debian}/proc && mount --rbind /dev {debian}/dev"
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"]
        return run(*words, f'{mounts}; exec chroot {debian} /bin/sh -euc "$1"', "sh", script)

    return shell


def test_the_package_installs_runs_and_leaves_a_clean_debian(packages, debian, inside):
    package = packages[MACHINES[platform.machine()]]
    (debian / package.name).write_bytes(package.read_bytes())
    inside("apt-get -qq update")
    inside(f"DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends ./{package.name}")

    assert "dialout" in inside("id -nG edge-gateway")
    inside("/opt/edge-gateway/bin/python3 -c 'import msgspec, yaml, pymodbus, bleak, asyncpg, pydantic_core'")
    assert "route_b" in inside("edge-agent drivers")
    inside("edge-agent check /etc/edge-gateway/house.yaml")
    inside("edge-agent check /etc/edge-gateway/pole.yaml")
    assert "run" in inside("edge-aggregator --help")
    inside("systemd-analyze verify --man=no /lib/systemd/system/edge-agent.service 2>&1 | grep . && exit 1 || :")

    (debian / "etc/edge-gateway/gateway.yaml").write_text(SINE)
    inside(
        "install -d -o edge-gateway -m 0750 /var/lib/edge-agent /run/edge-agent\n"
        "setpriv --reuid edge-gateway --regid edge-gateway --init-groups env RUNTIME_DIRECTORY=/run/edge-agent "
        "timeout --preserve-status 6 edge-agent run /etc/edge-gateway/gateway.yaml"
    )
    assert (debian / "var/lib/edge-agent/outbox.db").stat().st_size > 0

    inside("DEBIAN_FRONTEND=noninteractive apt-get -qq remove -y edge-gateway")
    assert not (debian / "opt/edge-gateway").exists()
    assert not (debian / "usr/bin/edge-agent").is_symlink()
    assert (debian / "etc/edge-gateway/house.yaml").exists(), "removing keeps what a person wrote"
    inside("DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y edge-gateway")
    assert not (debian / "etc/edge-gateway/house.yaml").exists()
    assert not (debian / "var/lib/edge-agent").exists()


@pytest.mark.parametrize("architecture", sorted(ELF_MACHINES))
def test_a_package_holds_libraries_of_its_architecture_alone(packages, architecture, tmp_path):
    run("dpkg-deb", "-x", packages[architecture], tmp_path)
    libraries = list(tmp_path.rglob("*.so"))
    assert len(libraries) > 10
    assert {int.from_bytes(path.read_bytes()[18:20], "little") for path in libraries} == {ELF_MACHINES[architecture]}
    assert not list(tmp_path.rglob("*.pyc")), "byte code is made where it runs"
