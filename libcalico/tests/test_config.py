"""The parameter table: ranks of sources, forms of values, what a bad value does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libcalico.config import (
    Configuration,
    Foreign,
    Parameter,
    Value,
    boolean,
    integer,
    one_of,
    seconds,
    socket_path,
    words,
)
from libcalico.errors import BadData

TABLE = (
    Parameter("Port", integer(1, 65535), 4789, "a port"),
    Parameter("Count", integer(0, 100), 7, "a number", live=True),
    Parameter("Action", one_of("drop", "accept"), "drop", "an enumeration"),
    Parameter("Prefixes", words, ("cali",), "a list"),
    Parameter("Tunnel", boolean, None, "unset: decided elsewhere"),
    Parameter("Interval", seconds, 30.0, "a time"),
    Parameter("LogPath", str, "/var/log/x", "a path", datastore=False),
    Parameter("Driver", one_of("etcdv3"), "etcdv3", "must be right", fatal=True),
)


def configuration(
    environment: dict[str, str] | None = None, datastore: dict[str, str] | None = None, file: Path | None = None
) -> Configuration:
    made = Configuration(TABLE)
    made.load_environment(environment or {}, "FELIX_")
    made.load_datastore(datastore or {})
    if file is not None:
        made.load_file(str(file))
    made.resolve()
    return made


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("[global]\nport = 2\ncount = 2\n")
    made = configuration({"felix_PORT": "1"}, {"port": "3", "Count": "3", "interval": "3"}, file)
    assert made.values["Port"] == Value(1, "environment")
    assert made.values["Count"] == Value(2, "file")
    assert made.values["Interval"] == Value(3.0, "datastore")
    assert made.values["Action"] == Value("drop", "default")


def test_a_typing_error_is_a_warning_with_its_place_and_what_counts(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("# mine\n[global]\nport = 2\nIntervall: 3\nAcion = accept\nqqqq = 1\n")
    made = configuration({"FELIX_COUNT": "1", "FELIX_CUONT": "1"}, {"tunnle": "true"}, file=file)
    assert made.warnings == [
        "there is no parameter 'FELIX_CUONT', which is set in the environment: it is ignored; did you mean Count?"
        " That is 1, from the environment",
        f"there is no parameter 'Intervall', which is set in the file {file}, line 4: it is ignored; did you mean"
        " Interval? That is 30.0, its default",
        f"there is no parameter 'Acion', which is set in the file {file}, line 5: it is ignored; did you mean"
        " Action? That is 'drop', its default",
        f"there is no parameter 'qqqq', which is set in the file {file}, line 6: it is ignored",
        "there is no parameter 'tunnle', which is set in the datastore: it is ignored; did you mean Tunnel?"
        " That is empty, its default",
    ]


def test_a_bad_value_is_a_warning_with_its_place_and_what_counts(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("[global]\n\nACTION = drpo\n")
    (warning,) = configuration(file=file).warnings
    assert warning == (
        f"parameter Action from the file {file}, line 3: 'drpo' is not one of drop, accept (did you mean drop?):"
        " the default 'drop' is used"
    )


def test_a_name_that_is_set_twice(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("count = 1\n[other]\nCOUNT = 2\n")
    made = configuration(file=file)
    assert made["Count"] == 2
    assert made.warnings == [f"'count' stands more than once in {file}: line 3 counts"]


def test_what_is_set_without_effect_is_a_warning_unless_it_asks_for_nothing_more() -> None:
    foreign = (Foreign("Encryption", frozenset(("false",))), Foreign("Former", frozenset("*")))
    made = Configuration(TABLE, foreign)
    for value, warnings in (("False", 0), ("", 0), ("true", 1)):
        made.load_datastore({"encryption": value, "FORMER": "x"})
        made.resolve()
        assert len(made.warnings) == warnings
    assert made.warnings == ["parameter Encryption from the datastore: not supported here: 'true' has no effect"]


def test_a_warning_is_news_once_until_it_is_mended() -> None:
    made = configuration({"FELIX_PORT": "0"})
    assert len(made.news()) == 1
    made.resolve()
    assert made.news() == [] and len(made.warnings) == 1
    made.load_environment({}, "FELIX_")
    made.resolve()
    assert made.news() == []
    made.load_environment({"FELIX_PORT": "0"}, "FELIX_")
    made.resolve()
    assert len(made.news()) == 1


def test_long_texts_are_cut_and_escaped() -> None:
    made = configuration({"FELIX_PORT": "\x1b[31m" + "9" * 10**6, "FELIX_" + "X" * 10**6: "\n"})
    made.load_datastore({"y" * 10**6: "1"})
    made.resolve()
    assert len(made.warnings) == 2
    for warning in made.warnings:
        assert len(warning) < 500 and warning.isprintable()


def test_a_file_may_be_missing(tmp_path: Path) -> None:
    assert not Configuration(TABLE).load_file(str(tmp_path / "none"))
    (tmp_path / "some").write_text("")
    assert Configuration(TABLE).load_file(str(tmp_path / "some"))


def test_an_empty_value_is_not_set() -> None:
    assert configuration({"FELIX_PORT": " "}, {"port": "3"}).values["Port"] == Value(3, "datastore")


def test_a_bad_value_means_the_default_not_a_weaker_source() -> None:
    made = configuration({"FELIX_PORT": "0"}, {"port": "3"})
    assert made["Port"] == 4789
    assert len(made.warnings) == 1 and "Port" in made.warnings[0] and "environment" in made.warnings[0]


@pytest.mark.parametrize("environment", [{}, {"FELIX_DRIVER": "etcdv3"}])
def test_a_fatal_error_counts_from_every_source(environment: dict[str, str]) -> None:
    with pytest.raises(BadData, match="Driver"):
        configuration(environment, {"driver": "kubernetes"})


def test_what_belongs_to_the_host_is_not_taken_from_the_datastore() -> None:
    made = configuration(datastore={"logpath": "/tmp/x"})
    assert made["LogPath"] == "/var/log/x"
    assert any("LogPath" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("name", "zero", "warned"),
    [
        ("LogPath", "", False),
        ("Prefixes", (), False),
        ("Count", 0, False),
        ("Interval", 0.0, False),
        ("Tunnel", None, False),
        ("Port", 4789, True),
        ("Action", "drop", True),
    ],
)
def test_none_is_the_zero_where_zero_is_allowed(name: str, zero: object, warned: bool) -> None:
    made = configuration({f"FELIX_{name}": "None"})
    assert made[name] == zero and bool(made.warnings) is warned


@pytest.mark.parametrize(
    ("text", "number"), [("10", 10), ("0x10", 16), ("0o17", 15), ("0b11", 3), ("010", 8), ("0", 0), ("00", 0)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert integer(0, 100)(text) == number


@pytest.mark.parametrize("text", ["101", "-1", "1.5", "", "08", "x"])
def test_what_is_no_whole_number_in_range(text: str) -> None:
    with pytest.raises(ValueError):
        integer(0, 100)(text)


@pytest.mark.parametrize(("text", "value"), [("90", 90.0), ("1.5", 1.5), ("1m30s", 90.0), ("50ms", 0.05), ("-1", -1)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["nan", "inf", "-infinity", "soon", "5 minutes"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


def test_forms_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text(
        '# head\nPort: 5 # after a blank\n\n[any]\nlogpath = "/a b#c"\nCOUNT=1\ncount=2\n; last\nprefixes = a, b ,,c\n'
    )
    made = configuration(file=file)
    assert (made["Port"], made["LogPath"], made["Count"], made["Prefixes"]) == (5, "/a b#c", 2, ("a", "b", "c"))
    assert made.warnings == [f"'COUNT' stands more than once in {file}: line 7 counts"]
    file.unlink()
    made.load_file(str(file))
    assert made.resolve() == {"Port", "LogPath", "Count", "Prefixes"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"[global\nport=1\n", "line 1"),
        (b"port\n", "line 1"),
        (b"[global]\n\nport\n", "line 3"),
        (b"port=\xff\xfe\n", ""),
    ],
)
def test_an_unreadable_file_is_an_error(tmp_path: Path, content: bytes, place: str) -> None:
    file = tmp_path / "felix.cfg"
    file.write_bytes(content)
    with pytest.raises(BadData, match=rf"felix\.cfg.*{place}"):
        configuration(file=file)


def test_a_file_that_is_a_link_to_nothing_or_has_no_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "felix.cfg").symlink_to("missing")
    with pytest.raises(BadData, match=r"felix\.cfg.*No such file"):
        configuration(file=tmp_path / "felix.cfg")
    with pytest.raises(BadData, match=r"/dev/zero.*File too large"):
        configuration(file=Path("/dev/zero"))


def test_an_indented_line_is_a_line_of_its_own(tmp_path: Path) -> None:
    made = Configuration(TABLE)
    path = tmp_path / "felix.cfg"
    path.write_bytes(b"\xef\xbb\xbf[global]\r\n  LogPath = /a\r\n\tPort = 7\r\n")
    assert made.load_file(str(path))
    made.resolve()
    assert (made["LogPath"], made["Port"], made.warnings) == ("/a", 7, [])


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "a\0b"])
def test_what_is_no_file_is_an_error_at_once(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadData, match="cannot read the configuration file"):
        Configuration(TABLE).load_file(str(tmp_path / path))


@pytest.mark.parametrize("text", ["/run/a\0b", "/run/\x1b[31m", "/" + "x" * 120])
def test_what_is_no_path_of_a_socket(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a path|too long for a socket"):
        socket_path(text)


def test_changes_and_which_of_them_need_a_restart() -> None:
    made = configuration({"FELIX_PORT": "1"})
    made.load_datastore({"port": "9", "count": "9", "tunnel": "yes"})
    changed = made.resolve()
    assert changed == {"Count", "Tunnel"}
    assert made.needs_restart(changed) == {"Tunnel"}
