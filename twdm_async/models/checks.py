"""Checks of ids and texts, made before anything is sent or spent.

The API does not say how it counts characters. So a text is refused here only if it is too long by *every* way of
counting (bytes, UTF-16 units, code points, what a reader sees as one character); otherwise, the server decides.
"""

from __future__ import annotations

import unicodedata

from twdm_async.errors import InvalidInput

_LARGEST_ID = 2**64 - 1
_ZERO_WIDTH_JOINER = "\u200d"
_VIRAMA = 9  # its combining class
_ALLOWED_CONTROLS = "\t\n\r"


def is_id(value: str) -> bool:
    """Return whether `value` can be an id: ASCII digits whose number fits in 64 bits."""
    return value.isascii() and value.isdigit() and (len(value) < 20 or (len(value) == 20 and int(value) <= _LARGEST_ID))


def checked_id(value: str | int, parameter: str) -> str:
    """Return `value` as the string that the API expects.

    Raises:
        InvalidInput: `value` is not a whole number of at most 64 bits, as an int or in ASCII digits.
    """
    if isinstance(value, str) and is_id(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_ID:
        return str(value)
    raise InvalidInput(parameter=parameter, problem="must be an id: ASCII digits, a number of at most 64 bits")


def fewest_characters(text: str) -> int:
    """Count the characters of `text` in the most generous way: as many as a reader sees, and sometimes fewer.

    These are not counted: marks, joiners and other invisible characters, skin tones, whatever follows a joiner or an
    Indic virama, vowel signs that are letters to Unicode, and all of a Korean syllable except its first letter. The two
    letters of a flag count as one.
    """
    count = 0
    tied = flag_open = in_syllable = False
    previous = ""
    for character in unicodedata.normalize("NFC", text):
        code = ord(character)
        category = unicodedata.category(character)
        leads_syllable = 0x1100 <= code <= 0x115F or 0xA960 <= code <= 0xA97C
        extends = (
            tied
            or category[0] == "M"
            or category == "Cf"
            or 0x1F3FB <= code <= 0x1F3FF  # skin tones
            or 0x1160 <= code <= 0x11FF  # Korean vowels and finals that join the letter before them
            or 0xD7B0 <= code <= 0xD7FB
            or code in {0x0E33, 0x0EB3, 0xFF9E, 0xFF9F}  # Thai and Lao vowel signs, halfwidth Japanese sound marks
            or (in_syllable and (leads_syllable or 0xAC00 <= code <= 0xD7A3))
            or (character == "\n" and previous == "\r")
        )
        flag_closed = flag_open and 0x1F1E6 <= code <= 0x1F1FF
        flag_open = 0x1F1E6 <= code <= 0x1F1FF and not flag_closed
        count += not extends and not flag_closed
        tied = character == _ZERO_WIDTH_JOINER or unicodedata.combining(character) == _VIRAMA
        in_syllable = leads_syllable
        previous = character
    return count


def checked_characters(text: str, parameter: str) -> str:
    """Return `text` unchanged if a request can carry it.

    Raises:
        InvalidInput: `text` is not a string, or contains a lone surrogate or a control character other than tab and
            newline.
    """
    if not isinstance(text, str):
        raise InvalidInput(parameter=parameter, problem="must be a str")
    if not text.isprintable():
        for character in text:
            category = unicodedata.category(character)
            if category == "Cs":
                raise InvalidInput(
                    parameter=parameter, problem="holds half of a surrogate pair, which no text can have"
                )
            if category == "Cc" and character not in _ALLOWED_CONTROLS:
                raise InvalidInput(parameter=parameter, problem="holds a control character other than tab and newline")
    return text


def checked_length(text: str, parameter: str, limit: int) -> str:
    """Return `text` unchanged if a request can carry it, it is not blank, and it has at most `limit` characters by some
    way of counting.

    Raises:
        InvalidInput: `text` is not a string, contains a character that cannot be sent, is empty or blank, or has more
            than `limit` characters by every way of counting.
    """
    checked_characters(text, parameter)
    if not text or text.isspace():
        raise InvalidInput(parameter=parameter, problem="must not be empty or blank")
    if len(text) > limit and fewest_characters(text) > limit:
        raise InvalidInput(parameter=parameter, problem=f"must have at most {limit} characters")
    return text
