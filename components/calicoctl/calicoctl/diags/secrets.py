"""Secrets in what is collected: found, and replaced in every form. Pure.

Two ways. Values that are known to be secret (a file of keys, a variable called PASSWORD, a member `token` of an
object) are learnt first, from everything; then they are replaced wherever they stand: as text, as JSON and in URLs
escape it, in hexadecimal, and inside base64. What only looks like a secret (`password "..."`, `Authorization: ...`, a
private key) is replaced where it stands.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

MASK = b"<secret>"
SHORTEST = 4
"""Octets; a shorter one is replaced only where its name stands beside it."""
SHORTEST_CODED = 6
LONGEST = 16384
NO_SECRETS = frozenset((b"true", b"false", b"null", b"none", b"yes", b"no", b"<secret>", b"file"))
WORDS = rb"passwords?|passwd|passphrase|secrets?|tokens?|credentials?|private[_-]?key|api[_-]?key|authorization"
WORDS += rb"|fastopen_key|key-data|[_-]pass(?!\w)"
NAMED = re.compile(
    rb"(?i)(?:" + WORDS + rb")([\w.-]{0,40}[\"']?[ \t]{0,8}[:=,]?[ \t]{0,8})"
    rb"(\"(?:[^\"\\\n]|\\.){1,2000}\"|'[^'\n]{1,2000}'|[^\s\"'{}\[\];,\0]{1,2000})(?=([^\n\0]{0,200}))"
)
"""A name, what is between, the value, and the rest of its line."""
PARTED = re.compile(rb"[:=\"']")
NAME = re.compile(rb"(?i)(?:" + WORDS + rb"|(?:^|[_-])key$|[_-]pass$|access_?key)")
NAME_OF_PLACE = re.compile(rb"(?i)(?:file|path|dir|name|ref)s?$")
USER_INFO = re.compile(rb"://[^\s/@:\"']{1,200}:([^\s/@\"']{1,200})@")
USER_OPTION = re.compile(rb"--user[= ]([^\s:]{1,200}):(\S{1,200})")
BEGIN, END = b"-----BEGIN ", b"-----END "
SCHEMES = (b"bearer", b"basic", b"token=")
KEY_LINE = re.compile(rb"[A-Za-z0-9+/=]{16,}")


def is_secret_name(name: str) -> bool:
    """Does a variable, a member or an option of this name hold a secret?"""
    raw = name.encode()
    return NAME.search(raw) is not None and NAME_OF_PLACE.search(raw) is None


class Secrets:
    """What is known to be secret. `replaced` counts the places where something was."""

    def __init__(self) -> None:
        self._values: set[bytes] = set()
        self._forms: list[bytes] | None = None
        self.replaced = 0

    def learn(self, value: bytes) -> None:
        """A value, whole; also without blanks around it, and each line of one that has several."""
        for one in {value, value.strip(), *(line.strip() for line in value.splitlines())}:
            if SHORTEST <= len(one) <= LONGEST and one.lower() not in NO_SECRETS:
                self._values.add(one)
                self._forms = None

    def learn_object(self, value: object, name: str = "") -> None:
        """The secret members of a decoded JSON or YAML document, at any depth."""
        if isinstance(value, dict):
            for member, inner in value.items():
                self.learn_object(inner, str(member))
        elif isinstance(value, list):
            for inner in value:
                self.learn_object(inner, name)
        elif isinstance(value, str):
            if value[:1] in ("{", "["):
                with contextlib.suppress(ValueError, RecursionError):
                    self.learn_object(json.loads(value), name)
            if name and is_secret_name(name):
                self.learn(value.encode("utf-8", "surrogateescape"))
            self.learn_text(value.encode("utf-8", "surrogateescape"))

    def learn_text(self, text: bytes) -> None:
        """The values that stand beside a secret's name in a configuration, a variable or a command line."""
        for _, _, value, rest in _named(text):
            self.learn(_bare(value))
            if value[:1] not in b"\"'":
                self.learn(_bare(value + rest))
        for found in (*USER_INFO.finditer(text), *USER_OPTION.finditer(text)):
            self.learn(found[found.re.groups])
        for start, end in _private_keys(text):
            for line in KEY_LINE.findall(text[start:end]):
                self.learn(line)

    def clean(self, text: bytes) -> bytes:
        """The text without them."""
        for start, end in reversed(list(_private_keys(text))):
            self.replaced += 1
            text = text[:start] + MASK + text[end:]
        text = self._without_known(text)
        text = USER_OPTION.sub(lambda found: self._masked(b"--user " + found[1] + b":"), text)
        text = USER_INFO.sub(lambda found: found[0].replace(b":" + found[1] + b"@", b":" + self._masked() + b"@"), text)
        for start, end, _, _ in reversed(list(_named(text))):
            if text[start:end] != MASK:
                text = text[:start] + self._masked() + text[end:]
        return text

    def _without_known(self, text: bytes) -> bytes:
        """Whole values go before what only looks like a secret, of which no more than a word may be seen."""
        if self._forms is None:
            self._forms = sorted({form for one in self._values for form in forms(one)}, key=len, reverse=True)
        for form in self._forms:
            count = text.count(form)
            if count:
                self.replaced += count
                text = text.replace(form, MASK)
        return text

    def clean_text(self, text: str) -> str:
        """The same for text."""
        return self.clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def _masked(self, before: bytes = b"") -> bytes:
        self.replaced += 1
        return before + MASK


def _named(text: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Place, value and rest of the line of what stands beside a secret's name."""
    for found in NAMED.finditer(text):
        between, value, rest = found[1], found[2], found[3]
        if text[max(0, found.start() - 1) : found.start()] == b"<":  # the mask itself
            continue
        if (
            not PARTED.search(between)
            and value[:1] not in b"\"'"
            and b"--" not in text[max(0, found.start() - 20) : found.start()]
        ):
            continue  # prose: "the token of this node"
        name = between.partition(b":")[0].partition(b"=")[0].strip(b" \t\"'")
        if NAME_OF_PLACE.search(name) or _bare(value).lower() in NO_SECRETS or value == MASK:
            continue
        start, end = found.span(2)
        if value.lower().startswith(SCHEMES[:2]) or value.lower().rstrip(b" ") in SCHEMES[:2]:
            end = found.end(3)
        yield start, end, text[start:end], rest


def _bare(value: bytes) -> bytes:
    """A value without its quotes and JSON's escapes."""
    value = value.strip()
    if value[:1] == b'"' and value[-1:] == b'"' and len(value) > 1:
        try:
            return str(json.loads(value)).encode("utf-8", "surrogatepass")
        except ValueError:
            return value[1:-1]
    if value[:1] == b"'" and value[-1:] == b"'" and len(value) > 1:
        return value[1:-1]
    for scheme in SCHEMES:
        if value.lower().startswith(scheme):
            return value[len(scheme) :].strip()
    return value


def _private_keys(text: bytes) -> Iterator[tuple[int, int]]:
    """Where private keys stand in PEM; one without an end goes as far as a key may."""
    start = text.find(BEGIN)
    while start >= 0:
        head_end = text.find(b"-----", start + len(BEGIN))
        if head_end < 0:
            return
        end = text.find(END, head_end)
        stop = min(len(text), start + LONGEST) if end < 0 else end
        if b"PRIVATE KEY" in text[start:head_end]:
            yield head_end + 5, stop
        start = text.find(BEGIN, head_end)


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret as it may stand in a text."""
    yield secret
    decoded = secret.decode("utf-8", "replace")
    yield json.dumps(decoded)[1:-1].encode()
    yield json.dumps(decoded, ensure_ascii=False)[1:-1].encode()
    yield quote(secret, safe="").encode()
    if len(secret) >= SHORTEST_CODED:
        yield from (secret.hex().encode(), secret.hex().upper().encode())
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + secret).rstrip(b"=")
        first = (0, 2, 3)[before]
        last = len(coded) - (1 if (before + len(secret)) % 3 else 0)
        part = coded[first:last]
        if len(part) >= SHORTEST:
            yield part
            yield part.replace(b"+", b"-").replace(b"/", b"_")
