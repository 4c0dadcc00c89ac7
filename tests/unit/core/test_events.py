"""Events go to whoever wants them."""

from mediagate.core.events import Event, ReceiveBegan, ReceiveEnded, each, ignore


def test_each_observer_is_told_of_each_event_in_order() -> None:
    told: list[tuple[str, Event]] = []
    observer = each(
        lambda event: told.append(("first", event)),
        ignore,
        lambda event: told.append(("second", event)),
    )

    observer(ReceiveBegan())
    observer(ReceiveEnded())

    assert told == [
        ("first", ReceiveBegan()),
        ("second", ReceiveBegan()),
        ("first", ReceiveEnded()),
        ("second", ReceiveEnded()),
    ]
