"""Reject completions in a language that is not in ``curate.languages``. An empty list, the default, lets all pass.

py3langid (after Lui and Baldwin 2012, langid.py) names the most probable of its 139 languages. Names, formulas and code
tell little of a language, so a text passes with fewer than LETTERS letters, or where no language has half of the
probability, or where there is no language in it. Its probabilities are normalised by the root of the text's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selftaught.config import Section, did_you_mean
from selftaught.errors import RecipeError
from selftaught.filters.base import Context, Filter
from selftaught.types import Example

LETTERS = 20
SURE = 0.5
PASSES = ("und", "zxx")  # ISO 639 for undetermined and for no linguistic content


class Language(Filter):
    class Options(Section):
        pass

    def __init__(self, context: Context) -> None:
        """Raises RecipeError for a language that is not known, and where py3langid is not installed."""
        self.languages = context.limits.languages
        self.identifier = identifier(self.languages) if self.languages else None

    def reason(self, example: Example) -> str | None:
        if self.identifier is None or sum(c.isalpha() for c in example.text) < LETTERS:
            return None
        language, share = self.identifier.classify(example.text)
        if language in (*self.languages, *PASSES):
            return None
        return f"its language is {language} ({share:.0%} sure), not {' or '.join(self.languages)} (curate.languages)"


def identifier(languages: Sequence[str]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise RecipeError(
            "curate.languages needs py3langid, which is not installed.", hint="pip install 'selftaught[language]'"
        ) from error
    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=SURE)
    known = [label for label in found.labels if label not in PASSES]
    for language in languages:
        if language not in known:
            hint = "Write codes of ISO 639-1, such as [en, de]."
            raise RecipeError(f"curate.languages: there is no {language!r}{did_you_mean(language, known)}", hint=hint)
    return found
