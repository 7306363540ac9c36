"""Finding etcd by DNS: SRV records of a domain, as etcd's own clients do (spec/datastore.md 9.1)."""

from __future__ import annotations

from libcalico.errors import BadData, DatastoreError

SERVICES = (("_etcd-client-ssl._tcp", "https"), ("_etcd-client._tcp", "http"))
TIMEOUT_S = 5.0


def discover(domain: str, source: str) -> tuple[str, ...]:
    """The URLs that the domain's records name, those of TLS first, by priority and weight.

    `source` is the setting that gave the domain. Raises `BadData` when there is no record, `DatastoreError` when no
    name server answers."""
    import dns.exception
    import dns.resolver

    found: list[str] = []
    for service, scheme in SERVICES:
        try:
            answer = dns.resolver.resolve(f"{service}.{domain}", "SRV", lifetime=TIMEOUT_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            continue
        except dns.exception.DNSException as error:
            reason = " ".join(str(error).split())[:200]
            raise DatastoreError(f"cannot look up {service}.{domain} ({source}): {reason}") from None
        records = sorted(answer, key=lambda record: (record.priority, -record.weight))
        found += [f"{scheme}://{str(record.target).rstrip('.')}:{record.port}" for record in records]
    if not found:
        names = " nor ".join(f"{service}.{domain}" for service, _ in SERVICES)
        raise BadData(f"{source}: there is no SRV record {names}")
    return tuple(found)
