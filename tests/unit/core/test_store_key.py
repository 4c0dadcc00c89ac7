from mediagate.core.store_key import StoreKey, Use

KEY = StoreKey(bytes(range(32)))


def test_the_same_parts_give_the_same_tag_under_the_same_key_only() -> None:
    other = StoreKey(bytes(32))

    assert KEY.tag(Use.LOG, "a") == StoreKey(bytes(range(32))).tag(Use.LOG, "a")
    assert KEY.tag(Use.LOG, "a") != other.tag(Use.LOG, "a")


def test_a_tag_for_one_use_is_none_for_another() -> None:
    assert len({KEY.tag(use, "a") for use in Use}) == len(Use)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    splits = (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("1:a", "bc"), ("a\x00b", "c"))

    assert len({KEY.tag(Use.URL, *parts) for parts in splits}) == len(splits)


def test_a_tag_tells_nothing_of_what_it_stands_for() -> None:
    tag = KEY.tag(Use.LOG, "file-" + "0" * 32)

    assert len(tag) == 64
    assert set(tag) <= set("0123456789abcdef")
