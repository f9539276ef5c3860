// Locks on files: fcntl(2) records, open-file locks, flock(2); seals of memory files.
#include "case.h"
#include <sys/file.h>

static int lock(int fd, int command, int type, off_t start, off_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

CASE(a_process_does_not_exclude_itself) {
    put("file", "x");
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR));
    CHECK(lock(a, F_SETLK, F_WRLCK, 0, 10) == 0);
    CHECK(lock(b, F_SETLK, F_WRLCK, 5, 10) == 0);
    struct flock ask = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(a, F_GETLK, &ask) == 0 && ask.l_type == F_UNLCK);
}

CASE(open_files_exclude_each_other) {
    put("file", "x");
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR));
    CHECK(lock(a, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
    FAILS(EAGAIN, lock(b, F_OFD_SETLK, F_WRLCK, 5, 10));
    CHECK(lock(b, F_OFD_SETLK, F_WRLCK, 10, 10) == 0);
    CHECK(lock(a, F_OFD_SETLK, F_UNLCK, 0, 10) == 0);
    CHECK(lock(b, F_OFD_SETLK, F_WRLCK, 5, 10) == 0);
    struct flock ask = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(a, F_OFD_GETLK, &ask) == 0 && ask.l_type == F_WRLCK && ask.l_start == 5 && ask.l_len == 15 && ask.l_pid == -1);
}

CASE(readers_share_an_open_file_lock) {
    put("file", "x");
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR));
    CHECK(lock(a, F_OFD_SETLK, F_RDLCK, 0, 0) == 0);
    CHECK(lock(b, F_OFD_SETLK, F_RDLCK, 0, 0) == 0);
    FAILS(EAGAIN, lock(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}

CASE(a_lock_needs_the_right_descriptor) {
    put("file", "x");
    int reader = DO(open("file", O_RDONLY)), writer = DO(open("file", O_WRONLY));
    FAILS(EBADF, lock(reader, F_SETLK, F_WRLCK, 0, 1));
    FAILS(EBADF, lock(writer, F_SETLK, F_RDLCK, 0, 1));
    FAILS(EINVAL, lock(reader, F_SETLK, 77, 0, 1));
    FAILS(EINVAL, lock(reader, F_SETLK, F_RDLCK, -5, 1));
    FAILS(EFAULT, fcntl(reader, F_SETLK, (void *)8));
    FAILS(EBADF, lock(999, F_SETLK, F_RDLCK, 0, 1));
}

CASE(flock_belongs_to_the_open_file) {
    put("file", "x");
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR)), copy = DO(dup(a));
    CHECK(flock(a, LOCK_EX) == 0);
    CHECK(flock(copy, LOCK_EX | LOCK_NB) == 0);
    FAILS(EAGAIN, flock(b, LOCK_SH | LOCK_NB));
    CHECK(flock(copy, LOCK_UN) == 0);
    CHECK(flock(b, LOCK_SH | LOCK_NB) == 0);
    CHECK(flock(a, LOCK_SH | LOCK_NB) == 0);
    FAILS(EAGAIN, flock(a, LOCK_EX | LOCK_NB));
    FAILS(EINVAL, flock(a, 0));
    FAILS(EBADF, flock(999, LOCK_SH));
}

CASE(closing_the_last_descriptor_ends_a_flock) {
    put("file", "x");
    int a = DO(open("file", O_RDWR)), b = DO(open("file", O_RDWR));
    DO(flock(a, LOCK_EX));
    close(a);
    CHECK(flock(b, LOCK_EX | LOCK_NB) == 0);
}

CASE(a_sealed_memory_file_stays_as_it_is) {
    int fd = DO(memfd_create("sealed", MFD_ALLOW_SEALING));
    DO(ftruncate(fd, 4096));
    CHECK(fcntl(fd, F_GET_SEALS) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    FAILS(EPERM, ftruncate(fd, 100));
    FAILS(EPERM, ftruncate(fd, 8192));
    CHECK(write(fd, "x", 1) == 1);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    FAILS(EPERM, write(fd, "x", 1));
    FAILS(EPERM, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) == 0);
    FAILS(EPERM, fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
}

CASE(a_written_mapping_keeps_the_seal_away) {
    int fd = DO(memfd_create("mapped", MFD_ALLOW_SEALING));
    DO(ftruncate(fd, 4096));
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    FAILS(EBUSY, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    at[0] = 1;
    FAILS(EPERM, write(fd, "x", 1));
}

CASE(a_memory_file_without_sealing_is_sealed_against_seals) {
    int fd = DO(memfd_create("plain", 0));
    CHECK(fcntl(fd, F_GET_SEALS) == F_SEAL_SEAL);
    FAILS(EPERM, fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    put("file", "x");
    FAILS(EINVAL, fcntl(DO(open("file", O_RDWR)), F_ADD_SEALS, F_SEAL_GROW));
}

CASE(memfd_create_knows_its_errors) {
    char name[300];
    memset(name, 'n', sizeof name);
    name[250] = 0;
    FAILS(EINVAL, memfd_create(name, 0));
    name[249] = 0;
    CHECK(memfd_create(name, MFD_CLOEXEC) >= 0);
    FAILS(EINVAL, memfd_create("x", 0x100));
    FAILS(EFAULT, memfd_create((char *)8, 0));
}

CASE(a_memory_file_shows_its_name) {
    char path[64], shown[64] = "";
    int fd = DO(memfd_create("its name", 0));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(readlink(path, shown, sizeof shown) > 0 && strcmp(shown, "/memfd:its name (deleted)") == 0);
}
