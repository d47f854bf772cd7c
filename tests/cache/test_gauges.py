"""What the machine has left, read from trees of files that look like one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.cache.index.node import Tier
from samovar.cache.machine.gauge import Reading, Resource
from samovar.cache.machine.pressure import Advice, Pressure, Sample, Stall
from tests.conftest import scaled

KIB, MIB, GIB = 2**10, 2**20, 2**30

V1_NO_LIMIT = 9223372036854771712
MEMINFO = f"""MemTotal:       {32 * MIB} kB
MemFree:        {2 * MIB} kB
MemAvailable:   {20 * MIB} kB
Active(file):   {9 * MIB} kB
Inactive(file): {9 * MIB} kB
Mapped:         {30 * MIB} kB
HugePages_Total:       0
"""
PSI = "some avg10={} avg60=0.00 avg300=0.00 total={}\nfull avg10=99.00 avg60=0.00 total=7\n"


class Machine:
    """A tree of files that looks like a machine's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts: list[str] = []
        self.write("proc/meminfo", MEMINFO)

    def write(self, path: str, content: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def mount(self, kind: str, point: str, root: str = "/", options: str = "rw") -> None:
        front = f"{len(self.mounts)} 23 0:7 {root} {point} rw,nosuid shared:9"
        self.mounts.append(f"{front} - {kind} {kind} {options}")
        self.write("proc/self/mountinfo", "\n".join(self.mounts) + "\n")

    def belongs(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def group(self, path: str, current: int, stat: Mapping[str, int] = {}, **files: str) -> None:
        """A group of version 2; `files` are max, high and pressure."""
        self.write(f"{path}/cgroup.type", "domain\n")
        self.write(f"{path}/memory.current", f"{current}\n")
        self.write(f"{path}/memory.stat", "".join(f"{k} {v}\n" for k, v in stat.items()))
        for name, text in files.items():
            self.write(f"{path}/memory.{name}", f"{text}\n")

    def old_group(self, path: str, usage: int, limit: int, stat: Mapping[str, int] = {}) -> None:
        """A group of version 1."""
        self.write(f"{path}/memory.usage_in_bytes", f"{usage}\n")
        self.write(f"{path}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{path}/memory.soft_limit_in_bytes", "5\n")
        self.write(f"{path}/memory.stat", "".join(f"{k} {v}\n" for k, v in stat.items()))

    def sample(self) -> Sample:
        return Pressure(root=self.root).sample()

    def limits(self) -> dict[str, int]:
        """What is free by each limit of a group."""
        found = {reading.name: reading.free for reading in self.sample().readings}
        assert found.pop("MemAvailable") > 0
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@pytest.fixture
def new(machine: Machine) -> Machine:
    """A machine with groups of version 2, this process in /jobs/model."""
    machine.mount("cgroup2", "/sys/fs/cgroup")
    machine.belongs("0::/jobs/model")
    return machine


@pytest.fixture
def old(machine: Machine) -> Machine:
    """A machine with groups of version 1, this process in /jobs/model."""
    machine.mount("cgroup", "/sys/fs/cgroup/cpu", options="rw,cpu,cpuacct")
    machine.mount("cgroup", "/sys/fs/cgroup/memory", options="rw,memory")
    machine.belongs("5:cpu,cpuacct:/elsewhere", "4:hugetlb,memory:/jobs/model", "0::/")
    return machine


# --- memory of the machine ---


def test_the_machine_tells_what_is_available(machine: Machine) -> None:
    sample = machine.sample()
    assert (sample.memory_free, sample.memory_total) == (20 * GIB, 32 * GIB)


def test_files_that_this_process_has_mapped_are_not_available(machine: Machine) -> None:
    machine.write("proc/self/status", f"Name:\tpython\nRssFile:\t{5 * MIB} kB\n")
    assert machine.sample().memory_free == 15 * GIB


def test_no_more_is_held_against_mappings_than_counts_as_available(machine: Machine) -> None:
    machine.write("proc/self/status", f"RssFile: {30 * MIB} kB\n")  # locked pages are on no list
    assert machine.sample().memory_free == 2 * GIB


@pytest.mark.parametrize("line", ["MemAvailable", "MemTotal"])
def test_without_the_kernels_word_nothing_is_known(machine: Machine, line: str) -> None:
    machine.write("proc/meminfo", MEMINFO.replace(line, "Another"))
    sample = machine.sample()
    assert sample == Sample()
    assert sample.memory_free is sample.memory_total is sample.psi is sample.disk_free is None
    assert Pressure(root=machine.root).advice(sample, {Tier.MEMORY: GIB}) == Advice()


def test_an_empty_machine_tells_nothing(tmp_path: Path) -> None:
    assert Pressure(root=tmp_path / "nowhere").sample() == Sample()


def test_more_available_than_there_is_is_cut(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemTotal: 4 kB\nMemAvailable: 8 kB\n")
    assert machine.sample().memory_free == 4 * KIB


# --- control groups, version 2 ---


def test_the_tightest_of_all_groups_decides(new: Machine) -> None:
    new.group("sys/fs/cgroup/jobs/model", 3 * GIB, max=str(8 * GIB), high="max")
    new.group("sys/fs/cgroup/jobs", 9 * GIB, max=str(10 * GIB), high=str(9 * GIB + 512 * MIB))
    new.group("sys/fs/cgroup", 11 * GIB, max="max", high="max")
    assert new.limits() == {
        "memory.max of /jobs/model": 5 * GIB,
        "memory.max of /jobs": 1 * GIB,
        "memory.high of /jobs": 512 * MIB,
    }
    sample = new.sample()
    assert sample.memory_free == 512 * MIB
    assert sample.memory_total == 8 * GIB  # no group around it gives it more than its own


def test_without_limits_the_machine_decides(new: Machine) -> None:
    new.group("sys/fs/cgroup/jobs/model", 3 * GIB, max="max", high="max")
    new.group("sys/fs/cgroup/jobs", 3 * GIB)
    assert new.limits() == {}
    assert new.sample().memory_free == 20 * GIB


def test_cached_files_are_free_unless_they_are_mapped_or_active(new: Machine) -> None:
    path = "sys/fs/cgroup/jobs/model"
    stat = {"anon": GIB, "inactive_file": 3 * GIB, "active_file": GIB, "file_mapped": 0}
    new.group(path, 6 * GIB, stat, max=str(8 * GIB))
    assert new.sample().memory_free == 5 * GIB
    new.group(path, 6 * GIB, {**stat, "file_mapped": 2 * GIB, "shmem": GIB}, max=str(8 * GIB))
    assert new.sample().memory_free == 4 * GIB  # of 4 GiB in files, 2 are somebody's
    new.group(path, 6 * GIB, {**stat, "file_mapped": 9 * GIB}, max=str(8 * GIB))
    assert new.sample().memory_free == 2 * GIB


def test_a_group_above_its_limit_has_nothing_left(new: Machine) -> None:
    new.group("sys/fs/cgroup/jobs/model", 3 * GIB, max=str(2 * GIB), high="0")
    assert new.limits() == {"memory.max of /jobs/model": 0, "memory.high of /jobs/model": 0}


def test_more_cached_than_used_is_cut(new: Machine) -> None:
    new.group("sys/fs/cgroup/jobs/model", GIB, {"inactive_file": 2 * GIB}, max=str(4 * GIB))
    assert new.sample().memory_free == 4 * GIB


def test_groups_that_vanished_are_not_known_and_those_around_them_are(new: Machine) -> None:
    new.group("sys/fs/cgroup/jobs", GIB, max=str(2 * GIB))
    assert new.limits() == {"memory.max of /jobs": GIB}


@pytest.mark.parametrize("path", ["/docker/0123", "/../sibling", "/a/../../b", "", "relative"])
@pytest.mark.parametrize("mount_root", ["/", "/docker/4567", "/../.."])
def test_a_path_that_leads_nowhere_here_is_within_what_is_mounted(
    machine: Machine, path: str, mount_root: str
) -> None:
    machine.mount("cgroup2", "/sys/fs/cgroup", root=mount_root)
    machine.belongs(f"0::{path}")
    machine.group("sys/fs/cgroup", GIB, max=str(3 * GIB))
    machine.group("sys/fs/cgroup/../sibling", 0, max="1")
    assert machine.limits() == {"memory.max of /": 2 * GIB}


def test_a_mounted_part_of_the_tree_begins_at_its_own_root(machine: Machine) -> None:
    machine.mount("cgroup2", "/sys/fs/cgroup", root="/docker/4567")
    machine.belongs("0::/docker/4567/init")
    machine.group("sys/fs/cgroup/init", GIB, max=str(2 * GIB))
    machine.group("sys/fs/cgroup", GIB, max=str(4 * GIB))
    assert machine.limits() == {"memory.max of /init": GIB, "memory.max of /": 3 * GIB}


def test_mount_points_are_unescaped(machine: Machine) -> None:
    machine.mount("cgroup2", r"/my\040groups\134x")
    machine.belongs("0::/")
    machine.group(r"my groups\x", GIB, max=str(2 * GIB))
    assert machine.limits() == {"memory.max of /": GIB}


def test_what_is_mounted_over_groups_hides_them(new: Machine) -> None:
    new.group("sys/fs/cgroup", GIB, max=str(2 * GIB))
    assert new.limits() != {}
    new.mount("tmpfs", "/sys/fs/cgroup")
    assert new.limits() == {}


# --- control groups, version 1 ---


def test_old_groups_nest_too(old: Machine) -> None:
    stat = {"inactive_file": 1, "total_inactive_file": 2 * GIB, "total_active_file": 0}
    old.old_group("sys/fs/cgroup/memory/jobs/model", 3 * GIB, 8 * GIB, stat)
    mapped = {**stat, "total_mapped_file": GIB}
    old.old_group("sys/fs/cgroup/memory/jobs", 3 * GIB, 4 * GIB, mapped)
    old.old_group("sys/fs/cgroup/memory", 9 * GIB, V1_NO_LIMIT)
    old.old_group("sys/fs/cgroup/cpu/elsewhere", 0, 1)
    assert old.limits() == {
        "memory.limit_in_bytes of /jobs/model": 7 * GIB,
        "memory.limit_in_bytes of /jobs": 2 * GIB,
    }


def test_limits_around_what_is_mounted_are_told_by_the_kernel(machine: Machine) -> None:
    machine.mount("cgroup", "/sys/fs/cgroup/memory", root="/docker/1", options="rw,memory")
    machine.belongs("4:memory:/docker/1")
    stat = {"hierarchical_memory_limit": 2 * GIB, "hierarchical_memsw_limit": 1}
    machine.old_group("sys/fs/cgroup/memory", GIB, V1_NO_LIMIT, stat)
    assert machine.limits() == {"hierarchical_memory_limit of /": GIB}


def test_no_limit_is_none_though_it_is_a_number(old: Machine) -> None:
    stat = {"hierarchical_memory_limit": V1_NO_LIMIT}
    old.old_group("sys/fs/cgroup/memory/jobs/model", GIB, V1_NO_LIMIT, stat)
    assert old.limits() == {}


def test_both_versions_at_once_count_both(old: Machine) -> None:
    old.mount("cgroup2", "/sys/fs/cgroup/unified")
    old.belongs("4:memory:/jobs", "0::/job")
    old.old_group("sys/fs/cgroup/memory/jobs", GIB, 2 * GIB)
    old.group("sys/fs/cgroup/unified/job", GIB, max=str(4 * GIB))
    assert set(old.limits().values()) == {GIB, 3 * GIB}


# --- stalls ---


def test_the_machine_tells_its_stalls(machine: Machine) -> None:
    machine.write("proc/pressure/memory", PSI.format("12.34", 56))
    assert machine.sample().stall == Stall(12.34, 56, is_own=False)
    assert machine.sample().psi == 12.34


def test_the_stalls_of_the_own_group_are_asked_first(new: Machine) -> None:
    new.write("proc/pressure/memory", PSI.format("50.00", 1))
    new.group("sys/fs/cgroup/jobs", 1, pressure=PSI.format("2.50", 3))
    assert new.sample().stall == Stall(2.5, 3, is_own=True)
    new.group("sys/fs/cgroup/jobs/model", 1, pressure=PSI.format("1.25", 2))
    assert new.sample().stall == Stall(1.25, 2, is_own=True)


def test_the_root_group_is_the_machine(new: Machine) -> None:
    new.group("sys/fs/cgroup", 1, pressure=PSI.format("2.50", 3))
    (new.root / "sys/fs/cgroup/cgroup.type").unlink()
    assert new.sample().stall == Stall(2.5, 3, is_own=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n \n",
        "some",
        "some avg10=1.00",
        "some total=5",
        "some avg10= total=5",
        "some avg10=nan total=5",
        "some avg10=inf total=5",
        "some avg10=-1 total=5",
        "some avg10=101 total=5",
        "some avg10=1.00 total=-5",
        "some avg10=1.00 total=5.5",
        "full avg10=1.00 total=5",
        "\0\0",
    ],
)
def test_stalls_that_make_no_sense_are_not_known(machine: Machine, text: str) -> None:
    machine.write("proc/pressure/memory", text)
    assert machine.sample().stall is None


# --- file systems ---


def statvfs_of(**places: tuple[int, int] | OSError) -> Callable[[Path], os.statvfs_result]:
    """Free and total bytes by the last part of a path; other places do not exist."""

    def statvfs(path: Path) -> os.statvfs_result:
        told = places.get(path.name, FileNotFoundError())
        if isinstance(told, OSError):
            raise told
        free, total = told
        block = 4 * KIB
        return os.statvfs_result(
            (1, block, total // block, total // block, free // block) + (0,) * 5
        )

    return statvfs


def test_the_file_systems_of_shm_and_disk_are_asked(machine: Machine) -> None:
    statvfs = statvfs_of(shm=(GIB, 2 * GIB), disk=(3 * GIB, 9 * GIB))
    places = {"shm": Path("/x/shm"), "disk": Path("/x/disk")}
    sample = Pressure(root=machine.root, statvfs=statvfs, **places).sample()
    assert (sample.shm_free, sample.disk_free) == (GIB, 3 * GIB)
    assert sample.memory_free == 20 * GIB


def test_a_directory_that_is_not_made_yet_will_be_where_its_parent_is(machine: Machine) -> None:
    statvfs = statvfs_of(parent=(GIB, 2 * GIB))
    place = Path("/parent/not/made/yet")
    assert Pressure(root=machine.root, statvfs=statvfs, disk=place).sample().disk_free == GIB


@pytest.mark.parametrize(
    "told",
    [
        PermissionError(errno.EACCES, "no"),
        NotADirectoryError(errno.ENOTDIR, "no"),
        OSError(errno.EIO, "no"),
        OSError(errno.ESTALE, "no"),
        (0, 0),  # a tmpfs without a size, and some file systems of users, have no total
    ],
)
def test_a_file_system_that_does_not_tell_is_not_known(
    machine: Machine, told: tuple[int, int] | OSError
) -> None:
    statvfs = statvfs_of(disk=told, parent=(GIB, GIB))
    pressure = Pressure(root=machine.root, statvfs=statvfs, disk=Path("/parent/disk"))
    assert pressure.sample().disk_free is None


@pytest.mark.parametrize("place", [Path("a\0b"), Path("x" * 300), Path("/dev/null/x"), Path()])
def test_odd_places_do_no_harm(machine: Machine, place: Path) -> None:
    assert Pressure(root=machine.root, disk=place).sample().memory_free == 20 * GIB


# --- sources of others ---


def test_a_source_can_be_plugged_in(machine: Machine) -> None:
    gpu = Reading("GPU 0", Resource.DEVICE, GIB // 4, 24 * GIB)
    quota = Reading("quota", Resource.MEMORY, GIB, 4 * GIB)
    pressure = Pressure(root=machine.root, sources=[lambda: gpu, lambda: quota, lambda: None])
    sample = pressure.sample()
    assert sample.free(Resource.DEVICE) == GIB // 4
    assert (sample.memory_free, sample.memory_total) == (GIB, 4 * GIB)
    advice = pressure.advice(sample, {Tier.MEMORY: GIB, Tier.SHM: GIB, Tier.DISK: GIB})
    assert advice.short == (gpu,)
    assert not advice.targets, "told, but no tier gives back for it"


@pytest.mark.parametrize("error", [OSError, ValueError, ZeroDivisionError, RuntimeError, KeyError])
def test_a_source_that_fails_is_not_known(machine: Machine, error: type[Exception]) -> None:
    def fail() -> Reading:
        raise error

    assert Pressure(root=machine.root, sources=[fail]).sample() == machine.sample()


# --- trees that are not as they should be ---

KERNEL_FILES = (
    "proc/meminfo",
    "proc/self/status",
    "proc/self/mountinfo",
    "proc/self/cgroup",
    "proc/pressure/memory",
    "sys/fs/cgroup/jobs/model/memory.max",
    "sys/fs/cgroup/jobs/model/memory.high",
    "sys/fs/cgroup/jobs/model/memory.current",
    "sys/fs/cgroup/jobs/model/memory.stat",
    "sys/fs/cgroup/jobs/model/memory.pressure",
    "sys/fs/cgroup/memory/jobs/model/memory.limit_in_bytes",
    "sys/fs/cgroup/memory/jobs/model/memory.usage_in_bytes",
    "sys/fs/cgroup/memory/jobs/model/memory.stat",
)
USED = {Tier.MEMORY: 3 * GIB, Tier.SHM: 2 * GIB, Tier.DISK: 9 * GIB}


@pytest.fixture
def whole(machine: Machine) -> Machine:
    """A machine that has everything."""
    return furnished(machine)


def furnished(machine: Machine) -> Machine:
    machine.mount("cgroup2", "/sys/fs/cgroup")
    machine.mount("cgroup", "/sys/fs/cgroup/memory", options="rw,memory")
    machine.belongs("4:memory:/jobs/model", "0::/jobs/model")
    machine.write("proc/self/status", "RssFile: 100 kB\n")
    machine.write("proc/pressure/memory", PSI.format("20.00", 5))
    stat = {"inactive_file": MIB, "active_file": MIB, "file_mapped": 0}
    limits = {"max": str(8 * GIB), "high": str(6 * GIB)}
    machine.group(
        "sys/fs/cgroup/jobs/model", 5 * GIB, stat, pressure=PSI.format("15.00", 9), **limits
    )
    machine.old_group(
        "sys/fs/cgroup/memory/jobs/model", 5 * GIB, 7 * GIB, {"total_inactive_file": 5}
    )
    return machine


def ask(root: Path) -> Advice:
    """A sample and its advice: what must never raise, and always lies within what tiers have."""
    pressure = Pressure(root=root, disk=root / "disk")
    advice = pressure.advice(pressure.sample(), USED)
    assert all(0 <= target <= USED[tier] for tier, target in advice.targets.items())
    return advice


def test_the_whole_machine_is_in_use_below(whole: Machine) -> None:
    assert len(whole.limits()) == 3
    assert ask(whole.root).is_urgent
    assert all((whole.root / path).is_file() for path in KERNEL_FILES)


ODD_CONTENTS = (
    b"",
    b"\n\n",
    b"\0",
    b"\xff\xfe\n",
    b"max\n",
    b"-1\n",
    b"1 2 3 4\n",
    b"0x10\n",
    "\u0661\u0662\n".encode(),  # digits, but not the kernel's
    b"9" * 5000,
    b"a:b:c\n: \n - \n::\n0::\0\n",
    b"1 2 3 / /sys - cgroup2\n1 2 3 4\n1 2 3 / /\\000 rw - cgroup2 x rw\n",
    b"some avg10 total some=\n",
    b"inactive_file\ninactive_file x\n x 5\nMemTotal: kB\n",
)


@pytest.mark.parametrize("path", KERNEL_FILES)
def test_files_of_odd_contents_do_no_harm(whole: Machine, path: str) -> None:
    for content in ODD_CONTENTS:
        whole.write(path, content)
        ask(whole.root)


@pytest.mark.parametrize("path", KERNEL_FILES)
def test_missing_files_and_what_is_no_file_do_no_harm(whole: Machine, path: str) -> None:
    place = whole.root / path
    place.unlink()
    ask(whole.root)
    place.mkdir()
    ask(whole.root)
    place.rmdir()
    place.symlink_to(place)
    ask(whole.root)


class Watched(type(Path())):
    """A path that asks what to do before a file is opened."""

    before: Callable[[Path], None]

    def open(self, *args: object, **more: object) -> object:
        type(self).before(Path(self))
        return super().open(*args, **more)


def watched(root: Path, before: Callable[[Path], None]) -> Path:
    kind = type("Watched", (Watched,), {"before": staticmethod(before)})
    return kind(root)


@pytest.mark.parametrize("path", KERNEL_FILES)
def test_files_that_may_not_be_read_do_no_harm(whole: Machine, path: str) -> None:
    codes = [errno.EACCES, errno.EOPNOTSUPP, errno.ENODEV, errno.EIO]
    asked = []

    def forbid(place: Path) -> None:
        if place == whole.root / path:
            asked.append(place)
            code = codes[len(asked) % len(codes)]
            raise OSError(code, os.strerror(code))

    for _ in codes:
        ask(watched(whole.root, forbid))
    assert asked or path == "proc/pressure/memory"  # which is asked where the group does not tell


@pytest.mark.parametrize("moment", range(25))
def test_a_machine_may_vanish_at_any_moment(whole: Machine, moment: int) -> None:
    opened: list[Path] = []

    def vanish(place: Path) -> None:
        if len(opened) == moment:
            shutil.rmtree(whole.root)
        opened.append(place)

    ask(watched(whole.root, vanish))
    assert whole.root.exists() == (len(opened) <= moment)
    assert 10 < len(opened) < 25 or not whole.root.exists()


@settings(max_examples=scaled(100, 5000), database=None, deadline=None)
@given(st.data())
def test_no_tree_of_files_does_harm(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    machine = furnished(Machine(tmp_path_factory.mktemp("any")))
    for path in data.draw(st.lists(st.sampled_from(KERNEL_FILES), unique=True, max_size=6)):
        content = bytearray((machine.root / path).read_bytes())
        if data.draw(st.booleans()):
            content = bytearray(data.draw(st.binary(max_size=80)))
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content)))
            content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        machine.write(path, bytes(content))
    ask(machine.root)


# --- this machine ---


def test_this_machine_tells_what_it_has(tmp_path: Path) -> None:
    """Wherever tests run, Linux tells its memory and the room on a disk."""
    sample = Pressure(disk=tmp_path / "not made").sample()
    by_name = {reading.name: reading for reading in sample.readings}
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert by_name["MemAvailable"].total == physical
    assert sample.memory_total is not None
    assert 0 < sample.memory_total <= physical
    assert by_name["disk file system"].total == shutil.disk_usage(tmp_path).total
    assert sample.disk_free is not None
    assert 0 < sample.disk_free < by_name["disk file system"].total
    assert all(0 <= reading.free <= reading.total for reading in sample.readings)
