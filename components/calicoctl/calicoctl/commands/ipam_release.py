"""ipam release: one address, or what reports of `ipam check` found leaked (spec/calicoctl.md 6.2).

A report is only a suggestion. Released is what every report calls leaked, what is leaked still, and what is still the
same allocation: each address goes under its handle and sequence number, each handle under its revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calicoctl import cluster, ipam_report, session
from calicoctl.commands.ipam import parsed_address
from calicoctl.failures import CommandFailed, failed_by, notes_are_shown, show_notes
from calicoctl.ipam_report import Leak, Report, StaleHandle
from libcalico.errors import CalicoError, ResourceUpdateConflict
from libcalico.ipam.release import Release
from libcalico.model.resources import ClusterInformation

if TYPE_CHECKING:
    from calicoctl.session import Session
    from libcalico.ipam.audit import Audit

AT_ONCE = 50


def run(arguments: dict[str, Any]) -> int:
    """Reports first; without either option there is nothing to do."""
    with cluster.connect(arguments) as client:
        try:
            if arguments["--from-report"]:
                _release_reported(client, arguments["--from-report"], bool(arguments["--force"]))
            elif arguments["--ip"] is not None:
                _release_address(client, parsed_address(arguments["--ip"]))
        except CommandFailed:
            raise
        except CalicoError as error:
            raise failed_by(error, str(error)) from None
    return 0


def _release_address(client: Session, address: str) -> None:
    if client.ipam.release_ips([address]).unallocated:
        raise CommandFailed(f"IP address {address} is not assigned")
    print(f"Successfully released IP address {address}")
    if notes_are_shown():
        show_notes(_users(client, address))


def _users(client: Session, address: str) -> list[str]:
    """What still goes by an address that was just released."""
    try:
        owners = client.ipam.check().used.get(address, [])
    except CalicoError:
        return []
    return [f"{owner} goes on using {address}: it may be given to another container now" for owner in owners]


def _release_reported(client: Session, files: Sequence[str], is_forced: bool) -> None:
    information = client.get(ClusterInformation, "default")
    reports = [_accepted(ipam_report.read(file), information, is_forced) for file in files]
    if information.metadata.resource_version not in [one.cluster_revision for one in reports]:
        raise CommandFailed(
            "the provided reports are all stale - at least one should be up-to-date. Please generate a new report while"
            " the data store is locked and try again"
        )
    if information.spec.datastore_ready is not False:
        if not is_forced:
            raise CommandFailed("data store is not locked. Either lock the data store, or re-run with --force")
        print("WARNING: Data store is not locked. Ignoring due to --force option")
    audit = client.ipam.check()
    if audit.unreadable and not is_forced:
        raise CommandFailed(
            f"{len(audit.unreadable)} endpoints or nodes cannot be read, so what they use is unknown"
            f" ({audit.unreadable[0]}). Mend or delete them, or re-run with --force"
        )
    leaks, handles = ipam_report.common(reports)
    _release_leaks(client, leaks, audit)
    _delete_handles(client, handles, audit)
    print("You may now unlock the data store.")


def _accepted(one: Report, information: Any, is_forced: bool) -> Report:
    if one.cluster != information.spec.cluster_guid:
        raise CommandFailed(
            f"cluster does not match the provided report ({one.file}): mismatched cluster GUID. Refusing to release"
        )
    if one.version != session.CLIENT_VERSION:
        if not is_forced:
            raise CommandFailed(
                f"the provided report ({one.file}) was produced using a different version ({one.version}) of calicoctl."
                " Refusing to release"
            )
        print("WARNING: Report was produced using a different version of calicoctl. Ignoring due to --force option")
    return one


def _release_leaks(client: Session, leaks: Sequence[Leak], audit: Audit) -> None:
    if not leaks:
        print("Report didn't contain any leaked IPs to clean up.")
        return
    print(f"Releasing {len(leaks)} old IPs...")
    held = {Leak(one.address, one.handle, one.sequence): one for one in audit.allocations}
    used = [leak for leak in leaks if leak in held and held[leak].owners]
    wanted = [leak for leak in leaks if leak in held and held[leak].is_leaked]
    released = 0
    for start in range(0, len(wanted), AT_ONCE):
        released += _release_some(client, wanted[start : start + AT_ONCE])
    print(f"Released {released} IPs successfully")
    if used:
        print(f"{len(used)} addresses marked as leaked in the report are in use now: they stay.")
    gone = len(leaks) - len(used) - released
    if gone:
        print(f"{gone} addresses marked as leaked in the report had already been cleaned up.")


def _release_some(client: Session, leaks: Sequence[Leak]) -> int:
    """How many were released. One that has changed hands meanwhile refuses its whole group: then they go one by one."""
    try:
        done = client.ipam.release_ips([Release(one.address, one.handle or None, one.sequence) for one in leaks])
    except ResourceUpdateConflict:
        return sum(_release_some(client, [one]) for one in leaks) if len(leaks) > 1 else 0
    return len(done.done) - len(done.unallocated)


def _delete_handles(client: Session, handles: Sequence[StaleHandle], audit: Audit) -> None:
    if not handles:
        print("Report didn't contain any handles to clean up.")
        return
    print(f"Deleting {len(handles)} handles...")
    print("Key: '.' = Deleted OK; 'x' = skip, handle missing/changed.")
    counts, named = {".": 0, "x": 0}, audit.named_handles
    errors = 0
    for one in handles:
        unchanged = one.handle not in named and audit.handles.get(one.handle) == one.revision
        try:
            deleted = unchanged and client.ipam.drop_handle(one.handle, one.revision)
        except CalicoError as error:
            errors += 1
            print(f"\nDeleting handle {one.handle} failed: {error}.")
            continue
        sign = "." if deleted else "x"
        counts[sign] += 1
        print(sign, end="", flush=True)
    print(f"\nReleased {counts['.']} handles; {counts['x']} skipped; {errors} errors.")
