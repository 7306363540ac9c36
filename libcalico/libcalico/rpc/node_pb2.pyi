from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CniRequest(_message.Message):
    __slots__ = ("environment", "stdin", "program", "api_version")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    environment: _containers.ScalarMap[str, str]
    stdin: bytes
    program: str
    api_version: int
    def __init__(self, environment: _Optional[_Mapping[str, str]] = ..., stdin: _Optional[bytes] = ..., program: _Optional[str] = ..., api_version: _Optional[int] = ...) -> None: ...

class CniReply(_message.Message):
    __slots__ = ("exit_code", "stdout", "stderr")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    stdout: bytes
    stderr: bytes
    def __init__(self, exit_code: _Optional[int] = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ...) -> None: ...

class WorkloadId(_message.Message):
    __slots__ = ("namespace", "workload", "endpoint", "orchestrator")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ORCHESTRATOR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    workload: str
    endpoint: str
    orchestrator: str
    def __init__(self, namespace: _Optional[str] = ..., workload: _Optional[str] = ..., endpoint: _Optional[str] = ..., orchestrator: _Optional[str] = ...) -> None: ...

class WorkloadPort(_message.Message):
    __slots__ = ("name", "protocol", "port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    protocol: str
    port: int
    def __init__(self, name: _Optional[str] = ..., protocol: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("api_version", "workload", "netns_path", "network", "labels", "addresses", "ipv4_pools", "ipv6_pools", "want_ipv6", "mtu", "policy_timeout_s", "ports")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NETNS_PATH_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    IPV4_POOLS_FIELD_NUMBER: _ClassVar[int]
    IPV6_POOLS_FIELD_NUMBER: _ClassVar[int]
    WANT_IPV6_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    POLICY_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    netns_path: str
    network: str
    labels: _containers.ScalarMap[str, str]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    ipv4_pools: _containers.RepeatedScalarFieldContainer[str]
    ipv6_pools: _containers.RepeatedScalarFieldContainer[str]
    want_ipv6: bool
    mtu: int
    policy_timeout_s: int
    ports: _containers.RepeatedCompositeFieldContainer[WorkloadPort]
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ..., netns_path: _Optional[str] = ..., network: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., addresses: _Optional[_Iterable[str]] = ..., ipv4_pools: _Optional[_Iterable[str]] = ..., ipv6_pools: _Optional[_Iterable[str]] = ..., want_ipv6: _Optional[bool] = ..., mtu: _Optional[int] = ..., policy_timeout_s: _Optional[int] = ..., ports: _Optional[_Iterable[_Union[WorkloadPort, _Mapping]]] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("addresses", "host_interface", "mac")
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    HOST_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    host_interface: str
    mac: str
    def __init__(self, addresses: _Optional[_Iterable[str]] = ..., host_interface: _Optional[str] = ..., mac: _Optional[str] = ...) -> None: ...

class DetachRequest(_message.Message):
    __slots__ = ("api_version", "workload", "netns_path", "network")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NETNS_PATH_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    netns_path: str
    network: str
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ..., netns_path: _Optional[str] = ..., network: _Optional[str] = ...) -> None: ...

class DetachReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AssignRequest(_message.Message):
    __slots__ = ("api_version", "handle", "addresses", "ipv4_pools", "ipv6_pools", "ip_versions")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    IPV4_POOLS_FIELD_NUMBER: _ClassVar[int]
    IPV6_POOLS_FIELD_NUMBER: _ClassVar[int]
    IP_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    handle: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    ipv4_pools: _containers.RepeatedScalarFieldContainer[str]
    ipv6_pools: _containers.RepeatedScalarFieldContainer[str]
    ip_versions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, api_version: _Optional[int] = ..., handle: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., ipv4_pools: _Optional[_Iterable[str]] = ..., ipv6_pools: _Optional[_Iterable[str]] = ..., ip_versions: _Optional[_Iterable[int]] = ...) -> None: ...

class AssignReply(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("api_version", "handle", "addresses")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    handle: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, api_version: _Optional[int] = ..., handle: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutEndpointRequest(_message.Message):
    __slots__ = ("api_version", "workload", "network", "addresses", "mac", "labels", "ports", "no_profile", "policy_timeout_s", "closed", "exact_labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ExactLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    NO_PROFILE_FIELD_NUMBER: _ClassVar[int]
    POLICY_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    EXACT_LABELS_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    network: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    mac: str
    labels: _containers.ScalarMap[str, str]
    ports: _containers.RepeatedCompositeFieldContainer[WorkloadPort]
    no_profile: bool
    policy_timeout_s: int
    closed: bool
    exact_labels: _containers.ScalarMap[str, str]
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ..., network: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., mac: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., ports: _Optional[_Iterable[_Union[WorkloadPort, _Mapping]]] = ..., no_profile: _Optional[bool] = ..., policy_timeout_s: _Optional[int] = ..., closed: _Optional[bool] = ..., exact_labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PutEndpointReply(_message.Message):
    __slots__ = ("name", "host_interface", "mac")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    name: str
    host_interface: str
    mac: str
    def __init__(self, name: _Optional[str] = ..., host_interface: _Optional[str] = ..., mac: _Optional[str] = ...) -> None: ...

class WireRequest(_message.Message):
    __slots__ = ("api_version", "workload", "netns_path", "mtu", "policy_timeout_s", "sandbox_path")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    NETNS_PATH_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    POLICY_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_PATH_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    netns_path: str
    mtu: int
    policy_timeout_s: int
    sandbox_path: str
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ..., netns_path: _Optional[str] = ..., mtu: _Optional[int] = ..., policy_timeout_s: _Optional[int] = ..., sandbox_path: _Optional[str] = ...) -> None: ...

class WireReply(_message.Message):
    __slots__ = ("host_interface", "container_interface", "mac", "gateway_ipv4", "gateway_ipv6", "present")
    HOST_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_IPV4_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_IPV6_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    host_interface: str
    container_interface: str
    mac: str
    gateway_ipv4: str
    gateway_ipv6: str
    present: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host_interface: _Optional[str] = ..., container_interface: _Optional[str] = ..., mac: _Optional[str] = ..., gateway_ipv4: _Optional[str] = ..., gateway_ipv6: _Optional[str] = ..., present: _Optional[_Iterable[str]] = ...) -> None: ...

class UnwireRequest(_message.Message):
    __slots__ = ("api_version", "workload")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ...) -> None: ...

class UnwireReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropEndpointRequest(_message.Message):
    __slots__ = ("api_version", "workload")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    workload: WorkloadId
    def __init__(self, api_version: _Optional[int] = ..., workload: _Optional[_Union[WorkloadId, _Mapping]] = ...) -> None: ...

class DropEndpointReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "version", "in_sync", "datastore_revision", "programmed_revision", "local_endpoints", "active_policies", "ip_sets", "pending", "uptime_s", "native", "connected", "follows", "endpoint", "reason", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    DATASTORE_REVISION_FIELD_NUMBER: _ClassVar[int]
    PROGRAMMED_REVISION_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_POLICIES_FIELD_NUMBER: _ClassVar[int]
    IP_SETS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: str
    in_sync: bool
    datastore_revision: int
    programmed_revision: int
    local_endpoints: int
    active_policies: int
    ip_sets: int
    pending: _containers.RepeatedScalarFieldContainer[str]
    uptime_s: float
    native: str
    connected: bool
    follows: bool
    endpoint: str
    reason: str
    figures: _containers.ScalarMap[str, float]
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ..., in_sync: _Optional[bool] = ..., datastore_revision: _Optional[int] = ..., programmed_revision: _Optional[int] = ..., local_endpoints: _Optional[int] = ..., active_policies: _Optional[int] = ..., ip_sets: _Optional[int] = ..., pending: _Optional[_Iterable[str]] = ..., uptime_s: _Optional[float] = ..., native: _Optional[str] = ..., connected: _Optional[bool] = ..., follows: _Optional[bool] = ..., endpoint: _Optional[str] = ..., reason: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class WatchRoutingRequest(_message.Message):
    __slots__ = ("api_version", "node")
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    api_version: int
    node: str
    def __init__(self, api_version: _Optional[int] = ..., node: _Optional[str] = ...) -> None: ...

class StoredValue(_message.Message):
    __slots__ = ("key", "value", "gone")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    gone: bool
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., gone: _Optional[bool] = ...) -> None: ...

class RoutingPart(_message.Message):
    __slots__ = ("changes", "whole", "revision")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[StoredValue]
    whole: bool
    revision: int
    def __init__(self, changes: _Optional[_Iterable[_Union[StoredValue, _Mapping]]] = ..., whole: _Optional[bool] = ..., revision: _Optional[int] = ...) -> None: ...

class ConfigRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShowRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    def __init__(self, kind: _Optional[str] = ...) -> None: ...

class PendingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProblemsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DirtyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TableRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TraceRequest(_message.Message):
    __slots__ = ("object",)
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    object: str
    def __init__(self, object: _Optional[str] = ...) -> None: ...

class ResyncRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResyncReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Row(_message.Message):
    __slots__ = ("cells",)
    CELLS_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cells: _Optional[_Iterable[str]] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("rows", "notes")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Lines(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, lines: _Optional[_Iterable[str]] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
