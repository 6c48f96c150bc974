"""What `tierwise doctor` shows."""

from tierwise.testbed import capabilities


def test_everything_is_named_with_what_it_means_and_how_to_get_it() -> None:
    found = capabilities()
    names = [one.name for one in found]
    assert names == [
        "network namespaces",
        "tc netem",
        "TUN device",
        "tc tbf",
        "cgroup-v2 cpu",
        "cgroup-v2 memory",
        "cgroup-v1 cpu",
        "cgroup-v1 memory",
        "CPUs",
        "instruction set",
        "RAPL energy meter",
        "browser",
    ]
    for one in found:
        assert len(one.meaning) > 10, one
        assert bool(one.remedy) is not one.ok, one
        assert not one.meaning.endswith("."), one
