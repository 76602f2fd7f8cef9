"""Letters that look alike, folded into one, so that a text in disguise can be told from another text."""

# ruff: noqa: RUF001, RUF002 - letters that look like others are what this is about

from __future__ import annotations

import html
import re
import unicodedata

_PAIRS = (
    # Cyrillic, capitals first: some look like another letter than their small forms
    ("АВЕЗКМНОРСТУХІЈЅҺԌԚԜҮЬ", "ABE3KMHOPCTYXIJSHGQWYb"),
    ("авезкмнорстухіјѕһԁԍԛԝүьӏѵгпишщяэєбцԏ", "abe3kmhopctyxijshdgqwyblvrnnwwreebut"),
    # Greek
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹϳ", "ABEZHIKMNOPTYXCj"),
    ("αβγδεηικμνοπρσςτυχωϲ", "abydenikuvonpostuxwc"),
    # Armenian, Latin letters of other languages and of phonetics
    ("օսհոցզալյքԱՍՕՏԼ", "ouhngqwljpUUOSL"),
    ("ıȷɑɡɩɪʏʙɢʜʟɴʀøđħłŧƀɓƙɛəþðʋɐǝɟɥᴉɯɹʇʍʎɔɖɗɠɦɨɫɱɲʈʉʐɕʂ", "ijagiiybghlnrodhltbbkeepdvaefhimrtwycddghilmntuzcs"),
    ("ᴀᴄᴅᴇᴊᴋᴍᴏᴘᴛᴜᴠᴡᴢꜰꜱØĐĦŁŦ", "acdejkmoptuvwzfsodhlt"),
    # Cherokee and Lisu, whose capitals are drawn like Latin ones
    ("ᎪᏴᏟᎠᎬᎻᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᏃ", "abcdehjklmprstvwz"),
    ("ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ", "abcdefghijklmnoprstuvwxyz"),
    # what is written for letters with other keys
    ("0123456789@$€|", "olzeasbtbgasel"),
)
_SQUARED = {start + at: chr(ord("a") + at) for start in (0x1F150, 0x1F170, 0x1F1E6) for at in range(26)}
_LOOKS = {ord(odd): plain for odds, plains in _PAIRS for odd, plain in zip(odds, plains, strict=True)} | _SQUARED
_ONE_STROKE = str.maketrans("i", "l")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>")
_SHOUTED_I = re.compile(r"(?<=\w)!(?=\w)")


def folded(text: str) -> str:
    """Return a text without case, accents and forms of letters."""
    plain = html.unescape(text)
    if not plain.isascii():
        plain = unicodedata.normalize("NFKD", plain)
        plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.casefold()


def skeleton(text: str) -> str:
    """Return a text as it looks: letters that are drawn alike are one letter.

    ??? example

        ```python
        skeleton("pаypal") == skeleton("PayPa1")  # the first one's second letter is Cyrillic
        ```
    """
    plain = _SHOUTED_I.sub("i", html.unescape(text))
    if not plain.isascii():
        plain = unicodedata.normalize("NFKD", plain)
        plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return plain.translate(_LOOKS).casefold().translate(_LOOKS).translate(_ONE_STROKE)


def drawn(text: str) -> str:
    """Return a text's skeleton in which two letters that look like one are one."""
    return skeleton(text).replace("rn", "m").replace("vv", "w")


def untagged(text: str) -> str:
    """Return a text without marks such as `<b>`."""
    return _TAG.sub("", text)
