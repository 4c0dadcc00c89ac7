"""How fast is one upload, against nginx `PUT` and against a framework-default `UploadFile` server?

    python -m benchmarks.upload [--rounds N] [--size-mib N] [--no-fsync]

One file of noise over loopback, one server after the other, `--rounds` times over in one run; each round begins with
another server, and every ratio is taken within a round. The client is the same for all. Every stored file is compared
with what was sent, then deleted, before the next upload.

Durably stored means synced, with its directory, before the answer counts: mediagate and the framework-default server do
so themselves; nginx never does, so the client syncs the file that nginx stored, and that time counts as nginx's.
With --no-fsync nobody syncs, and mediagate runs with its ephemeral store.
"""

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks import harness, servers
from benchmarks.harness import GIB, MIB, Goal, Spread

FORM = "mediagate, form"
RAW = "mediagate, raw body"
FRAMEWORK = "UploadFile server"
NGINX = "nginx PUT"
TUNED = "nginx PUT, tuned"


@dataclass(frozen=True, slots=True)
class Sample:
    """One upload.

    Attributes:
        server: Which.
        round: 0 is the warm-up.
        wall_s: As the client saw it.
        cpu_s: Of all processes of the server.
        plain_write_cpu_s: What it cost this machine, just before, to write as many bytes to a file without a sync.
    """

    server: str
    round: int
    wall_s: float
    cpu_s: float
    plain_write_cpu_s: float


def measure(name: str, server: servers.Server, media: Path, digest: str, number: int) -> Sample:
    """Upload once and check what was stored.

    Raises:
        AssertionError: Something else was stored.
    """
    os.sync()  # what others left to write is not this server's business
    plain_s = harness.warm_up_memory(media.parent, media.stat().st_size)
    before_s = harness.cpu_s(server.pid)
    answer = server.upload(media)
    used_s = harness.cpu_s(server.pid) - before_s
    if server.check_and_delete(answer) != (media.stat().st_size, digest):
        raise AssertionError(f"{name} stored something else")
    return Sample(name, number, round(answer.wall_s, 4), round(used_s, 2), round(plain_s, 3))


def run(directory: Path, *, rounds: int, size_mib: int, durable: bool) -> list[Sample]:
    """All uploads, in turn."""
    media = directory / "noise.wav"
    seed = secrets.randbits(32)
    print(f"{size_mib} MiB of noise, seed {seed}")
    digest = harness.make_media(media, size_mib * MIB, seed=seed)
    flags = ("--file-upload-max-size-mb", str(size_mib))
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        mediagate = enter(servers.mediagate(directory, durable=durable, flags=flags))
        contestants: list[tuple[str, servers.Server]] = [
            (FORM, mediagate),
            (NGINX, enter(servers.nginx(directory, durable=durable, tuned=False))),
            (RAW, mediagate.raw()),
            (TUNED, enter(servers.nginx(directory, durable=durable, tuned=True))),
            (FRAMEWORK, enter(servers.framework_default(directory, durable=durable))),
        ]
        warm_up = directory / "warm-up.wav"
        warm_up_digest = harness.make_media(warm_up, MIB, seed=seed)
        for name, server in contestants:
            measure(name, server, warm_up, warm_up_digest, 0)
        for number in range(1, rounds + 1):
            for name, server in contestants:
                sample = measure(name, server, media, digest, number)
                samples.append(sample)
                print(
                    f"round {number}  {name:20} {sample.wall_s:6.2f} s  {sample.cpu_s:5.2f} CPU s"
                )
            contestants.append(contestants.pop(0))
    return samples


def ratios(samples: Sequence[Sample], other: str) -> Spread:
    """Wall time of mediagate's form against `other`'s, round by round."""
    wall = {(sample.server, sample.round): sample.wall_s for sample in samples}
    return Spread.of(
        [wall[FORM, number] / wall[other, number] for name, number in wall if name == other]
    )


def report(samples: Sequence[Sample], size_mib: int) -> Sequence[Goal]:
    """Print what came out, median and extremes; return what it means for the goals."""
    cpu_per_gib: Mapping[str, Spread] = {}
    print(f"\n{'median (lowest-highest)':22}{'wall s':>20}{'CPU s per GiB':>20}{'form takes':>24}")
    for name in (FORM, RAW, NGINX, TUNED, FRAMEWORK):
        own = [sample for sample in samples if sample.server == name]
        wall = Spread.of([sample.wall_s for sample in own])
        cpu = Spread.of([sample.cpu_s * GIB / (size_mib * MIB) for sample in own])
        cpu_per_gib = {**cpu_per_gib, name: cpu}
        ratio = "" if name == FORM else f"{ratios(samples, name)} x"
        print(f"{name:22}{wall!s:>20}{cpu!s:>20}{ratio:>24}")
    return (
        Goal("wall time against nginx PUT, tuned", 1.3, ratios(samples, TUNED).median, "x"),
        Goal("wall time against UploadFile", 0.5, ratios(samples, FRAMEWORK).median, "x"),
        Goal("CPU, form", 1.0, cpu_per_gib[FORM].median, "s per GiB"),
        Goal("CPU, raw body", 1.0, cpu_per_gib[RAW].median, "s per GiB"),
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--no-fsync", action="store_true", help="nobody syncs")
    arguments = parser.parse_args()
    size_mib, durable = arguments.size_mib, not arguments.no_fsync
    with harness.workspace(6 * size_mib * MIB) as directory:
        samples = run(directory, rounds=arguments.rounds, size_mib=size_mib, durable=durable)
        goals = report(samples, size_mib)
        print(*goals, sep="\n")
        path = harness.write_result(
            "upload" if durable else "upload-no-fsync",
            command=("benchmarks.upload", *sys.argv[1:]),
            directory=directory,
            versions={"nginx": servers.nginx_version(), "starlette": version("starlette")},
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
