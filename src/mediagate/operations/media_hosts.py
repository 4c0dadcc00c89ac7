"""Where host names lead that clients want media fetched from, before the upstream is told to fetch anything.

The upstream looks each name up again, and may get another answer: this keeps out names that lead into a private
network, not those that change their mind in between.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

from mediagate.core.errors import LookupsBusy, SourceNotAllowed
from mediagate.core.media_hosts import MediaHosts
from mediagate.core.urls import Address

THREADS = 8
"""Lookups at once. Threads of their own: on the loop's, slow names would keep the upstream's own from being found."""

MAX_HOSTS = 32
"""Names that one request may have looked up."""

AT_ONCE = 4
"""Of which at a time: slow names of one request leave threads to the next."""

MAX_CACHED = 1024

Resolve = Callable[[str], Collection[Address]]
"""All addresses of a name; blocks. OSError: it cannot be resolved."""


def getaddrinfo(host: str) -> Collection[Address]:
    """All addresses of `host`, as the C library finds them: hosts file, search domains and DNS.

    Raises:
        OSError: It cannot be resolved.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {ip_address(sockaddr[0]) for *_, sockaddr in found}


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: Collection[Address]
    until: float


class HostLookup:
    """Looks names up, off the event loop; an answer is good for a short time.

    Args:
        hosts: Judges names and addresses.
        resolve: Finds them, in a thread.
        clock: Seconds of any beginning.
        timeout_s: How long a name may take, waiting for a thread included.
        cache_s: How long the addresses of a name are taken for granted. That it has none is not remembered.

    Attributes:
        hosts: The same, for who has URLs to judge.
    """

    def __init__(
        self,
        hosts: MediaHosts,
        *,
        resolve: Resolve = getaddrinfo,
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = 5.0,
        cache_s: float = 60.0,
    ) -> None:
        self.hosts = hosts
        self._resolve = resolve
        self._clock = clock
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._cache: OrderedDict[str, _Answer] = OrderedDict()
        self._running: dict[str, asyncio.Task[Collection[Address]]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="mediagate-names")

    async def check(self, names: Mapping[str, str]) -> None:
        """Check where the names of one request lead, all at once.

        Args:
            names: What `MediaHosts.judge` returned → the JSON path of the URL, for errors.

        Raises:
            SourceNotAllowed: One cannot be resolved in time, or has an address that is neither listed nor public; or
                they are too many.
            LookupsBusy: Slow names of other requests kept all threads busy.
        """
        if len(names) > MAX_HOSTS:
            message = (
                f"The media of one request may come from at most {MAX_HOSTS} hosts that are not listed by the "
                "operator of this server. Upload files with POST /v1/files and name them by id."
            )
            raise SourceNotAllowed(message, param=list(names.values())[MAX_HOSTS])
        turns = asyncio.Semaphore(AT_ONCE)

        async def addresses_of(host: str) -> Collection[Address]:
            async with turns:
                return await self._addresses(host)

        found = await asyncio.gather(*map(addresses_of, names))
        for (host, param), addresses in zip(names.items(), found, strict=True):
            self.hosts.check_addresses(host, addresses, param=param)

    def close(self) -> None:
        """Answer nobody any more. What the C library is still waiting for ends by itself."""
        for task in self._running.values():
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, host: str) -> Collection[Address]:
        answer = self._cache.get(host)
        if answer is not None and self._clock() < answer.until:
            return answer.addresses
        task = self._running.get(host)
        if task is None:
            task = self._running[host] = asyncio.create_task(self._look_up(host))
        return await asyncio.shield(task)  # others may wait for the same name

    async def _look_up(self, host: str) -> Collection[Address]:
        """The addresses of a name; none: it cannot be resolved, or not in time.

        Raises:
            LookupsBusy: Its time passed before anybody began.
        """
        looking = self._pool.submit(self._resolve, host)
        try:
            async with asyncio.timeout(self._timeout_s):
                # Given up: one that has not begun never does, and what another one finds is not heard.
                addresses = await asyncio.wrap_future(looking)
        except TimeoutError:
            if looking.cancelled():
                raise LookupsBusy("Host names are looked up slowly just now; try again.") from None
            return ()
        except OSError:
            return ()
        finally:
            del self._running[host]
        self._cache[host] = _Answer(addresses, self._clock() + self._cache_s)
        self._cache.move_to_end(host)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return addresses
