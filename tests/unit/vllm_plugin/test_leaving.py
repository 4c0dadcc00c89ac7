"""The parent leaves a directory that it made, while API servers that were killed are still on their way out."""

import subprocess
import sys
import threading
from pathlib import Path

from mediagate.blobs.directory import StoreDirectory
from mediagate.vllm_plugin import flags

JOIN = """
import sys
from pathlib import Path
from mediagate.blobs.directory import StoreDirectory
directory = StoreDirectory.joined(Path(sys.argv[1]))
print("joined", flush=True)
sys.stdin.read()
"""


def test_a_directory_of_the_server_goes_when_the_last_process_has_left_it(tmp_path: Path) -> None:
    """Of the API servers, which vLLM kills before it ends, without waiting for them."""
    directory = StoreDirectory.temporary()
    with subprocess.Popen(
        [sys.executable, "-c", JOIN, str(directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"joined\n"
        leaving = threading.Thread(target=flags._leave, args=(directory,))
        leaving.start()
        leaving.join(0.3)
        is_waiting = leaving.is_alive()
        other.kill()
        leaving.join()

    assert is_waiting
    assert not directory.path.exists()
