"""Profiles: rules for what no policy decides, and labels that endpoints inherit (spec/felix.md 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libcalico.calc.active import ActiveRules
from libcalico.calc.report import Report
from libcalico.model.keys import ResourceKey
from libcalico.model.resources import Profile
from libcalico.policy.compile import CompiledProfile, compile_profile
from libcalico.policy.ir import PolicyId

Inherit = Callable[[str, Mapping[str, str]], None]


class Profiles:
    """Profiles by name, and how many local endpoints name each. `inherit` takes a profile's name and labels."""

    def __init__(self, rules: ActiveRules, inherit: tuple[Inherit, ...], report: Report) -> None:
        self._rules = rules
        self._inherit = inherit
        self._report = report
        self._compiled: dict[str, CompiledProfile] = {}
        self._users: dict[str, int] = {}

    def update(self, key: ResourceKey, profile: Profile | None, _revision: int) -> None:
        """A profile is there, has changed, or (None) is gone: endpoints that name it are then closed by it."""
        compiled = None if profile is None else compile_profile(profile)
        for inherit in self._inherit:
            inherit(key.name, {} if profile is None else profile.spec.labels_to_apply)
        if compiled is None:
            self._compiled.pop(key.name, None)
        else:
            self._compiled[key.name] = compiled
            self._report.note_refused(key, compiled.refused)
        self._refresh(key.name)

    def rename_users(self, former: tuple[str, ...], names: tuple[str, ...]) -> None:
        """A local endpoint names these profiles, and no longer the former ones."""
        if former == names:
            return
        for name in names:
            self._users[name] = self._users.get(name, 0) + 1
        for name in former:
            self._users[name] -= 1
            if self._users[name] == 0:
                del self._users[name]
        for name in {*former, *names}:
            self._refresh(name)

    def has(self, name: str) -> bool:
        """Is there a profile of this name, with rules that can be used?"""
        return name in self._compiled

    def is_used(self, name: str) -> bool:
        """Is there a profile of this name that a local endpoint names?"""
        return name in self._compiled and name in self._users

    def missing(self) -> dict[str, int]:
        """Names of profiles that are not there, or cannot be used, and how many local endpoints name each."""
        return {name: users for name, users in self._users.items() if name not in self._compiled}

    def __len__(self) -> int:
        return len(self._compiled)

    def _refresh(self, name: str) -> None:
        self._rules.put(PolicyId("Profile", "", name), self._compiled.get(name) if name in self._users else None)
