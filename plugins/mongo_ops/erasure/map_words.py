"""The words of ``data_map.yaml``: paths, periods, days, categories and selections, each with the sentence that refuses a wrong one. Pure."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from mongo_ops.erasure.paths import is_path
from mongo_ops.erasure.periods import is_countable
from mongo_ops.erasure.selectors import ANYWHERE, EXISTS, NOT, OR

CATEGORY = re.compile(r"(?:user|system)(?:\.[a-z][a-z0-9_]*)*\Z")
NAME = r"^[a-z][a-z0-9_]*$"
Scalar = str | int | bool


def _a_path(text: str) -> str:
    if not is_path(text):
        raise ValueError("must be a path like email, address.city, credits[].name or likes.{user_id}")
    return text


def _a_period(text: str) -> str:
    if not is_countable(text):
        raise ValueError(
            "must be an ISO 8601 duration of years, months, weeks and days, like P3Y, P25M or P90D, of at most 1,000 years"
        )
    return text


def _a_day(value: Any) -> str:
    try:
        return value.isoformat() if type(value) is date else date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError("must be a day like 2027-01-31") from None


def _a_category(text: str) -> str:
    if not CATEGORY.match(text):
        raise ValueError("must be a data category like user.contact.email, or system for what is not about a person")
    return text


def a_selection(value: Any) -> dict[str, Any]:
    """Check a selection's form: paths, constants that cannot be null, and the words any, anywhere, exists and not."""
    if not isinstance(value, dict) or not value:
        raise ValueError("must be a mapping of paths to $identifiers or constants, and not empty")
    for path, condition in value.items():
        if path == OR:
            if not isinstance(condition, list) or not condition:
                raise ValueError("`any` must be a list of selections")
            for one in condition:
                a_selection(one)
        elif path == ANYWHERE:
            if not isinstance(condition, list) or not condition or not all(isinstance(one, str) for one in condition):
                raise ValueError("`anywhere` must be a list of identifiers, without dollars")
        else:
            _a_path(str(path))
            _a_condition(str(path), condition)
    return value


def _a_condition(path: str, condition: Any) -> None:
    if path.endswith("}") and condition != EXISTS:
        raise ValueError(f"{path} asks for a key and must have the value `exists`")
    if isinstance(condition, dict):
        word, value = next(iter(condition.items()), (None, None))
        if len(condition) == 1 and (
            (word == EXISTS and isinstance(value, bool)) or (word == NOT and _is_constant(value))
        ):
            return
        raise ValueError(
            f"{path} must have a constant, a list, $identifier, {{exists: true or false}} or {{not: constant}}"
        )
    if not _is_constant(condition):
        raise ValueError(
            f"{path} must not be compared with null or a structure: null also selects what has no such field"
        )


def _is_constant(value: Any) -> bool:
    some = value if isinstance(value, list) else [value]
    return bool(some) and all(isinstance(one, str | int | bool) for one in some)


PathText = Annotated[str, AfterValidator(_a_path)]
Period = Annotated[str, AfterValidator(_a_period)]
Day = Annotated[str, BeforeValidator(_a_day)]
Category = Annotated[str, AfterValidator(_a_category)]
Selection = Annotated[dict[str, Any], BeforeValidator(a_selection)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=NAME)]
