"""An ext4 file system in a file, for tests of power failure, full and failing disks. Needs root.

A power failure is: the image file as it stands is copied, and the mounted file system is thrown
away with its dirty pages. What had been written through (fsync, msync, write-back) is in the copy,
nothing else is; so write(), mmap, rename and directory entries are all treated alike, with the
journal of a real file system.
"""

import ctypes
import os
import subprocess
import tempfile
import time

SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_AFTER = 1, 2, 4


def why_not():
    """None, or why such file systems cannot be used here."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices here"
    return None


def _run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class LoopFs:
    def __init__(self, megabytes, journal=True):
        self.dir = tempfile.mkdtemp(prefix="loop-fs-")
        self.image = os.path.join(self.dir, "image")
        self.mount_point = os.path.join(self.dir, "mnt")
        os.mkdir(self.mount_point)
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0",
             self.image)
        self.mounted = False
        self.mount()

    def mount(self):
        # commit=300: the file system does not sync by itself within a test.
        _run("mount", "-o", "loop,commit=300,errors=remount-ro", self.image, self.mount_point)
        self.mounted = True

    def unmount(self):
        for attempt in range(50):
            if subprocess.run(["umount", self.mount_point], stderr=subprocess.DEVNULL).returncode == 0:
                self.mounted = False
                return
            time.sleep(0.1)
        raise OSError("cannot unmount " + self.mount_point)

    def break_it(self):
        """ext4 meets an error and makes itself read-only, with files open and mapped. (remount,ro
        by hand is refused as long as any file is open for writing.)"""
        device = subprocess.run(["findmnt", "-no", "SOURCE", self.mount_point], check=True,
                                stdout=subprocess.PIPE, text=True).stdout.strip()
        with open("/sys/fs/ext4/%s/trigger_fs_error" % os.path.basename(device), "w") as f:
            f.write("an error on purpose\n")

    def repair(self):
        """After break_it() and unmount()."""
        code = subprocess.run(["fsck.ext4", "-fy", self.image], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode
        if code > 1:
            raise OSError("fsck.ext4 ended with %d" % code)

    def set_aside(self):
        """A copy of the image as it stands: what a power failure now would leave."""
        _run("cp", "--sparse=always", self.image, self.image + ".cut")

    def power_failure(self):
        """After set_aside(), with no process on it any more: continue from the copy."""
        self.unmount()
        os.replace(self.image + ".cut", self.image)
        self.mount()

    def remove(self):
        if self.mounted:
            self.unmount()
        for name in (self.image, self.image + ".cut"):
            if os.path.exists(name):
                os.unlink(name)
        os.rmdir(self.mount_point)
        os.rmdir(self.dir)


def write_back_some(directory, rng, share=0.5):
    """Writes a random part of the dirty pages of random files, as the kernel may at any time, and
    sometimes lets the journal commit: so that what is left is torn in the middle. -> page ranges"""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    ranges = 0
    for where, _, names in os.walk(directory):
        for name in names:
            if rng.random() > share:
                continue
            try:
                fd = os.open(os.path.join(where, name), os.O_RDONLY)
            except OSError:
                continue
            pages = (os.fstat(fd).st_size + 4095) // 4096
            for _ in range(rng.randrange(1, 4) if pages else 0):
                first = rng.choice([0, rng.randrange(pages)])
                count = rng.randrange(1, min(256, pages - first) + 1)
                libc.sync_file_range(fd, first * 4096, count * 4096, SYNC_FILE_RANGE_WAIT_BEFORE |
                                     SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)
                ranges += 1
            os.close(fd)
    if rng.random() < 0.5:
        scratch = os.path.join(directory, "scratch-of-the-test")
        with open(scratch, "wb") as f:  # its fsync commits the journal: sizes, extents, names
            f.write(b"x")
            os.fsync(f.fileno())
        os.unlink(scratch)
    return ranges
