"""An endpoint plugin for vLLM that tells what of a request arrived behind everything that stands in front of vLLM.

    with vllm_servers.serving(…, env=echo_plugin.installed(tmp_path)) as server:
        servers.post_json(server, "/echo/v1/responses", body).json()       -> {"headers": [[name, value]…], "body": …}

Any path below `/echo` will do. This module is imported by vLLM too, and by its Python.
"""

import json
import os
from pathlib import Path
from typing import Any

NAME = "echo"


class Echo:
    """What vLLM calls an endpoint plugin."""

    name = NAME
    required_tasks = None

    def attach_router(self, app: Any) -> None:
        """Answer POST below `/echo`."""
        app.add_route("/echo/{path:path}", _answer, methods=["POST"])

    async def init_state(self, engine_client: object, state: object, args: object) -> None:
        """Nothing is kept."""


async def _answer(request: Any) -> Any:
    from starlette.responses import Response

    body = await request.body()
    headers = [
        [name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw
    ]
    return Response(json.dumps({"headers": headers, "body": body.decode()}))


def installed(directory: Path) -> dict[str, str]:
    """The environment in which vLLM finds it, beside mediagate.

    Args:
        directory: Where something is written that looks like an installed distribution.
    """
    info = directory / f"{NAME}-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        f"[vllm.endpoint_plugins]\n{NAME} = {Path(__file__).stem}:Echo\n"
    )
    return {
        "PYTHONPATH": os.pathsep.join((str(directory), str(Path(__file__).parent))),
        "VLLM_PLUGINS": f"mediagate,{NAME}",
    }
