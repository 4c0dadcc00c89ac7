"""Upload once, reference anywhere: a Files API for OpenAI-compatible multimodal servers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mediagate.config import Config
    from mediagate.wiring import Application, create_app

__all__ = ["Application", "Config", "create_app"]


def __getattr__(name: str) -> Any:
    """Load what is asked for: importing one module of ours must not load them all (PEP 562)."""
    if name == "Config":
        from mediagate.config import Config

        return Config
    if name in __all__:
        from mediagate import wiring

        return getattr(wiring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
