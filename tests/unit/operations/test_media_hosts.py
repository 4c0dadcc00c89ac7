"""Where names lead is found out off the event loop, in bounded time, and remembered for a short while."""

import asyncio
import socket
import threading
from collections.abc import Collection, Iterator
from ipaddress import ip_address

import pytest

from mediagate.core.errors import LookupsBusy, SourceNotAllowed
from mediagate.core.media_hosts import MediaHosts
from mediagate.core.urls import Address
from mediagate.operations import media_hosts
from mediagate.operations.media_hosts import (
    AT_ONCE,
    MAX_HOSTS,
    THREADS,
    HostLookup,
    getaddrinfo,
)
from stores import Clock

PARAM = "messages[0].content[1].image_url.url"
PUBLIC, PRIVATE = ip_address("8.8.8.8"), ip_address("10.0.0.5")
ENDLESS_S = 60.0


class Zone:
    """What names resolve to, as the C library would tell: it blocks, and fails with OSError.

    Attributes:
        addresses: By name; others do not exist.
        asked: Every question.
        slow: Names that are answered only when the event is set.
    """

    def __init__(self, **addresses: Collection[Address]) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []
        self.slow: dict[str, threading.Event] = {}
        self._is_asked = threading.Event()

    async def until_asked(self) -> None:
        """Wait for the first question."""
        assert await asyncio.to_thread(self._is_asked.wait, ENDLESS_S)

    def __call__(self, host: str) -> Collection[Address]:
        self.asked.append(host)
        self._is_asked.set()
        if host in self.slow:
            self.slow[host].wait(ENDLESS_S)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]


@pytest.fixture
def zone() -> Iterator[Zone]:
    zone = Zone(a_com=[PUBLIC], b_com=[PUBLIC], private_com=[PUBLIC, PRIVATE])
    yield zone
    for event in zone.slow.values():
        event.set()


@pytest.fixture
def lookup(zone: Zone, clock: Clock) -> Iterator[HostLookup]:
    lookup = HostLookup(MediaHosts(), resolve=zone, clock=clock, timeout_s=ENDLESS_S, cache_s=60)
    yield lookup
    lookup.close()


async def refusal(lookup: HostLookup, *names: str) -> str:
    """At what a client is refused that names `names`."""
    with pytest.raises(SourceNotAllowed) as refused:
        await lookup.check({name: f"at {name}" for name in names})
    assert refused.value.param is not None
    return refused.value.param


async def test_names_that_lead_to_public_addresses_pass(lookup: HostLookup, zone: Zone) -> None:
    await lookup.check({"a.com": PARAM, "b.com": PARAM})
    await lookup.check({})

    assert sorted(zone.asked) == ["a.com", "b.com"]


@pytest.mark.parametrize("name", ["private.com", "none.com"])
async def test_a_name_that_leads_elsewhere_or_nowhere_is_refused(
    lookup: HostLookup, name: str
) -> None:
    assert await refusal(lookup, "a.com", name, "b.com") == f"at {name}"


async def test_what_is_listed_may_be_led_to(zone: Zone) -> None:
    lookup = HostLookup(MediaHosts(["*", "10.0.0.0/8"]), resolve=zone)

    await lookup.check({"private.com": PARAM})

    lookup.close()


async def test_an_answer_is_remembered_for_a_minute(
    lookup: HostLookup, zone: Zone, clock: Clock
) -> None:
    await lookup.check({"a.com": PARAM})
    zone.addresses["a.com"] = [PRIVATE]
    clock.now += 59.9
    await lookup.check({"a.com": PARAM})
    assert zone.asked == ["a.com"]

    clock.now += 0.1

    assert await refusal(lookup, "a.com") == "at a.com"
    assert zone.asked == ["a.com", "a.com"]


async def test_a_refusal_for_want_of_an_answer_is_not_remembered(
    lookup: HostLookup, zone: Zone
) -> None:
    await refusal(lookup, "new.com")

    zone.addresses["new.com"] = [PUBLIC]

    await lookup.check({"new.com": PARAM})


async def test_only_so_many_answers_are_remembered(
    lookup: HostLookup, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_hosts, "MAX_CACHED", 1)
    await lookup.check({"a.com": PARAM})
    await lookup.check({"b.com": PARAM})

    await lookup.check({"b.com": PARAM})
    await lookup.check({"a.com": PARAM})

    assert zone.asked == ["a.com", "b.com", "a.com"]


async def test_a_name_that_many_ask_for_is_looked_up_once(lookup: HostLookup, zone: Zone) -> None:
    zone.slow["a.com"] = threading.Event()
    checks = [asyncio.create_task(lookup.check({"a.com": PARAM})) for _ in range(20)]
    await zone.until_asked()
    checks[0].cancel()

    zone.slow["a.com"].set()
    done = await asyncio.gather(*checks, return_exceptions=True)

    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [None] * 19
    assert zone.asked == ["a.com"]


async def test_a_name_that_is_not_resolved_in_time_is_refused(zone: Zone) -> None:
    zone.slow["a.com"] = threading.Event()
    lookup = HostLookup(MediaHosts(), resolve=zone, timeout_s=0.3)

    assert await refusal(lookup, "a.com") == "at a.com"

    zone.slow["a.com"].set()
    lookup.close()


async def all_busy(lookup: HostLookup, zone: Zone) -> list[str]:
    """Names that take up all threads, until their event is set; several requests, as one alone may not."""
    slow = [f"slow{n}.com" for n in range(THREADS)]
    zone.slow = dict.fromkeys(slow, threading.Event())
    zone.addresses |= {name: [PUBLIC] for name in slow}
    for first in range(0, THREADS, AT_ONCE):
        await refusal(lookup, *slow[first : first + AT_ONCE])
    return slow


async def test_names_that_nobody_waits_for_any_more_are_not_looked_up(zone: Zone) -> None:
    """Slow names take up threads; what queued up behind them must not keep those busy ever after."""
    lookup = HostLookup(MediaHosts(), resolve=zone, timeout_s=0.3)
    slow = await all_busy(lookup, zone)
    with pytest.raises(LookupsBusy):
        await lookup.check({"a.com": PARAM})

    zone.slow[slow[0]].set()

    while True:  # until a thread is free
        try:
            await lookup.check({"b.com": PARAM})
        except LookupsBusy:
            continue
        break
    assert "a.com" not in zone.asked
    lookup.close()


async def test_slow_names_of_one_request_leave_threads_to_others(
    lookup: HostLookup, zone: Zone
) -> None:
    slow = [f"slow{n}.com" for n in range(THREADS)]
    zone.slow = dict.fromkeys(slow, threading.Event())
    zone.addresses |= {name: [PUBLIC] for name in slow}
    check = asyncio.create_task(lookup.check(dict.fromkeys(slow, PARAM)))
    await zone.until_asked()

    async with asyncio.timeout(5):
        await lookup.check({"b.com": PARAM})

    assert len(zone.asked) == AT_ONCE + 1
    zone.slow[slow[0]].set()
    await check


async def test_the_event_loop_runs_on_while_names_are_looked_up(
    lookup: HostLookup, zone: Zone
) -> None:
    zone.slow["a.com"] = threading.Event()
    check = asyncio.create_task(lookup.check({"a.com": PARAM}))
    await zone.until_asked()

    await lookup.check({"b.com": PARAM})

    assert not check.done()
    zone.slow["a.com"].set()
    await check


async def test_one_request_names_only_so_many_hosts(lookup: HostLookup, zone: Zone) -> None:
    names = [f"h{n}.com" for n in range(MAX_HOSTS + 1)]
    zone.addresses |= {name: [PUBLIC] for name in names}

    assert await refusal(lookup, *names) == f"at {names[-1]}"

    assert zone.asked == []
    await lookup.check(dict.fromkeys(names[:-1], PARAM))


async def test_closing_waits_for_nobody(zone: Zone) -> None:
    zone.slow["a.com"] = threading.Event()
    lookup = HostLookup(MediaHosts(), resolve=zone, timeout_s=ENDLESS_S)
    check = asyncio.create_task(lookup.check({"a.com": PARAM}))
    await zone.until_asked()

    lookup.close()

    with pytest.raises(asyncio.CancelledError):
        await check


def test_the_c_library_is_asked_for_all_addresses() -> None:
    assert ip_address("127.0.0.1") in getaddrinfo("localhost")
    assert getaddrinfo("8.8.8.8") == {PUBLIC}
