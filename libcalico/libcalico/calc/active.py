"""The rules that some local endpoint needs: they use their sets, and go out (spec/felix.md 3.3)."""

from __future__ import annotations

from libcalico.calc.outbox import Pending
from libcalico.calc.sets import SetMembers
from libcalico.policy.compile import CompiledPolicy, CompiledProfile, SetSpec
from libcalico.policy.ir import Policy, PolicyId


class ActiveRules:
    """Policies and profiles in use."""

    def __init__(self, sets: SetMembers) -> None:
        self._sets = sets
        self._active: dict[PolicyId, dict[str, SetSpec]] = {}
        self._out: Pending[PolicyId, Policy] = Pending()

    def put(self, identity: PolicyId, compiled: CompiledPolicy | CompiledProfile | None) -> None:
        """These are the rules now; None: there are none, or no local endpoint needs them.

        Sets are used before they are released, so that one that both versions need is not emptied."""
        former = self._active.pop(identity, None)
        if compiled is not None:
            for spec in compiled.sets.values():
                self._sets.use(spec)
            self._active[identity] = compiled.sets
            self._out.put(identity, compiled.policy)
        elif former is not None:
            self._out.remove(identity)
        for set_id in former or ():
            self._sets.release(set_id)

    def flush(self) -> dict[PolicyId, Policy | None]:
        """What has changed since the last flush."""
        return self._out.flush()
