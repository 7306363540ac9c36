"""Other IPAM plug-ins, run as the CNI library runs them: with the call's own environment and stdin."""

from __future__ import annotations

import json
import os

from libcalico.cni import errors, result
from libcalico.cni.errors import CniError
from libcalico.cni.request import Call
from libcalico.cni.result import Addresses
from libcalico.kernel import process

OWN_PLUGIN = "calico-ipam"
PLUGIN_TIMEOUT_S = 15.0


class PluginIpam:
    """Another plug-in as the IPAM of an attachment (`workload.addresses.OtherIpam`); `answer` is what ADD said."""

    def __init__(self, name: str, call: Call, notes: list[str], add_timeout_s: float) -> None:
        self._name = name
        self._call = call
        self._notes = notes
        self._add_timeout_s = add_timeout_s
        self.answer = Addresses(())

    def of_call(self, call: Call) -> PluginIpam:
        """The same for another call."""
        return PluginIpam(self._name, call, self._notes, self._add_timeout_s)

    async def assign(self) -> tuple[str, ...]:
        """ADD."""
        stdout = await self.run("ADD", self._add_timeout_s)
        try:
            self.answer = result.parse_result(json.loads(stdout))
        except ValueError as error:
            raise CniError(errors.GENERAL, f"the IPAM plugin's result is not JSON: {error}") from error
        return self.answer.cidrs

    async def release(self) -> None:
        """DEL."""
        await self.run("DEL")

    async def run(self, command: str, timeout_s: float = PLUGIN_TIMEOUT_S) -> bytes:
        """What the plug-in prints for a command. Its error passes through; `TimeoutError` when it has not ended."""
        path = find_plugin(self._name, self._call.path)
        environment = {**self._call.environment, "CNI_COMMAND": command}
        outcome = await process.run(path, environment, self._call.stdin, timeout_s)
        if outcome.stderr:
            self._notes.append(outcome.stderr.decode("utf-8", "replace").rstrip())
        if outcome.exit_code:
            raise _plugin_error(outcome)
        return outcome.stdout


def find_plugin(name: str, path: str) -> str:
    """The executable of a plug-in on CNI_PATH."""
    if not name:
        raise CniError(errors.GENERAL, "no plugin name provided")
    directories = [directory for directory in path.split(":") if directory]
    for directory in directories:
        full = os.path.join(directory, name)
        if "/" not in name and os.path.isfile(full):
            return full
    raise CniError(errors.GENERAL, f'failed to find plugin "{name}" in path [{" ".join(directories)}]')


def _plugin_error(outcome: process.Outcome) -> CniError:
    try:
        found = json.loads(outcome.stdout)
        return CniError(int(found["code"]), str(found["msg"]), str(found.get("details", "")))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = outcome.stdout.decode("utf-8", "replace").strip() or f"exit status {outcome.exit_code}"
        return CniError(errors.GENERAL, f"netplugin failed: {text}")
