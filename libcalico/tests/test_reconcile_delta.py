"""The difference tracker against the obvious computation, and the reconciler in virtual time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libcalico.errors import Unavailable
from libcalico.reconcile import Delta, Reconciler

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["set_desired", "set_actual"]), st.sampled_from("abc"), st.integers(0, 2)),
        st.tuples(st.sampled_from(["delete_desired", "delete_actual"]), st.sampled_from("abc")),
        st.tuples(st.just("replace_actual"), st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))),
    ),
    max_size=30,
)


@given(STEPS)
def test_the_difference_is_always_that_of_the_two_maps(steps: list[tuple[object, ...]]) -> None:
    delta: Delta[str, int] = Delta()
    for name, *arguments in steps:
        getattr(delta, str(name))(*arguments)
    desired, actual = delta.desired, delta.actual
    assert dict(delta.updates()) == {k: v for k, v in desired.items() if actual.get(k) != v}
    assert dict(delta.deletes()) == {k: v for k, v in actual.items() if k not in desired}
    assert len(delta) == len(list(delta.updates())) + len(list(delta.deletes()))


class FakeKernel:
    """A driver over a dict that can refuse keys."""

    def __init__(self, **objects: int) -> None:
        self.objects = dict(objects)
        self.refused: set[str] = set()
        self.unreadable = False
        self.calls: list[str] = []

    async def read(self) -> Mapping[str, int]:
        self.calls.append("read")
        if self.unreadable:
            raise Unavailable("read: away")
        return dict(self.objects)

    async def apply(self, deletes: Mapping[str, int], updates: Mapping[str, int]) -> Mapping[str, Exception]:
        self.calls.append(" ".join([*(f"-{key}" for key in deletes), *(f"+{key}" for key in updates)]))
        errors: dict[str, Exception] = {}
        for key in deletes:
            self.objects.pop(key, None)
        for key, value in updates.items():
            if key in self.refused:
                errors[key] = Unavailable(f"{key} refused")
            else:
                self.objects[key] = value
        return errors


async def test_the_second_apply_does_nothing() -> None:
    kernel = FakeKernel(old=1, same=2)
    reconciler = Reconciler("thing", kernel)
    reconciler.set("same", 2)
    reconciler.set("new", 3)
    assert (await reconciler.apply(0.0)).in_sync
    assert (await reconciler.apply(1.0)).in_sync
    assert kernel.objects == {"same": 2, "new": 3}
    assert kernel.calls == ["read", "-old +new"]
    assert reconciler.next_try_s(1.0) is None


async def test_one_failing_key_is_retried_alone_with_growing_pauses() -> None:
    kernel = FakeKernel()
    kernel.refused = {"bad"}
    told: list[str] = []
    reconciler = Reconciler("thing", kernel, on_failure=lambda what, error: told.append(f"{what}: {error}"))
    reconciler.set("bad", 1)
    reconciler.set("good", 1)
    status = await reconciler.apply(0.0)
    assert kernel.objects == {"good": 1}
    assert status.pending == 1
    assert status.failures["bad"].error == "bad refused"
    assert told == ["thing bad: bad refused"]
    assert reconciler.next_try_s(0.0) == pytest.approx(0.1)
    await reconciler.apply(0.05)
    assert len(kernel.calls) == 2
    await reconciler.apply(0.1)
    assert reconciler.next_try_s(0.1) == pytest.approx(0.2)
    kernel.refused.clear()
    reconciler.retry("bad")
    assert (await reconciler.apply(0.15)).in_sync
    assert kernel.objects == {"good": 1, "bad": 1}


async def test_a_changed_value_is_tried_at_once() -> None:
    kernel = FakeKernel()
    kernel.refused = {"bad"}
    reconciler = Reconciler("thing", kernel)
    reconciler.set("bad", 1)
    await reconciler.apply(0.0)
    kernel.refused.clear()
    reconciler.set("bad", 2)
    assert (await reconciler.apply(0.01)).in_sync


async def test_strangers_are_spared_for_a_while_but_our_own_are_not() -> None:
    kernel = FakeKernel(stranger=1)
    reconciler = Reconciler("thing", kernel, grace_s=10.0)
    reconciler.set("ours", 1)
    await reconciler.apply(0.0)
    reconciler.delete("ours")
    await reconciler.apply(1.0)
    assert kernel.objects == {"stranger": 1}
    assert reconciler.next_try_s(1.0) == pytest.approx(9.0)
    await reconciler.apply(10.0)
    assert kernel.objects == {}


async def test_what_cannot_be_read_is_not_written_and_is_read_again() -> None:
    kernel = FakeKernel(old=1)
    kernel.unreadable = True
    reconciler = Reconciler("thing", kernel)
    reconciler.set("new", 1)
    status = await reconciler.apply(0.0)
    assert (status.in_sync, status.error, kernel.objects) == (False, "read: away", {"old": 1})
    assert reconciler.next_try_s(0.0) == pytest.approx(1.0)
    kernel.unreadable = False
    assert (await reconciler.apply(1.0)).in_sync
    assert kernel.objects == {"new": 1}


async def test_a_refresh_repairs_what_others_changed() -> None:
    kernel = FakeKernel()
    reconciler = Reconciler("thing", kernel, refresh_interval_s=90.0)
    reconciler.set("a", 1)
    await reconciler.apply(0.0)
    kernel.objects.clear()
    await reconciler.apply(50.0)
    assert kernel.objects == {}
    assert reconciler.next_try_s(50.0) == pytest.approx(40.0)
    await reconciler.apply(90.0)
    assert kernel.objects == {"a": 1}
