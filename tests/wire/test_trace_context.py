import pytest

from tierwise.wire import TraceContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_header_is_read_and_written() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    context = TraceContext.parse(header)
    assert context == TraceContext(TRACE, SPAN, sampled=True)
    assert context.header() == header
    assert TraceContext.parse(f"00-{TRACE}-{SPAN}-00".encode()) == TraceContext(TRACE, SPAN, sampled=False)


def test_a_later_version_may_say_more() -> None:
    context = TraceContext.parse(f"cc-{TRACE}-{SPAN}-03-what-comes")
    assert context == TraceContext(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        b"\xff" * 55,
        "0" * 100_000,
    ],
)
def test_what_breaks_the_form_is_no_context(header: str | bytes | None) -> None:
    assert TraceContext.parse(header) is None


def test_a_new_trace_is_like_no_other() -> None:
    made = [TraceContext.new() for _ in range(10)]
    assert len({context.trace_id for context in made}) == 10
    assert all(TraceContext.parse(context.header()) == context for context in made)
