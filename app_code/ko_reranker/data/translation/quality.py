"""What is accepted as a translation.

The bounds are set by 33,589 English-Korean pairs of published documentation (Microsoft's C++ pages, LibreOffice's help), of
which they refuse fewer than one in a thousand, most of those with reason: paragraphs that were never translated.
"""

from __future__ import annotations

from ko_reranker.data.translation.language import letters, script_share

# Letters from which on the share of the target's script counts, and the least share from there on.
_LEAST_SHARES = ((400, 0.15), (150, 0.10), (60, 0.05), (20, 0.02))
# Characters of the source from which on lengths are compared, and the least and the largest ratio from there on.
_LENGTH_RATIOS = ((150, 0.12, 2.5), (20, 0.06, 5.0))


def problem(source: str, translation: str, target_language: str) -> str | None:
    """Return why a translation is not to be trained on, or None for one that is.

    Args:
        source: the text.
        translation: what came back.
        target_language: Amazon Translate's code.
    """
    if not translation.strip():
        return "came back empty"
    if _same(source, translation):
        return None if is_name(source) else "came back as it was"
    share = script_share(translation, target_language)
    if share is not None:
        count = letters(translation)
        least = next((least for size, least in _LEAST_SHARES if count >= size), 0.0)
        # A name that comes back with its case or its spaces changed is none the worse.
        if (share == 0.0 and not is_name(source)) or share < least:
            return f"came back with {share:.0%} of its {count} letters in the script of {target_language}"
    ratio = len(translation) / len(source)
    for size, low, high in _LENGTH_RATIOS:
        if len(source) >= size:
            if not low <= ratio <= high:
                return f"came back {ratio:.2g} times as long as its source"
            break
    return None


def is_name(text: str) -> bool:
    """Tell whether a text is a name or a piece of code (``HDMI``, ``errno_t``), which is its own translation."""
    text = text.strip()
    if not text or any(char.isspace() for char in text):
        return False
    return any(char.isupper() for char in text[1:]) or not text.isalpha()


def _same(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
