"""Selectors: parse, evaluate, and one item's update against many selectors; both builds."""

from __future__ import annotations

from types import ModuleType

from calico_native import expression as compiled
from calico_native import label_index as compiled_index
from calico_native.py import expression as twin
from calico_native.py import label_index as twin_index
from libcalico import selector
from tests.scale.report import per_call_us, report

TEXT = "(role == 'server' && biz_type in {'bookstore', 'fruitstore'}) || has(projectcalico.org/namespace)"
LABELS = {"role": "client", "biz_type": "bookstore", "team": "blue"}
SELECTORS = (10, 100, 1000, 10_000)


def language(module: ModuleType, build: str) -> None:
    """Parse and evaluate one typical selector."""
    node = module.parse(TEXT)
    report("selector parse", "us", per_call_us(lambda: module.parse(TEXT), 2000), build=build)
    report("selector evaluate", "us", per_call_us(lambda: module.evaluate(node, LABELS), 20_000), build=build)


def index_update(language: ModuleType, module: ModuleType, build: str) -> None:
    """One endpoint changes one label, against N selectors each of which wants a value of a shared and an own label."""
    for count in SELECTORS:
        index = module.LabelIndex(lambda *_: None, lambda *_: None)
        for number in range(count):
            index.update_selector(number, language.parse(f"tier == 'web' && customer == 'c{number}'"))
        flips = [{"tier": "web", "customer": f"c{number % count}", "v": str(number)} for number in range(200)]

        def update(flips: list[dict[str, str]] = flips, index: object = index) -> None:
            for labels in flips:
                index.update_labels("w", labels, ())  # type: ignore[attr-defined]

        taken = [value / len(flips) for value in per_call_us(update, 5)]
        report("label index, one endpoint's update", "us", taken, build=build, selectors=count)


def main() -> None:
    """All of it."""
    for expression, label_index, build in ((compiled, compiled_index, "compiled"), (twin, twin_index, "python")):
        language(expression, build)
        index_update(expression, label_index, build)
    selector.parse(TEXT)
    report("selector parse, cached", "us", per_call_us(lambda: selector.parse(TEXT), 50_000))


if __name__ == "__main__":
    main()
