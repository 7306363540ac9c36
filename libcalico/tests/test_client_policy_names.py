"""A policy is its name, whichever key a release stored it under (spec/datastore.md 1.2)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from libcalico.client.objects import AsyncClient
from libcalico.datastore.memory import MemoryDatastore
from libcalico.errors import ResourceAlreadyExists, ResourceDoesNotExist, ResourceUpdateConflict
from libcalico.model import GlobalNetworkPolicy, from_input

FOLDER = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/"
NOTE = "projectcalico.org/metadata"


class World:
    """A datastore with policies, and what the client warned of."""

    def __init__(self) -> None:
        self.store = MemoryDatastore()
        self.client = AsyncClient(self.store)
        self.warnings: list[str] = []
        self.client.warn = self.warnings.append

    async def put(self, key: str, named: str = "", tier: str = "") -> None:
        """A stored policy; `named` is the name in its annotation."""
        annotations = {NOTE: json.dumps({"name": named}, separators=(",", ":"))} if named else {}
        metadata = {"name": key, "uid": f"uid-of-{key}", "creationTimestamp": "2020-05-01T10:00:00Z"}
        spec = {"tier": tier, "selector": "old == '1'", "types": ["Ingress"]}
        value = {
            "kind": "GlobalNetworkPolicy",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {**metadata, "annotations": annotations} if annotations else metadata,
            "spec": spec if tier else {name: member for name, member in spec.items() if name != "tier"},
        }
        await self.store.put((FOLDER + key).encode(), json.dumps(value).encode())

    async def stored(self) -> dict[str, dict[str, Any]]:
        """Every policy by its key."""
        found = await self.store.range(FOLDER.encode())
        return {kv.key.decode().removeprefix(FOLDER): json.loads(kv.value) for kv in found.kvs}


@pytest.fixture
def world() -> World:
    """Nothing is stored."""
    return World()


def policy(name: str, selector: str = "new == '1'", **metadata: Any) -> Any:
    """What a user's file holds."""
    return from_input(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": name, **metadata},
            "spec": {"selector": selector},
        }
    )


def policy_spec(tier: str) -> Any:
    """The spec of a policy of this tier."""
    return msgspec.structs.replace(policy("any").spec, tier=tier)


KIND = "GlobalNetworkPolicy"


@pytest.mark.parametrize("named", ["", "web"], ids=["3.14", "3.30"])
@pytest.mark.parametrize("asked", ["web", "default.web"])
async def test_an_old_policy_is_found_by_either_name(world: World, named: str, asked: str) -> None:
    await world.put("default.web", named)
    found = await world.client.get(KIND, asked)
    assert (found.metadata.name, found.metadata.uid) == ("web", "uid-of-default.web")


@pytest.mark.parametrize("named", ["", "web"], ids=["3.14", "3.30"])
@pytest.mark.parametrize("given", ["web", "default.web"])
@pytest.mark.parametrize("verb", ["apply", "replace"])
async def test_a_write_goes_where_the_policy_is_and_keeps_its_form(
    world: World, named: str, given: str, verb: str
) -> None:
    await world.put("default.web", named)
    done = await getattr(world.client, verb)(policy(given))
    assert done.metadata.name == "web"
    stored = await world.stored()
    assert list(stored) == ["default.web"]
    metadata, spec = stored["default.web"]["metadata"], stored["default.web"]["spec"]
    assert (metadata["name"], metadata["uid"]) == ("default.web", "uid-of-default.web")
    assert metadata["labels"] == {"projectcalico.org/tier": "default"}
    assert metadata.get("annotations") == ({NOTE: '{"name":"web"}'} if named else None)
    assert (spec["tier"], spec["selector"]) == ("default", "new == '1'")
    assert world.warnings == []


async def test_a_users_annotation_does_not_rename_a_policy(world: World) -> None:
    await world.put("default.web")
    await world.client.apply(policy("web", annotations={NOTE: '{"name":"other"}', "ticket": "42"}))
    assert (await world.stored())["default.web"]["metadata"]["annotations"] == {"ticket": "42"}


async def test_what_was_read_by_its_stored_name_is_updated_there(world: World) -> None:
    await world.put("default.web")
    await world.put("web", "web")
    old = await world.client.get(KIND, "default.web")
    await world.client.update(old, under="default.web")
    with pytest.raises(ResourceUpdateConflict):
        await world.client.update(old)
    stored = await world.stored()
    assert "labels" in stored["default.web"]["metadata"]
    assert "labels" not in stored["web"]["metadata"]


async def test_create_meets_the_old_policy(world: World) -> None:
    await world.put("default.web")
    for name in ("web", "default.web"):
        with pytest.raises(ResourceAlreadyExists):
            await world.client.create(policy(name))
    assert list(await world.stored()) == ["default.web"]


async def test_a_policy_called_default_web_stands_for_itself_alone(world: World) -> None:
    await world.put("default.web", "default.web", tier="default")
    with pytest.raises(ResourceDoesNotExist):
        await world.client.get(KIND, "web")
    with pytest.raises(ResourceDoesNotExist):
        await world.client.delete(KIND, "web")
    await world.client.create(policy("web"))
    await world.client.delete(KIND, "web")
    with pytest.raises(ResourceDoesNotExist):
        await world.client.delete(KIND, "web")
    assert list(await world.stored()) == ["default.web"]


async def test_a_policy_called_web_does_not_stand_for_default_web(world: World) -> None:
    await world.put("web", "web")
    with pytest.raises(ResourceDoesNotExist):
        await world.client.get(KIND, "default.web")
    created = await world.client.create(policy("default.web"))
    assert created.metadata.name == "default.web"


async def test_another_tiers_prefix_is_part_of_the_name(world: World) -> None:
    await world.put("default.web", tier="guard")
    with pytest.raises(ResourceDoesNotExist):
        await world.client.get(KIND, "web")


@pytest.mark.parametrize("verb", ["apply", "replace", "delete"])
async def test_of_two_the_new_one_is_meant_and_the_other_named(world: World, verb: str) -> None:
    await world.put("default.web")
    await world.put("web", "web")
    if verb == "delete":
        await world.client.delete(KIND, "web")
    else:
        await getattr(world.client, verb)(policy("web"))
    stored = await world.stored()
    assert stored["default.web"]["spec"]["selector"] == "old == '1'"
    assert ("web" in stored) == (verb != "delete")
    assert len(world.warnings) == 1
    assert "stored as default.web" in world.warnings[0]
    names = [item.metadata.name for item in (await world.client.list(KIND)).items]
    assert names == (["web"] if verb == "delete" else ["web", "web"])


async def test_a_policy_that_is_stored_meanwhile_is_not_doubled(world: World) -> None:
    class Slow(MemoryDatastore):
        """Another client stores the old form between our look and our write."""

        armed = True

        async def txn(self, compares: Any, success: Any, failure: Any = ()) -> Any:
            if success and self.armed:
                Slow.armed = False
                await world.put("default.web")
            return await super().txn(compares, success, failure)

    world.store = Slow()
    world.client = AsyncClient(world.store)
    with pytest.raises(ResourceAlreadyExists):
        await world.client.create(policy("web"))
    assert list(await world.stored()) == ["default.web"]


async def test_a_list_names_what_cannot_be_read(world: World) -> None:
    await world.put("web", "web")
    await world.store.put((FOLDER + "broken").encode(), b"{")
    await world.store.put(FOLDER.encode() + b"\xff", b"{}")
    found = await world.client.list(KIND)
    assert [item.metadata.name for item in found.items] == ["web"]
    assert found.unreadable == (f"{FOLDER}broken", f"{FOLDER}\\xff")


@pytest.mark.parametrize("given", ["web", "default.web"])
@pytest.mark.parametrize("named", ["", "web"], ids=["3.14", "3.30"])
async def test_a_policy_that_moves_to_another_tier_keeps_its_name(world: World, named: str, given: str) -> None:
    await world.client.create(
        from_input({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "guard"}, "spec": {}})
    )
    await world.put("default.web", named)
    moved = policy(given)
    for tier in ("guard", "guard", "default"):
        done = await world.client.apply(msgspec.structs.replace(moved, spec=policy_spec(tier)))
        assert (done.metadata.name, done.spec.tier) == ("web", tier)
        assert (await world.client.get(GlobalNetworkPolicy, "web")).spec.tier == tier
        assert list(await world.stored()) == ["default.web"]


async def test_a_policy_that_comes_into_the_default_tier_keeps_its_name(world: World) -> None:
    await world.put("default.web", tier="guard")
    done = await world.client.replace(policy("default.web"))
    assert (done.metadata.name, done.spec.tier) == ("default.web", "default")
    assert [item.metadata.name for item in (await world.client.list(KIND)).items] == ["default.web"]


@pytest.mark.parametrize("name", ["a/b", "a/", "/", ""])
async def test_a_name_that_no_object_can_have(world: World, name: str) -> None:
    await world.store.put((FOLDER + name).encode(), json.dumps({"kind": KIND, "spec": {}}).encode())
    with pytest.raises(ResourceDoesNotExist):
        await world.client.get(KIND, name)
    with pytest.raises(ResourceDoesNotExist):
        await world.client.delete(KIND, name)
    with pytest.raises(ResourceDoesNotExist):
        await world.client.replace(policy(name))
    assert await world.store.get((FOLDER + name).encode()) is not None
