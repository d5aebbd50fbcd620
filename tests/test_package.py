"""The Debian package, installed, started and removed in a clean Debian. Needs root and a Debian mirror."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.package, pytest.mark.timeout(900)]

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
def debian(require, missing, tmp_path_factory) -> Path:
    """A clean Debian in a folder, from wherever this machine's own apt gets its packages."""
    mmdebstrap = require("mmdebstrap")
    if os.geteuid() != 0:
        missing("a clean Debian is made by root")
    lines = sources_of_debian()
    if not lines:
        run("apt-get", "-qq", "update")
        lines = sources_of_debian()
    if not lines:
        missing(f"apt on this machine knows no Debian {RELEASE}")
    sources = tmp_path_factory.mktemp("sources") / "clean.list"
    sources.write_text("".join(f"{line}\n" for line in lines))
    folder = tmp_path_factory.mktemp("debian") / "root"
    run(mmdebstrap, "--quiet", "--variant=apt", CODENAME, folder, sources)
    (folder / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    (folder / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (folder / "usr/sbin/policy-rc.d").chmod(0o755)
    return folder


def sources_of_debian() -> list[str]:
    """Return apt's sources of the release on this machine, as lines of a sources.list."""
    form = "deb $(REPO_URI) $(CODENAME) $(COMPONENT)"
    targets = run("apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian").splitlines()
    return sorted({line for line in targets if line.split()[2].startswith(CODENAME)})


@pytest.fixture(scope="module")
def inside(debian: Path):
    """`inside(script)` runs a shell script in the clean Debian, with its own /proc, and returns its output."""

    def shell(script: str) -> str:
        mounts = f"mount -t proc proc {debian}/proc && mount --rbind /dev {debian}/dev"
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc"]
        return run(*words, f'{mounts}; exec chroot {debian} /bin/sh -euc "$1"', "sh", script)

    return shell


@pytest.fixture(scope="module")
def boot(debian: Path, require):
    """`boot(script)` starts the clean Debian under its own systemd, runs a script there, and returns its output."""
    nspawn = require("systemd-nspawn")

    def start(script: str) -> str:
        (debian / "probe.sh").write_text(f"{script}\nsystemctl poweroff\n")
        unit = debian / "etc/systemd/system/probe.service"
        unit.write_text(
            "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nStandardOutput=truncate:/probe.txt\n"
            "ExecStart=/bin/sh /probe.sh\n"
        )
        wanted = debian / "etc/systemd/system/default.target.wants/probe.service"
        wanted.parent.mkdir(exist_ok=True)
        wanted.unlink(missing_ok=True)
        wanted.symlink_to("../probe.service")
        words = (
            f"timeout 90 {nspawn} --quiet --boot --private-network --register=no --keep-unit --console=pipe -D {debian}"
        )
        done = subprocess.run(
            words.split(), capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL
        )
        said = debian / "probe.txt"
        assert said.exists(), f"systemd did not start: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return said.read_text()

    return start


def test_the_package_installs_runs_and_leaves_a_clean_debian(packages, debian, inside, boot):
    package = packages[MACHINES[platform.machine()]]
    (debian / package.name).write_bytes(package.read_bytes())
    install = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
    inside(f"apt-get -qq update; {install} systemd-sysv dbus ./{package.name}")

    assert "dialout" in inside("id -nG edge-gateway")
    inside("/opt/edge-gateway/bin/python3 -c 'import msgspec, yaml, pymodbus, bleak, pydantic_core'")
    assert "route_b" in inside("edge-agent drivers")
    inside("edge-agent check /etc/edge-gateway/house.yaml")
    inside("edge-agent check /etc/edge-gateway/pole.yaml")
    assert "run" in inside("edge-aggregator --help")
    inside("systemd-analyze verify --man=no /lib/systemd/system/edge-agent.service 2>&1 | grep . && exit 1 || :")

    (debian / "etc/edge-gateway/gateway.yaml").write_text(SINE)
    (debian / "etc/credstore/edge-gateway.route-b").write_text("{}")
    said = boot(
        "systemctl start edge-aggregator\nsleep 3\n"
        "systemctl show edge-agent edge-aggregator -p Id,ActiveState,NRestarts\n"
        "ls /run/credentials/edge-agent.service\njournalctl --no-pager -u edge-agent -u edge-aggregator"
    )
    for unit in ("edge-agent", "edge-aggregator"):
        assert f"NRestarts=0\nId={unit}.service\nActiveState=active" in said, said
    assert "\nroute-b\n" in said, "a secret that is there is handed over, two that are not are left out"
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
