"""Is a text a regular expression to Go (RE2)? A reader of the grammar of Go's `regexp/syntax` in its Perl mode.

It follows Go's parser token by token and keeps only what decides: the groups that are open, and by how much the nested
repeats of an item multiply, since Go refuses more than 1000. Python's `re` differs in too much to be asked. The one
known difference: scripts of several words (`\\p{Old_Italic}`), which Go took until 1.24, documents, and refuses since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MOST_REPEATS = 1000
_DEEPEST = 1000
_LAST_CHARACTER = 0x10FFFF
_JOINERS = re.compile("[ _-]")
_NAMED_GROUP = re.compile(r"\(\?P?<[A-Za-z0-9_]+>")
_FLAGS = re.compile(r"\(\?(?:[imsU]*|[imsU]*-[imsU]+)(?P<end>[:)])")
_REPEAT = re.compile(r"\{(?P<least>0|[1-9][0-9]*)(?P<comma>,(?P<most>0|[1-9][0-9]*)?)?\}")
_SHORT_REPEAT = re.compile(r"[*+?]")
_QUOTED = re.compile(r"\\Q.*?(?:\\E|\Z)", re.DOTALL)
_ASSERTION = re.compile(r"\\[AbBz]")
_PERL_CLASS = re.compile(r"\\[dDsSwW]")
_UNICODE_CLASS = re.compile(r"\\[pP](?:\{\^?(?P<name>[^}]*)\}|(?P<letter>[^{]))", re.DOTALL)
_POSIX_CLASS = re.compile(r"\[:(?P<name>.*?):\]", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:(?P<letter>[afnrtv])|(?P<octal>0[0-7]{0,2}|[1-7][0-7]{1,2})|x\{(?P<braced>[0-9A-Fa-f]+)\}"
    r"|x(?P<hex>[0-9A-Fa-f]{2})|(?P<itself>[^0-9A-Za-z\x80-\U0010ffff]))",
    re.DOTALL,
)
_LETTERS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_POSIX_NAMES = "alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit"
_CATEGORIES = """
    Any ASCII Assigned C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So
    Z Zl Zp Zs Other Control cntrl Format Unassigned Private_Use Surrogate Letter Cased_Letter Lowercase_Letter
    Modifier_Letter Other_Letter Titlecase_Letter Uppercase_Letter Mark Combining_Mark Spacing_Mark Enclosing_Mark
    Nonspacing_Mark Number Decimal_Number digit Letter_Number Other_Number Punctuation punct Connector_Punctuation
    Dash_Punctuation Close_Punctuation Final_Punctuation Initial_Punctuation Other_Punctuation Open_Punctuation Symbol
    Currency_Symbol Modifier_Symbol Math_Symbol Other_Symbol Separator Line_Separator Paragraph_Separator
    Space_Separator
"""
_SCRIPTS = """
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo
    Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common
    Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs
    Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul
    Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi
    Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki
    Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean
    Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi
    Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong
    Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian
    Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi
    Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo
    Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana
    Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square
"""


def _folded(name: str) -> str:
    return _JOINERS.sub("", name).lower()


_POSIX = frozenset(_POSIX_NAMES.split())
_UNICODE = frozenset(map(_folded, (_CATEGORIES + _SCRIPTS).split()))


class _Refused(ValueError):
    """What Go's parser answers with an error."""


@dataclass
class _Group:
    """An open group: how much the repeats in it multiply, and those of its last item; None: nothing to repeat."""

    factor: int = 1
    last: int | None = None

    def add(self, factor: int = 1) -> None:
        """Another item behind the last."""
        self.close_item()
        self.last = factor

    def close_item(self) -> None:
        """The last item can be repeated no more."""
        self.factor = max(self.factor, self.last or 0)
        self.last = None


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._last_posix_end = text.rfind(":]")  # nothing is looked for that is not there: time stays linear
        self._groups = [_Group()]

    def parse(self) -> None:
        repeated = False
        while self._at < len(self._text):
            repeated = self._token(repeated)
        if len(self._groups) > 1:
            raise _Refused("missing closing )")

    def _token(self, repeated: bool) -> bool:
        """Read one token; True if it was a repeat, which must not be repeated."""
        character = self._text[self._at]
        if repeat := self._take(_REPEAT) or self._take(_SHORT_REPEAT):
            self._repeat(repeat, repeated)
            return True
        if character == "(":
            self._open()
        elif character == ")":
            self._close()
        elif character == "|":
            self._at += 1
            self._groups[-1].close_item()
        elif character == "[":
            self._class()
            self._groups[-1].add()
        elif character == "\\":
            self._backslash()
        else:
            self._at += 1
            self._groups[-1].add()
        return False

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return found

    def _repeat(self, repeat: re.Match[str], repeated: bool) -> None:
        self._at += self._text.startswith("?", self._at)
        group = self._groups[-1]
        if repeated or group.last is None:
            raise _Refused("invalid or missing argument to repetition operator")
        if repeat.re is _SHORT_REPEAT:
            return
        least, most = _bound(repeat["least"]), _bound(repeat["most"] or ("" if repeat["comma"] else repeat["least"]))
        if max(least, most) > _MOST_REPEATS or 0 <= most < least:
            raise _Refused("invalid repeat count")
        if most == 0:
            group.last = 0
            return
        group.last *= most if most > 0 else max(least, 1)
        if group.last > _MOST_REPEATS and max(least, most) > 1:
            raise _Refused("invalid repeat count")

    def _open(self) -> None:
        if not self._text.startswith("(?", self._at):
            self._at += 1
        elif not self._take(_NAMED_GROUP):
            flags = self._take(_FLAGS)
            if flags is None:
                raise _Refused("invalid or unsupported Perl syntax")
            if flags["end"] == ")":
                return
        self._groups.append(_Group())
        if len(self._groups) > _DEEPEST:
            raise _Refused("expression nests too deeply")

    def _close(self) -> None:
        if len(self._groups) == 1:
            raise _Refused("unexpected )")
        self._at += 1
        group = self._groups.pop()
        group.close_item()
        self._groups[-1].add(group.factor)

    def _backslash(self) -> None:
        if quoted := self._take(_QUOTED):
            if quoted.group() not in ("\\Q", "\\Q\\E"):
                self._groups[-1].add()
            return
        if not (self._take(_ASSERTION) or self._named_class()):
            self._escape()
        self._groups[-1].add()

    def _named_class(self) -> bool:
        """Read `\\d` or `\\pL`, if there is one."""
        if self._take(_PERL_CLASS):
            return True
        if self._text[self._at + 1 : self._at + 2] not in ("p", "P"):
            return False
        found = self._take(_UNICODE_CLASS)
        if found is None or _folded(found["name"] or found["letter"] or "") not in _UNICODE:
            raise _Refused("invalid character class range")
        return True

    def _escape(self) -> int:
        """The character that an escape means."""
        found = self._take(_ESCAPE)
        if found is None:
            raise _Refused("invalid escape sequence")
        if found["letter"]:
            return _LETTERS[found["letter"]]
        if found["octal"]:
            return int(found["octal"], 8)
        if found["itself"]:
            return ord(found["itself"])
        code = int(found["braced"] or found["hex"], 16)
        if code > _LAST_CHARACTER:
            raise _Refused("invalid escape sequence")
        return code

    def _class(self) -> None:
        self._at += 1 + self._text.startswith("^", self._at + 1)
        first = True
        while first or not self._text.startswith("]", self._at):
            first = False
            is_open = self._text.startswith("[:", self._at) and self._at + 2 <= self._last_posix_end
            if is_open and (posix := self._take(_POSIX_CLASS)):
                if posix["name"].removeprefix("^") not in _POSIX:
                    raise _Refused("invalid character class range")
            elif not (self._text.startswith("\\", self._at) and self._named_class()):
                self._range()
        self._at += 1

    def _range(self) -> None:
        low = self._class_character()
        if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
            self._at += 1
            if self._class_character() < low:
                raise _Refused("invalid character class range")

    def _class_character(self) -> int:
        if self._at >= len(self._text):
            raise _Refused("missing closing ]")
        if self._text[self._at] == "\\":
            return self._escape()
        self._at += 1
        return ord(self._text[self._at - 1])


def _bound(digits: str) -> int:
    """A bound of a repeat: -1 for none; one that nobody could mean is as bad as any that is too large."""
    if not digits:
        return -1
    return int(digits) if len(digits) < 8 else _MOST_REPEATS + 1


def is_go_regex(text: str) -> bool:
    """True if Go's `regexp.Compile` takes it."""
    try:
        _Parser(text).parse()
    except _Refused:
        return False
    return True
