"""calicoctl over values that no program of ours wrote: a damaged object is named or left out, and no command breaks."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator

import pytest

from calicoctl.main import main
from libcalico.client.blocking import Client
from libcalico.datastore.contract import Put
from libcalico.model.keys import ResourceKey, key_path
from libcalico.testing.damaged import HOST, LEAVES, OBJECTS, paths, replaced, to_bytes
from libcalico.testing.etcd import Etcd

EACH = 60
NAMESPACED = ("wep", "policy", "networkset")
GLOBAL = ("nodes", "ippools", "profiles", "gnp", "gnetsets", "tiers", "clusterinfo", "felixconfig")
BINARY = (b"", b"null", b"[", b"\xff\xfe", b'"\\ud800"', b"[" * 20_000)


def damaged() -> Iterator[tuple[bytes, bytes]]:
    """Many damaged objects of each kind, beside a sound one, and keys that are not UTF-8."""
    dice = random.Random(1)
    for key, value in OBJECTS.items():
        path = key_path(key).encode()
        yield path, to_bytes(value)
        yield path + b"\xff", to_bytes(value)
        if not isinstance(key, ResourceKey):
            continue
        for number in range(EACH):
            bad = replaced(value, dice.choice(list(paths(value))), dice.choice(LEAVES))
            yield path + f"-{number}".encode(), to_bytes(bad)
        for number, binary in enumerate(BINARY):
            yield path + f"-b{number}".encode(), binary
    block = b"/calico/ipam/v2/assignment/ipv4/block/10.61.%d.0-29"
    sound = next(value for key, value in OBJECTS.items() if not isinstance(key, ResourceKey))
    for number in range(EACH):
        bad = replaced(sound, dice.choice(list(paths(sound))), dice.choice(LEAVES))
        yield block % (number + 20), to_bytes(bad)
        yield f"/calico/ipam/v2/handle/h{number}".encode(), to_bytes({"block": dice.choice(LEAVES)})


@pytest.fixture(scope="module")
def filled(etcd: Etcd) -> Iterator[Etcd]:
    with Client(endpoints=etcd.endpoint) as client:
        for path, value in damaged():
            client._run(client._async.datastore.txn([], [Put(path, value)]))
    yield etcd


@pytest.mark.parametrize(
    "command",
    [
        *(f"get {kind} -o {form} --all-namespaces" for kind in NAMESPACED for form in ("wide", "yaml")),
        *(f"get {kind} -o {form}" for kind in GLOBAL for form in ("wide", "json")),
        f"get node {HOST}", "get profile p-3 -o yaml", "delete profile p-4", "label nodes there-1 a=b",
        "ipam show", "ipam show --show-blocks", "ipam show --show-borrowed", "ipam show --ip=10.61.0.2",
        "ipam show --show-configuration", "ipam check", "ipam release --ip=10.61.0.2", "version", "delete node there",
    ],
)  # fmt: skip
def test_no_command_breaks(filled: Etcd, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
    monkeypatch.setenv("ETCD_ENDPOINTS", filled.endpoint)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*command.split(), "--allow-version-mismatch"])
    assert status == 0 or not command.startswith(("get", "ipam", "version", "delete node")), err.getvalue()[-2000:]
    assert "a mistake of its own" not in err.getvalue() and "Traceback" not in err.getvalue(), err.getvalue()[-2000:]
