"""Read ``data_map.yaml``: what the file may say, and the data map it comes to. Reads one file, no database.

Nothing is read loosely: an unknown word, a key that is there twice, a period that is none, a selection of everybody is refused with its
place. ``graph`` then checks the map as a whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mongo_ops.erasure.graph import DataMapError, faults
from mongo_ops.erasure.map_words import Category, Day, Name, PathText, Period, Scalar, Selection, Text, a_selection
from mongo_ops.erasure.model import (
    Action,
    BlastRadius,
    Change,
    CollectionEntry,
    DataMap,
    FieldNote,
    Ground,
    Identifier,
    IdentifierType,
    Op,
    Retention,
    Rule,
    Stage,
    Waiver,
)
from mongo_ops.erasure.selectors import ANYWHERE, OR
from mongo_ops.settings import include_folder

__all__ = ["DataMapError", "load_map", "parse_map"]

FILE = "data_map.yaml"
HASHES = frozenset({"md5", "sha1", "sha256"})


def load_map(folder: Path | None = None) -> DataMap:
    """Read the data map of the include folder, or of another.

    Raises:
        DataMapError: there is none, or something in it is wrong; all that is wrong is listed.
    """
    path = (folder or include_folder()) / FILE
    if not path.is_file():
        raise DataMapError(
            f"{path} does not exist. Nothing can be erased by guess: write a data map, beginning with a copy of the project's include/data_map.yaml."
        )
    return parse_map(path.read_text(encoding="utf-8"), str(path))


def parse_map(text: str, where: str) -> DataMap:
    """Return the data map that a text describes; ``where`` names it in errors.

    The digest covers what the map means: comments, order of keys, and whether a default is written out make no difference.

    Raises:
        DataMapError: something is wrong; all that is wrong is listed.
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, which also refuses keys that are there twice
    except yaml.YAMLError as error:
        raise DataMapError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataMapError(f"{where} must be a mapping with `version`, `subject`, `identifiers` and `collections`.")
    try:
        found = _MapModel.model_validate(content).value()
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise DataMapError(f"{where} is not a data map:\n  " + "\n  ".join(lines)) from None
    wrong = faults(found)
    if wrong:
        raise DataMapError(f"{where} cannot be followed:\n  " + "\n  ".join(wrong))
    return dataclasses.replace(found, digest=_digest(found))


def _digest(found: DataMap) -> str:
    meaning = json.dumps(dataclasses.asdict(found), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(meaning.encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """A safe loader that takes a key only once: the later one would silently replace a rule."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


# The file's entries ---------------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class _IdentifierModel(_Strict):
    collection: Text
    path: PathText
    where: Selection | None = None
    types: Annotated[list[IdentifierType], Field(min_length=1)] = ["string"]
    trace: bool = True
    remains: list[Text] = []
    unique: bool = False
    forbid: list[Scalar] = []
    hashes: list[str] = []
    is_object: bool = False
    why: str = ""

    @model_validator(mode="after")
    def _known_hashes(self) -> _IdentifierModel:
        if unknown := set(self.hashes) - HASHES:
            raise ValueError(f"hashes: {', '.join(sorted(unknown))} is none of {', '.join(sorted(HASHES))}")
        return self

    def value(self, name: str, own: tuple[str, str, str]) -> Identifier:
        """Return the identifier. In the subject's own document (collection, path, subject) no ``where`` means: of that subject."""
        collection, path, subject = own
        where = self.where or ({path: f"${subject}"} if self.collection == collection and name != subject else {})
        return Identifier(
            name=name, collection=self.collection, path=self.path, where=where, types=tuple(self.types), trace=self.trace,
            remains=tuple(self.remains), unique=self.unique, forbid=tuple(self.forbid), hashes=tuple(self.hashes),
            is_object=self.is_object, why=self.why,
        )  # fmt: skip


class _ChangeModel(_Strict):
    path: PathText
    op: Op
    value: Scalar | None = None
    of: str | None = None
    where: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _where_is_a_condition(self) -> _ChangeModel:
        if isinstance(self.where, str) and self.where != ANYWHERE and not re.match(r"\$\w+\Z", self.where):
            raise ValueError("where must be $identifier, conditions by field, or `anywhere`")
        if isinstance(self.where, dict) and {OR, ANYWHERE} & a_selection(self.where).keys():
            raise ValueError("where cannot use any; write several changes")
        return self

    def change(self) -> Change:
        return Change(self.path, self.op, self.value, self.of, self.where)


class _GroundModel(_Strict):
    basis: Text
    purpose: Text
    owner: Text
    start: PathText | None = None
    period: Period | None = None
    review: Period | None = None


class _RuleModel(_Strict):
    select: Selection
    action: Action
    stage: Stage = "leaves"
    changes: list[_ChangeModel] = []
    ground: _GroundModel | None = None
    why: str = ""
    exported: bool = True

    def value(self, collection: str, name: str) -> Rule:
        ground = Ground(**self.ground.model_dump()) if self.ground else None
        changes = tuple(one.change() for one in self.changes)
        return Rule(
            f"{collection}.{name}",
            collection,
            self.select,
            self.action,
            self.stage,
            changes,
            ground,
            self.why,
            self.exported,
        )


class _RetentionModel(_Strict):
    start: PathText
    period: Period
    action: Annotated[str, Field(pattern="^(delete|anonymize)$")]
    where: Selection | None = None
    changes: list[_ChangeModel] = []
    consent: str | None = None
    why: str = ""

    def value(self, collection: str, name: str) -> Retention:
        return Retention(
            id=f"{collection}.{name}", collection=collection, start=self.start, period=self.period,
            action="delete" if self.action == "delete" else "anonymize", where=self.where or {},
            changes=tuple(one.change() for one in self.changes), consent=self.consent, why=self.why,
        )  # fmt: skip


class _NoteModel(_Strict):
    category: Category
    purpose: str | None = None
    legal_basis: str | None = None
    recipients: list[str] = []


class _CollectionModel(_Strict):
    fields: Annotated[dict[PathText, Category | _NoteModel], Field(min_length=1)]
    rules: dict[Name, _RuleModel] = {}
    retention: dict[Name, _RetentionModel] = {}
    purpose: str = ""
    legal_basis: str = ""
    recipients: list[str] = []
    consent: str | None = None

    def value(self, name: str) -> CollectionEntry:
        notes = {path: _NoteModel(category=n) if isinstance(n, str) else n for path, n in self.fields.items()}
        return CollectionEntry(
            name,
            {p: FieldNote(n.category, n.purpose, n.legal_basis, tuple(n.recipients)) for p, n in notes.items()},
            tuple(rule.value(name, own) for own, rule in self.rules.items()),
            tuple(one.value(name, own) for own, one in self.retention.items()),
            self.purpose, self.legal_basis, tuple(self.recipients), self.consent,
        )  # fmt: skip


class _WaiverModel(_Strict):
    path: Text
    why: Text
    owner: Text
    until: Day


class _LimitsModel(_Strict):
    subjects: Annotated[int, Field(ge=1)] = BlastRadius().subjects
    documents_per_subject: Annotated[int, Field(ge=1)] = BlastRadius().documents_per_subject
    share: Annotated[float, Field(gt=0, le=1)] = BlastRadius().share


class _MapModel(_Strict):
    version: Annotated[int, Field(ge=1)]
    subject: Name
    backups: Period
    identifiers: Annotated[dict[Name, _IdentifierModel], Field(min_length=1)]
    collections: Annotated[dict[str, _CollectionModel], Field(min_length=1)]
    recipients: dict[str, Text] = {}
    limits: _LimitsModel = _LimitsModel()
    waivers: list[_WaiverModel] = []

    @model_validator(mode="after")
    def _subject_is_an_identifier(self) -> _MapModel:
        if self.subject not in self.identifiers:
            raise ValueError(f"subject: {self.subject} is none of the identifiers {', '.join(self.identifiers)}")
        return self

    def value(self) -> DataMap:
        root = self.identifiers[self.subject]
        own = (root.collection, root.path, self.subject)
        return DataMap(
            version=self.version,
            subject=self.subject,
            identifiers={name: one.value(name, own) for name, one in self.identifiers.items()},
            collections={name: one.value(name) for name, one in self.collections.items()},
            waivers=tuple(Waiver(**one.model_dump()) for one in self.waivers),
            limits=BlastRadius(**self.limits.model_dump()),
            backups_period=self.backups,
            recipients=self.recipients,
            digest="",
        )
