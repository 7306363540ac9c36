"""Settings from variables (spec/libnetwork.md 2)."""

from __future__ import annotations

import pytest

from calico_libnetwork.settings import Scope, Settings, read
from libcalico.errors import BadData


def test_nothing_set_is_the_defaults() -> None:
    assert read({}) == Settings()


def test_what_dc_os_sets() -> None:
    found = read(
        {
            "CALICO_LIBNETWORK_HOSTNAME": " 10.0.4.17\n",
            "CALICO_LIBNETWORK_NAMESPACE": "default",
            "CALICO_LIBNETWORK_LABEL_ENDPOINTS": "TRUE",
            "CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT": "1m30s",
            "CALICO_LIBNETWORK_CREATE_PROFILES": "False",
            "CALICO_LIBNETWORK_VETH_MTU": "1480",
            "CALICO_LIBNETWORK_SCOPE": "Global",
            "DOCKER_HOST": "unix:///run/docker.sock",
            "NODENAME": "other",
        }
    )
    assert (found.node, found.namespace, found.copies_labels, found.label_wait_s) == ("10.0.4.17", "default", True, 90)
    assert (found.creates_profiles, found.mtu, found.scope) == (False, 1480, Scope.GLOBAL)
    assert found.engine_socket == "/run/docker.sock"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "CALICO_LIBNETWORK_VETH_MTU",
            "65536",
            "CALICO_LIBNETWORK_VETH_MTU '65536': must be a number of octets from 0",
        ),
        ("CALICO_LIBNETWORK_VETH_MTU", "big", "'big': must be a number"),
        ("CALICO_LIBNETWORK_IFPREFIX", "a/b", "CALICO_LIBNETWORK_IFPREFIX 'a/b'"),
        ("CALICO_LIBNETWORK_SCOPE", "swarm", "must be auto, local or global"),
        ("DOCKER_HOST", "tcp://10.0.0.1:2375", "DOCKER_HOST 'tcp://10.0.0.1:2375': the engine is reached by"),
    ],
)
def test_a_bad_value_names_the_variable(name: str, value: str, words: str) -> None:
    with pytest.raises(BadData) as failure:
        read({name: value})
    assert words in str(failure.value)


@pytest.mark.parametrize("value", ["soon", "-1s", "5"])
def test_a_bad_duration_is_the_default(value: str) -> None:
    assert read({"CALICO_LIBNETWORK_LABEL_POLL_TIMEOUT": value}).label_wait_s == 5.0
