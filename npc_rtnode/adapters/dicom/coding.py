"""The vocabulary's codes as the content of objects: a plain Code Sequence item, or highdicom's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from npc_rtnode.domain.vocabulary import Code

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept


def code_item(code: Code) -> Dataset:
    """A Code Sequence item (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def coded(code: Code) -> CodedConcept:
    """The same for highdicom's constructors."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)
