"""The kinds of v3 objects: where they are stored and the words that the command line knows them by.

Sources: spec/datastore.md 1 (plurals, scope), spec/resources.md 10 (words).
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """`plural` is the path segment in etcd; `words` are what a user may type, in lower case."""

    name: str
    plural: str
    namespaced: bool
    words: tuple[str, ...]


def _kind(name: str, plural: str, words: str = "", namespaced: bool = False) -> Kind:
    return Kind(name, plural, namespaced, tuple(words.split()))


_ALL = (
    _kind("Node", "nodes", "node nodes no nos"),
    _kind("IPPool", "ippools", "ippool ippools ipp ipps pool pools"),
    _kind("IPReservation", "ipreservations", "ipreservation ipreservations reservation reservations"),
    _kind("IPAMConfiguration", "ipamconfigurations", "ipamconfiguration ipamconfigurations ipamconfig ipamconfigs"),
    _kind("IPAMConfig", "ipamconfigs"),
    _kind("BlockAffinity", "blockaffinities"),
    _kind("BGPConfiguration", "bgpconfigurations", "bgpconfiguration bgpconfigurations bgpconfig bgpconfigs"),
    _kind("BGPPeer", "bgppeers", "bgppeer bgppeers bgpp bgpps bp bps"),
    _kind("BGPFilter", "bgpfilters", "bgpfilter bgpfilters bgpf bgpfs bf bfs"),
    _kind(
        "FelixConfiguration", "felixconfigurations", "felixconfiguration felixconfigurations felixconfig felixconfigs"
    ),
    _kind(
        "ClusterInformation", "clusterinformations", "clusterinformation clusterinformations clusterinfo clusterinfos"
    ),
    _kind(
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
        "kubecontrollersconfiguration kubecontrollersconfigurations kubecontrollersconfig kubecontrollersconfigs",
    ),
    _kind("CalicoNodeStatus", "caliconodestatuses"),
    _kind("Profile", "profiles", "profile profiles pro pros"),
    _kind("Tier", "tiers", "tier tiers"),
    _kind("GlobalNetworkPolicy", "globalnetworkpolicies", "globalnetworkpolicy globalnetworkpolicies gnp gnps"),
    _kind(
        "StagedGlobalNetworkPolicy",
        "stagedglobalnetworkpolicies",
        "stagedglobalnetworkpolicy stagedglobalnetworkpolicies sgnp sgnps",
    ),
    _kind("GlobalNetworkSet", "globalnetworksets", "globalnetworkset globalnetworksets gnetsets"),
    _kind("HostEndpoint", "hostendpoints", "hostendpoint hostendpoints hep heps"),
    _kind("NetworkPolicy", "networkpolicies", "networkpolicy networkpolicies policy policies np pol pols", True),
    _kind(
        "StagedNetworkPolicy",
        "stagednetworkpolicies",
        "stagednetworkpolicy stagednetworkpolicies stagedpolicy stagedpolicies snp spol spols",
        True,
    ),
    _kind(
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        "stagedkubernetesnetworkpolicy stagedkubernetesnetworkpolicies stagedkubernetespolicy stagedkubernetespolicies"
        " sknp skpol skpols",
        True,
    ),
    _kind("NetworkSet", "networksets", "networkset networksets netsets", True),
    _kind("WorkloadEndpoint", "workloadendpoints", "workloadendpoint workloadendpoints wep weps", True),
    _kind("LiveMigration", "livemigrations", "", True),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
PLURALS: dict[str, str] = {kind.plural: kind.name for kind in _ALL}
WORDS: dict[str, str] = {word: kind.name for kind in _ALL for word in kind.words}


def kind_of_word(word: str) -> str | None:
    """The kind that a word on the command line means, in any case of letters; None if there is none."""
    return WORDS.get(word.lower())
