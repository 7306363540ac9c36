"""A dump of a cluster, and what its hosts would enforce: golden text, without agent, datastore, kernel or asyncio."""

from __future__ import annotations

import subprocess
import sys

import pytest

from libcalico.calc import cluster
from libcalico.errors import BadData

V3 = "/calico/resources/v3/projectcalico.org"
DUMP = f"""
{V3}/nodes/alpha
{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"alpha"}},"spec":{{"bgp":{{"ipv4Address":"192.0.2.1/24"}},"ipv4VXLANTunnelAddr":"10.0.1.0"}}}}
{V3}/nodes/beta-2
{{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{{"name":"beta-2"}},"spec":{{"bgp":{{"ipv4Address":"192.0.2.2/24"}},"ipv4VXLANTunnelAddr":"10.0.2.0","vxlanTunnelMACAddr":"66:00:00:00:00:02"}}}}
{V3}/ippools/pool
{{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{{"name":"pool"}},"spec":{{"cidr":"10.0.0.0/16","vxlanMode":"Always","natOutgoing":true}}}}
{V3}/tiers/default
{{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{{"name":"default"}},"spec":{{"order":1000000,"defaultAction":"Deny"}}}}
{V3}/tiers/platform
{{"kind":"Tier","apiVersion":"projectcalico.org/v3","metadata":{{"name":"platform"}},"spec":{{"order":10,"defaultAction":"Pass"}}}}
{V3}/profiles/kns.shop
{{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{{"name":"kns.shop"}},"spec":{{"labelsToApply":{{"pcns.team":"blue"}},"egress":[{{"action":"Allow"}}]}}}}
{V3}/globalnetworksets/partners
{{"kind":"GlobalNetworkSet","apiVersion":"projectcalico.org/v3","metadata":{{"name":"partners","labels":{{"who":"partner"}}}},"spec":{{"nets":["203.0.113.0/24","198.51.100.7","2001:db8::/48"]}}}}
{V3}/networksets/shop/suppliers
{{"kind":"NetworkSet","apiVersion":"projectcalico.org/v3","metadata":{{"name":"suppliers","namespace":"shop","labels":{{"app":"web"}}}},"spec":{{"nets":["10.0.1.2/32","172.16.0.0/12"]}}}}
{V3}/globalnetworkpolicies/platform.partners
{{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{{"name":"platform.partners"}},"spec":{{"tier":"platform","selector":"app == 'web'","types":["Ingress"],"ingress":[{{"action":"Pass","source":{{"selector":"who == 'partner'"}}}}]}}}}
{V3}/networkpolicies/shop/default.web
{{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{{"name":"default.web","namespace":"shop"}},"spec":{{"tier":"default","order":20,"selector":"app == 'web'","types":["Ingress","Egress"],"ingress":[{{"action":"Allow"}}],"egress":[{{"action":"Allow","protocol":"TCP","destination":{{"selector":"app == 'db'","ports":["sql"]}}}}]}}}}
{V3}/networkpolicies/shop/default.first
{{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{{"name":"default.first","namespace":"shop"}},"spec":{{"tier":"default","order":10,"selector":"all()","types":["Ingress"],"ingress":[{{"action":"Deny","source":{{"selector":"app == 'web'"}}}}]}}}}
{V3}/globalnetworkpolicies/damaged
{{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{{"name":"damaged"}},"spec":{{"selector":"all()","ingress":[{{"action":"Perhaps"}}]}}}}
{V3}/workloadendpoints/shop/alpha-cni-w1-eth0
{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"alpha-cni-w1-eth0","namespace":"shop","labels":{{"app":"web"}}}},"spec":{{"orchestrator":"cni","node":"alpha","containerID":"w1","endpoint":"eth0","interfaceName":"caliw1","ipNetworks":["10.0.1.2/32"],"profiles":["kns.shop"]}}}}
{V3}/workloadendpoints/shop/beta--2-cni-d1-eth0
{{"kind":"WorkloadEndpoint","apiVersion":"projectcalico.org/v3","metadata":{{"name":"beta--2-cni-d1-eth0","namespace":"shop","labels":{{"app":"db"}}}},"spec":{{"orchestrator":"cni","node":"beta-2","containerID":"d1","endpoint":"eth0","interfaceName":"calid1","ipNetworks":["10.0.2.2/32","fd00::2/128"],"profiles":["kns.shop","gone"],"ports":[{{"name":"sql","protocol":"TCP","port":5432}}]}}}}
/calico/ipam/v2/assignment/ipv4/block/10.0.1.0-26
{{"cidr":"10.0.1.0/26","affinity":"host:alpha","allocations":[0,null,1{",null" * 61}],"unallocated":[1,{",".join(map(str, range(3, 64)))}],"attributes":[{{"handle_id":"t","secondary":{{"node":"alpha"}}}},{{"handle_id":"w","secondary":{{"node":"alpha"}}}}],"deleted":false}}
/calico/ipam/v2/assignment/ipv4/block/10.0.2.0-26
{{"cidr":"10.0.2.0/26","affinity":"host:beta-2","allocations":[0,null,1{",null" * 61}],"unallocated":[1,{",".join(map(str, range(3, 64)))}],"attributes":[{{"handle_id":"t","secondary":{{"node":"beta-2"}}}},{{"handle_id":"d","secondary":{{"node":"beta-2"}}}}],"deleted":false}}
"""  # noqa: E501

PICTURE = """
host alpha
  WorkloadEndpoint(shop/alpha-cni-w1-eth0) caliw1 10.0.1.2/32
    ingress, tier platform: GlobalNetworkPolicy(platform.partners), then pass
    ingress, tier default: NetworkPolicy(shop/default.first), NetworkPolicy(shop/default.web), then deny
    egress, tier default: NetworkPolicy(shop/default.web), then deny
    profiles: kns.shop
  set (projectcalico.org/namespace == "shop" && app == "web"): 10.0.1.2/32, 172.16.0.0/12
  set ports tcp/sql of (projectcalico.org/namespace == "shop" && app == "db"): 10.0.2.2 tcp 5432, fd00::2 tcp 5432
  set who == "partner": 198.51.100.7/32, 203.0.113.0/24, 2001:db8::/48
  route 10.0.1.0/26 blackhole
  route 10.0.2.0/26 vxlan to beta-2
  tunnel to alpha IPv4: 10.0.1.0 66:be:76:33:1b:95 at 192.0.2.1
  tunnel to beta-2 IPv4: 10.0.2.0 66:00:00:00:00:02 at 192.0.2.2
  problem GlobalNetworkPolicy(damaged): rule 0: action 'Perhaps' is not Allow, Deny, Log or Pass: the policy is treated as absent
host beta-2
  WorkloadEndpoint(shop/beta--2-cni-d1-eth0) calid1 10.0.2.2/32 fd00::2/128
    ingress, tier default: NetworkPolicy(shop/default.first), then deny
    profiles: kns.shop, gone
  set (projectcalico.org/namespace == "shop" && app == "web"): 10.0.1.2/32, 172.16.0.0/12
  route 10.0.1.0/26 vxlan to alpha
  route 10.0.2.0/26 blackhole
  tunnel to alpha IPv4: 10.0.1.0 66:be:76:33:1b:95 at 192.0.2.1
  tunnel to beta-2 IPv4: 10.0.2.0 66:00:00:00:00:02 at 192.0.2.2
  problem GlobalNetworkPolicy(damaged): rule 0: action 'Perhaps' is not Allow, Deny, Log or Pass: the policy is treated as absent
  problem Profile(gone): is missing or cannot be used; endpoints of this host that name it (1) are closed where no policy applies to them
"""  # noqa: E501


def pictures(dump: str) -> str:
    stored = cluster.read_dump(dump)
    return "\n".join(line for host in cluster.hosts(stored) for line in cluster.lines(cluster.picture(stored, host)))


def test_what_the_hosts_of_a_dump_enforce() -> None:
    assert pictures(DUMP) == PICTURE.strip()


def test_the_order_of_the_objects_does_not_matter() -> None:
    stored = cluster.read_dump(DUMP)
    turned = dict(reversed(stored.items()))
    for host in cluster.hosts(stored):
        assert list(cluster.lines(cluster.picture(turned, host))) == list(cluster.lines(cluster.picture(stored, host)))


def test_a_dump_with_values_of_many_lines_is_read_as_well() -> None:
    text = f'{V3}/nodes/a\n{{\n  "kind": "Node"\n}}\n\n{V3}/nodes/b\n{{}}\n'
    assert cluster.read_dump(text) == {
        f"{V3}/nodes/a".encode(): b'{\n  "kind": "Node"\n}',
        f"{V3}/nodes/b".encode(): b"{}",
    }
    with pytest.raises(BadData, match="line 2 of the dump"):
        cluster.read_dump("\nhello\n")


def test_it_needs_no_event_loop_and_no_agent() -> None:
    program = (
        "import sys; import libcalico.calc.cluster; "
        "print(*[name for name in ('asyncio', 'socket', 'grpc', 'calico_felix') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
