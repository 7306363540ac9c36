"""S1: the package lays down like the original (spec/scenarios.md, spec/dcos.md 1, 2)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging import dcos_package, pkgpanda

COMMON = {"dcos-calico-felix.service", "dcos-calico-confd.service", "dcos-calico-bird.service"}
LIBNETWORK = "dcos-calico-libnetwork-plugin.service"
PROGRAMS = (
    "bin/calico-node", "bin/calicoctl", "bin/calico-libnetwork-plugin", "bin/bird", "bin/birdcl",
    "bin/start-calico-felix.sh",
    "bin/start-calico-libnetwork-plugin.sh", "bin/create-calico-docker-network.py", "cni/calico", "cni/calico-impl",
    "cni/calico-ipam",
)  # fmt: skip
FILES = ("etc/profile.yaml", "confd/conf.d", "confd/templates", "confd/config", "pkginfo.json")
ENV = "/opt/mesosphere/etc/calico"
ENVIRONMENT_FILES = [
    "/opt/mesosphere/environment", f"{ENV}/calico-node.env", f"{ENV}/calico-node-datastore.env",
]  # fmt: skip
BOTH = [f"{ENV}/bird_enabled", f"{ENV}/calico_enabled"]
BIN = "/opt/mesosphere/bin"
ACTIVE = "/opt/mesosphere/active/calico"
TABLE = {
    "dcos-calico-felix.service": (
        "DC/OS Calico Node (felix)", BOTH[1:], [f"{BIN}/bootstrap dcos-calico-felix"],
        f"{BIN}/start-calico-felix.sh", [], "SIGTERM",
    ),
    "dcos-calico-confd.service": (
        "DC/OS Calico Node (confd)", BOTH, None, f"{BIN}/calico-node -confd", [], "SIGTERM",
    ),
    "dcos-calico-bird.service": (
        "DC/OS Calico Node (bird)", BOTH, ["/usr/bin/mkdir -p /var/run/calico"],
        f"@{BIN}/bird bird -R -s /var/run/calico/bird.ctl -d -c /etc/calico/confd/config/bird.cfg", [], "SIGTERM",
    ),
    LIBNETWORK: (
        "DC/OS Calico Node", BOTH[1:], [f"{BIN}/bootstrap dcos-calico-libnetwork"],
        f"{BIN}/start-calico-libnetwork-plugin.sh", [f"{BIN}/create-calico-docker-network.py"], "SIGKILL",
    ),
}  # fmt: skip
"""spec/dcos.md 2.1: pretty name, conditions, ExecStartPre (confd's: below), ExecStart, ExecStartPost, signal."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A root of each role with the package in it."""
    found = {}
    for role in pkgpanda.ROLES:
        root = tmp_path_factory.mktemp(role)
        pkgpanda.activate(root, role, [dcos_package.archive()])
        found[role] = root
    return found


def inside(root: Path, path: str) -> Path:
    """Where a path of a host is below its root, links followed as the host would."""
    at = root
    for part in path.strip("/").split("/"):
        at = at / part
        while at.is_symlink():
            target = os.readlink(at)
            at = (
                inside(root, target)
                if target.startswith("/")
                else inside(root, f"{at.parent.relative_to(root)}/{target}")
            )
    return at


def entries(unit: Path) -> dict[str, list[str]]:
    """{key: its values, in order}."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, text = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(text)
    return found


@pytest.mark.parametrize("role", pkgpanda.ROLES)
def test_every_path_is_there(hosts: dict[str, Path], role: str) -> None:
    root = hosts[role]
    for path in PROGRAMS:
        file = inside(root, f"{ACTIVE}/{path}")
        assert file.is_file() and os.access(file, os.X_OK), path
        if path.startswith("bin/"):
            linked = inside(root, f"/opt/mesosphere/{path}")
            assert linked == file and os.access(linked, os.X_OK), path
    for path in FILES:
        assert inside(root, f"{ACTIVE}/{path}").exists(), path
    assert inside(root, "/opt/mesosphere/etc/profile.yaml").is_file()
    units = {path.name for path in (root / "etc/systemd/system/dcos.target.wants").iterdir()}
    assert units == (COMMON if role == "master" else COMMON | {LIBNETWORK})


def test_nothing_general_is_linked_into_the_common_folders(hosts: dict[str, Path]) -> None:
    ours = set(os.listdir(hosts["slave"] / "opt/mesosphere/bin"))
    known = {Path(path).name for path in PROGRAMS if path.startswith("bin/")}
    assert ours == known
    assert not (hosts["slave"] / "opt/mesosphere/lib").exists()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_units_equal_the_table(hosts: dict[str, Path], name: str) -> None:
    unit = entries(hosts["slave"] / "etc/systemd/system" / name)
    pretty, conditions, before, start, after, signal = TABLE[name]
    (description,) = unit["Description"]
    assert description.count(": ") == 1 and description.partition(": ")[0] == pretty
    assert unit["ConditionPathExists"] == conditions
    files = [file for file in unit["EnvironmentFile"] if file != "-/run/calico/confd.env"]
    assert files == ENVIRONMENT_FILES
    assert (unit["Restart"], unit["StartLimitInterval"], unit["RestartSec"]) == (["always"], ["0"], ["5"])
    assert unit["ExecStart"] == [start]
    assert unit.get("ExecStartPost", []) == after
    assert unit["KillSignal"] == [signal]
    if before is not None:
        assert unit["ExecStartPre"] == before
    assert not {"Type", "User", "WantedBy"} & set(unit)
    if name == LIBNETWORK:
        assert unit["After"] == ["dcos-calico-felix.service"]
        assert unit["Environment"] == ["CALICO_LIBNETWORK_LABEL_ENDPOINTS=true"]
        assert unit["TimeoutStartSec"] == ["180s"]


def test_systemd_reads_the_units_without_a_word(hosts: dict[str, Path], tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in TABLE:
        shutil.copyfile(hosts["slave"] / "etc/systemd/system" / unit, units / unit)
        for text in re.findall(r"(?m)^Exec\w+=@?(/\S+)", (units / unit).read_text()):
            program = tmp_path / text.lstrip("/")
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
    system = tmp_path / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, system)
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={tmp_path}", *TABLE], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


def test_confd_gets_its_name_for_itself_and_its_folder_again_and_again(hosts: dict[str, Path], tmp_path: Path) -> None:
    """No name in systemd's own environment, no folder in the folder, and BIRD's file stands."""
    unit = entries(hosts["slave"] / "etc/systemd/system/dcos-calico-confd.service")
    text = "\n".join(unit["ExecStartPre"])
    assert "set-environment" not in text
    host = tmp_path / "host"
    pkgpanda.activate(host, "master", [dcos_package.archive()])
    detect = host / "opt/mesosphere/bin/detect_ip"
    detect.write_text("#!/bin/sh\necho 10.20.0.11\n")
    detect.chmod(0o755)
    tools = host / "bin"
    tools.mkdir()
    for name in ("sh", "mkdir", "cp", "echo"):
        shutil.copy("/bin/busybox", tools / name)
    written = host / "etc/calico/confd/config/bird.cfg"
    for turn in range(3):
        for command in unit["ExecStartPre"]:
            argv = re.findall(r"'([^']*)'|(\S+)", command.replace("$$", "$"))
            subprocess.run(["/usr/sbin/chroot", str(host), *(one or two for one, two in argv)], check=True)
        if turn == 0:
            written.write_text("the file of a running BIRD")
    assert (host / "run/calico/confd.env").read_text() == "NODENAME=10.20.0.11\n"
    assert sorted(os.listdir(host / "etc/calico/confd")) == ["README", "conf.d", "config", "templates"]
    assert written.read_text() == "the file of a running BIRD"


def test_a_file_of_another_package_collides_only_if_it_is_ours(tmp_path: Path) -> None:
    other = _other_package(tmp_path, {"bin/python3": b"", "lib/libssl.so.1.1": b""})
    pkgpanda.activate(tmp_path / "fits", "slave", [dcos_package.archive(), other])
    clash = _other_package(tmp_path, {"bin/bird": b""})
    with pytest.raises(pkgpanda.Conflict, match="bin/bird"):
        pkgpanda.activate(tmp_path / "clash", "slave", [dcos_package.archive(), clash])


def _other_package(folder: Path, files: dict[str, bytes]) -> Path:
    info = {"environment": {}, "requires": [], "state_directory": False}
    content = {"pkginfo.json": json.dumps(info).encode(), **files}
    digest = hashlib.sha1(repr(sorted(content)).encode()).hexdigest()
    path = folder / f"other--{digest}.tar.xz"
    with tarfile.open(path, "w:xz") as packed:
        for name, text in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            packed.addfile(member, io.BytesIO(text))
    return path


@pytest.mark.slow
def test_the_same_inputs_make_the_same_package(tmp_path: Path) -> None:
    again = dcos_package.build("--out", str(tmp_path))
    assert again.name == dcos_package.archive().name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(dcos_package.archive().read_bytes()).digest()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A root that has the package, /proc and nothing else at all."""
    pkgpanda.activate(tmp_path, "slave", [dcos_package.archive()])
    (tmp_path / "proc").mkdir()
    hostile = tmp_path / "opt/mesosphere/lib"
    (hostile / "python3.6/site-packages/kazoo").mkdir(parents=True)
    (hostile / "python3.6/site-packages/json.py").write_text("raise SystemExit('the json of DC/OS')\n")
    (hostile / "python3.6/site-packages/kazoo/__init__.py").write_text("raise SystemExit('the kazoo of DC/OS')\n")
    for name in (
        "libssl.so.3",
        "libcrypto.so.3",
        "libc.so.6",
        "libstdc++.so.6",
        "libnftables.so.1",
        "libssh-gcrypt.so.4",
    ):
        (hostile / name).write_bytes(b"not a library")
    yield tmp_path


IN_ITS_ROOT = 'mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount -o remount,ro,bind "$0" && exec "$@"'


def run(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A program in the bare root, read-only, with exactly the environment that a unit of DC/OS has."""
    variables = [f"{name}={value}" for name, value in pkgpanda.ENVIRONMENT.items()]
    words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        IN_ITS_ROOT,
        str(root),
        "env",
        "-i",
        *variables,
        "/usr/sbin/chroot",
        str(root),
    ]
    return subprocess.run([*words, *argv], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.root
def test_programs_run_where_there_is_nothing_but_the_package(bare: Path) -> None:
    """No C library, no shell, no HOME, no LANG, nothing can be written; hostile modules and libraries are offered."""
    shown = run(bare, "/opt/mesosphere/bin/calicoctl", "version")
    assert shown.stdout.startswith("Client Version:"), shown
    assert run(bare, "/opt/mesosphere/bin/bird", "--version").stderr.startswith("BIRD version 2."), "bird"
    assert "birdcl" in run(bare, "/opt/mesosphere/bin/birdcl", "-h").stderr
    plugin = run(bare, "/opt/mesosphere/active/calico/cni/calico-impl", "-v")
    assert (plugin.returncode, plugin.stderr) == (0, "") and plugin.stdout.strip()


@pytest.mark.root
def test_scripts_and_our_own_command_run_there_too(bare: Path) -> None:
    script = run(bare, "/opt/mesosphere/bin/create-calico-docker-network.py")
    assert (script.returncode, script.stdout) == (1, "")
    assert (
        script.stderr == "create-calico-docker-network: CALICO_IPV4POOL_CIDR is not set: it is the network's subnet\n"
    )
    assert run(bare, f"{_inside(bare)}/runtime/bin/dcos-calico", "validate-config", "/absent").returncode == 2
    node = run(bare, "/opt/mesosphere/bin/calico-node", "-v")
    assert node.returncode == 0 and re.fullmatch(r"\d+\.\d+\.\d+\n", node.stdout), node


BECOME = (
    "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); os.execv('/opt/mesosphere/bin/calico-node', sys.argv[2:])"
)


@pytest.mark.root
def test_the_running_agent_is_what_it_was_called(bare: Path) -> None:
    """Upstream's `calicoctl node status` looks for argv[0] `calico-node`, or argv[1] `-felix` (spec/dcos.md 8.5)."""
    start = inside(bare, "/opt/mesosphere/bin/start-calico-felix.sh").read_text()
    assert start.endswith("exec -a calico-node /opt/mesosphere/bin/calico-node -felix\n")
    mount = 'mount -t proc proc "$0/proc" && exec "$@"'
    words = ["unshare", "-n", "-m", "sh", "-c", mount, str(bare), sys.executable, "-c", BECOME, str(bare)]
    environment = {**pkgpanda.ENVIRONMENT, "FELIX_ETCDENDPOINTS": "http://127.0.0.1:1", "FELIX_FELIXHOSTNAME": "a1"}
    agent = subprocess.Popen(
        [*words, "calico-node", "-felix"], env={**environment, "PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL
    )
    try:
        shown = []
        for _ in range(300):
            shown = Path(f"/proc/{agent.pid}/cmdline").read_bytes().split(b"\0")[:-1]
            if shown == [b"calico-node", b"-felix"]:
                break
            time.sleep(0.05)
        assert shown == [b"calico-node", b"-felix"] and agent.poll() is None
        assert Path(f"/proc/{agent.pid}/comm").read_text() == "calico-node\n"
        assert os.readlink(f"/proc/{agent.pid}/exe").endswith(f"{_inside(bare)}/runtime/bin/python3")
    finally:
        agent.kill()
        agent.wait()


IMPORTS = """
import aiohttp, ctypes, dns.resolver, google.protobuf, grpc, httptools, jinja2, json, kazoo.client, msgspec
import prometheus_client, pyroute2, re2, ssl, sys, yaml
import calico_native, libcalico.kernel.nft
libcalico.kernel.nft._library()
import os
print([line.split()[-1] for line in open("/proc/self/maps") if ".so" in line and "/packages/calico--" not in line])
print(sys.flags.isolated, sys.flags.utf8_mode, sorted(set(os.environ) & {"LD_LIBRARY_PATH", "PYTHONPATH"}))
print(os.environ["PATH"], "é".encode(sys.stdout.encoding))
"""


@pytest.mark.root
def test_everything_that_a_program_loads_is_the_packages(bare: Path) -> None:
    shown = run(bare, f"{_inside(bare)}/runtime/bin/python3", "-c", IMPORTS)
    assert shown.stdout.splitlines() == [
        "[]",
        "1 1 []",
        "/opt/mesosphere/bin:/usr/bin:/bin:/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin b'\\xc3\\xa9'",
    ], shown


def _inside(root: Path) -> str:
    return os.readlink(root / "opt/mesosphere/active/calico")
