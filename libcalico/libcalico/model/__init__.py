"""The objects of Calico: kinds, keys, structs, bytes, validation. Pure: no I/O, no time.

`resources` has the structs, `keys` the paths, `codec` the bytes, `validation` and `defaults` what upstream's client
checks and fills in, `yaml_input` how files are read.
"""

from libcalico.model.codec import decode, encode, from_input, to_json
from libcalico.model.keys import (
    AffinityKey,
    BlockKey,
    HandleKey,
    HostStatusKey,
    IPAMConfigKey,
    Key,
    LastReportedStatusKey,
    ResourceKey,
    WorkloadStatusKey,
    key_path,
    list_prefix,
    parse_path,
    split_workload_endpoint_name,
    workload_endpoint_name,
    workload_endpoint_prefix,
)
from libcalico.model.kinds import KINDS, Kind, kind_of_word
from libcalico.model.resources import (
    API_VERSION,
    ICMP,
    IPNAT,
    ClusterInformation,
    ClusterInformationSpec,
    EntityRule,
    FelixConfiguration,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    GlobalNetworkSet,
    IPPool,
    IPPoolSpec,
    Metadata,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkSet,
    NetworkSetSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
    Profile,
    ProfileSpec,
    Resource,
    Rule,
    ServiceAccountMatch,
    Tier,
    TierSpec,
    WorkloadEndpoint,
    WorkloadEndpointPort,
    WorkloadEndpointSpec,
)

__all__ = [name for name in dir() if not name.startswith("_")]
