"""Names for declaring records: from pydantic, or from `fields_light` in a deployment without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        ValidationError,
        ValidationInfo,
        field_validator,
        model_validator,
    )
    from pydantic_core import InitErrorDetails, PydanticCustomError
else:
    try:
        from pydantic import (
            BaseModel,
            ConfigDict,
            Field,
            ValidationError,
            ValidationInfo,
            field_validator,
            model_validator,
        )
        from pydantic_core import InitErrorDetails, PydanticCustomError
    except ModuleNotFoundError:
        from paretune.core.fields_light import (
            BaseModel,
            ConfigDict,
            Field,
            InitErrorDetails,
            PydanticCustomError,
            ValidationError,
            ValidationInfo,
            field_validator,
            model_validator,
        )

__all__ = [
    "BaseModel",
    "ConfigDict",
    "Field",
    "InitErrorDetails",
    "PydanticCustomError",
    "ValidationError",
    "ValidationInfo",
    "field_validator",
    "model_validator",
]
