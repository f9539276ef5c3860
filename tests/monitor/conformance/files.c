// Files: open(2), openat2(2), read and write in their forms, positions, space, attributes, times, copying.
#include "case.h"
#include <linux/openat2.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

CASE(opening_what_is_not_there_is_enoent) {
    FAILS(ENOENT, open("nothing", O_RDONLY));
    FAILS(ENOENT, open("", O_RDONLY));
    FAILS(ENOENT, open("nothing/more", O_RDONLY | O_CREAT, 0600));
}

CASE(creating_exclusively_refuses_what_exists) {
    CHECK(open("file", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0);
    FAILS(EEXIST, open("file", O_RDWR | O_CREAT | O_EXCL, 0600));
    DO(symlink("nowhere", "link"));
    FAILS(EEXIST, open("link", O_RDWR | O_CREAT | O_EXCL, 0600));
}

CASE(truncating_empties_a_file) {
    struct stat stat;
    put("file", "content");
    CHECK(open("file", O_WRONLY | O_TRUNC) >= 0);
    CHECK(lstat("file", &stat) == 0 && stat.st_size == 0);
}

CASE(a_directory_cannot_be_written) {
    FAILS(EISDIR, open(".", O_RDWR));
    FAILS(EISDIR, open(".", O_WRONLY));
    FAILS(EISDIR, open(".", O_RDONLY | O_CREAT, 0600));
    int fd = DO(open(".", O_RDONLY));
    char byte;
    FAILS(EISDIR, read(fd, &byte, 1));
}

CASE(o_directory_refuses_files) {
    put("file", "x");
    FAILS(ENOTDIR, open("file", O_RDONLY | O_DIRECTORY));
    FAILS(ENOTDIR, open("file/below", O_RDONLY));
    FAILS(ENOTDIR, open("file/", O_RDONLY));
}

CASE(o_nofollow_refuses_links) {
    put("file", "x");
    DO(symlink("file", "link"));
    FAILS(ELOOP, open("link", O_RDONLY | O_NOFOLLOW));
    CHECK(open("link", O_PATH | O_NOFOLLOW) >= 0);
}

CASE(a_ring_of_links_is_eloop) {
    DO(symlink("b", "a"));
    DO(symlink("a", "b"));
    FAILS(ELOOP, open("a", O_RDONLY));
    struct stat stat;
    FAILS(ELOOP, syscall(SYS_stat, "a", &stat));
}

CASE(names_that_are_too_long_are_refused) {
    char name[5000];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    FAILS(ENAMETOOLONG, open(name, O_RDONLY));
    name[256] = 'n';
    name[4999] = 0;
    FAILS(ENAMETOOLONG, open(name, O_RDONLY));
}

CASE(paths_that_are_no_memory_are_efault) {
    FAILS(EFAULT, open((char *)8, O_RDONLY));
    FAILS(EFAULT, open((char *)-1, O_RDONLY));
    char *at = pages(2);
    DO(munmap(at + PAGE, PAGE));
    memset(at + PAGE - 4, '/', 4);
    FAILS(EFAULT, open(at + PAGE - 4, O_RDONLY));
    memcpy(at + PAGE - 2, ".", 2);
    CHECK(open(at + PAGE - 2, O_RDONLY) >= 0);
}

CASE(appending_writes_at_the_end) {
    char buffer[16] = "";
    put("file", "abc");
    int fd = DO(open("file", O_RDWR | O_APPEND));
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    CHECK(write(fd, "def", 3) == 3);
    CHECK(pread(fd, buffer, 16, 0) == 6 && memcmp(buffer, "abcdef", 6) == 0);
    CHECK(pwrite(fd, "X", 1, 0) == 1);
    CHECK(pread(fd, buffer, 16, 0) == 7 && buffer[6] == 'X');
}

CASE(writing_behind_the_end_leaves_zeroes) {
    char buffer[16];
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    CHECK(pwrite(fd, "x", 1, 10) == 1);
    CHECK(read(fd, buffer, 16) == 11);
    CHECK(buffer[0] == 0 && buffer[9] == 0 && buffer[10] == 'x');
}

CASE(positions_know_their_errors) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    FAILS(EINVAL, lseek(fd, -1, SEEK_SET));
    FAILS(EINVAL, lseek(fd, 0, 99));
    FAILS(EINVAL, pread(fd, &fd, 1, -1));
    FAILS(EBADF, lseek(999, 0, SEEK_SET));
    CHECK(lseek(fd, 1l << 40, SEEK_SET) == 1l << 40);
    CHECK(lseek(fd, 0, SEEK_END) == 0);
}

CASE(holes_and_data_can_be_sought) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    DO(pwrite(fd, "x", 1, 1 << 20));
    CHECK(lseek(fd, 0, SEEK_DATA) == 1 << 20);
    CHECK(lseek(fd, 0, SEEK_HOLE) == 0);
    FAILS(ENXIO, lseek(fd, 2 << 20, SEEK_DATA));
}

CASE(vectors_gather_and_scatter) {
    char a[3], b[4];
    struct iovec out[3] = {{"one", 3}, {"", 0}, {"four", 4}}, in[2] = {{a, 3}, {b, 4}};
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    CHECK(writev(fd, out, 3) == 7);
    CHECK(preadv(fd, in, 2, 0) == 7);
    CHECK(memcmp(a, "one", 3) == 0 && memcmp(b, "four", 4) == 0);
    CHECK(pwritev(fd, out, 1, 4) == 3);
    CHECK(preadv2(fd, in, 1, 4, 0) == 3 && memcmp(a, "one", 3) == 0);
}

CASE(vectors_know_their_errors) {
    struct iovec one = {"x", 1}, many[1025] = {{0}};
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    FAILS(EINVAL, writev(fd, &one, -1));
    FAILS(EINVAL, writev(fd, many, 1025));
    CHECK(writev(fd, many, 1024) == 0);
    FAILS(EFAULT, writev(fd, (void *)8, 1));
    one.iov_len = -1;
    FAILS(EINVAL, writev(fd, &one, 1));
    one = (struct iovec){(void *)8, 4};
    FAILS(EFAULT, writev(fd, &one, 1));
    FAILS(EOPNOTSUPP, pwritev2(fd, &(struct iovec){"x", 1}, 1, 0, 0x8000));
}

CASE(a_vector_with_a_bad_end_writes_its_good_part) {
    char *at = pages(2);
    DO(munmap(at + PAGE, PAGE));
    struct iovec two[2] = {{at, 10}, {at + PAGE, 10}};
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    SHOW(writev(fd, two, 2));
    SHOW(lseek(fd, 0, SEEK_END));
}

CASE(a_file_is_cut_and_made_longer) {
    struct stat stat;
    put("file", "content");
    CHECK(truncate("file", 3) == 0);
    CHECK(lstat("file", &stat) == 0 && stat.st_size == 3);
    int fd = DO(open("file", O_RDWR));
    CHECK(ftruncate(fd, 100) == 0);
    CHECK(fstat(fd, &stat) == 0 && stat.st_size == 100);
    FAILS(EINVAL, ftruncate(fd, -1));
    int reader = DO(open("file", O_RDONLY));
    FAILS(EINVAL, ftruncate(reader, 0));
    FAILS(EISDIR, truncate(".", 0));
}

CASE(fallocate_makes_room_and_holes) {
    char buffer[4] = "";
    struct stat stat;
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    CHECK(fallocate(fd, 0, 0, 8192) == 0);
    CHECK(fstat(fd, &stat) == 0 && stat.st_size == 8192);
    DO(pwrite(fd, "abc", 3, 4096));
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0);
    CHECK(pread(fd, buffer, 3, 4096) == 3 && buffer[0] == 0);
    FAILS(EINVAL, fallocate(fd, 0, 0, 0));
    FAILS(EINVAL, fallocate(fd, 0, -1, 5));
    FAILS(EOPNOTSUPP, fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 5));
}

CASE(a_file_without_a_name_can_be_given_one) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, "hidden", 6) == 6);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
    show_file("named");
    FAILS(EINVAL, open(".", O_TMPFILE | O_RDONLY, 0600));
}

CASE(openat2_knows_its_argument) {
    struct {
        struct open_how how;
        long more;
    } room = {{.flags = O_RDONLY}, 0};
    put("file", "x");
    CHECK(syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room.how) >= 0);
    CHECK(syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room) >= 0);
    room.more = 1;
    FAILS(E2BIG, syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room));
    FAILS(EINVAL, syscall(SYS_openat2, AT_FDCWD, "file", &room, 8));
    room.how.flags = 1ul << 40;
    FAILS(EINVAL, syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room.how));
    room.how = (struct open_how){.flags = O_RDONLY, .mode = 0600};
    FAILS(EINVAL, syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room.how));
    room.how = (struct open_how){.resolve = 1 << 20};
    FAILS(EINVAL, syscall(SYS_openat2, AT_FDCWD, "file", &room, sizeof room.how));
}

CASE(openat2_stays_where_it_is_told) {
    struct open_how beneath = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH}, straight = {.flags = O_RDONLY, .resolve = RESOLVE_NO_SYMLINKS};
    DO(mkdir("inside", 0700));
    put("inside/file", "x");
    put("outside", "x");
    DO(symlink("file", "inside/link"));
    int fd = DO(open("inside", O_PATH));
    CHECK(syscall(SYS_openat2, fd, "file", &beneath, sizeof beneath) >= 0);
    FAILS(EXDEV, syscall(SYS_openat2, fd, "../outside", &beneath, sizeof beneath));
    FAILS(EXDEV, syscall(SYS_openat2, fd, "/tmp", &beneath, sizeof beneath));
    FAILS(ELOOP, syscall(SYS_openat2, fd, "link", &straight, sizeof straight));
}

CASE(statx_tells_what_stat_tells) {
    struct statx more;
    struct stat stat;
    put("file", "12345");
    CHECK(statx(AT_FDCWD, "file", 0, STATX_BASIC_STATS, &more) == 0);
    CHECK(lstat("file", &stat) == 0);
    CHECK(more.stx_size == 5 && more.stx_ino == stat.st_ino && more.stx_mode == stat.st_mode && more.stx_nlink == 1);
    CHECK(more.stx_mtime.tv_sec == stat.st_mtim.tv_sec && more.stx_mtime.tv_nsec == stat.st_mtim.tv_nsec);
    FAILS(ENOENT, statx(AT_FDCWD, "nothing", 0, STATX_ALL, &more));
    FAILS(EINVAL, statx(AT_FDCWD, "file", 0x100000, STATX_ALL, &more));
    FAILS(EINVAL, statx(AT_FDCWD, "file", 0, 0x80000000, &more));
    FAILS(EFAULT, statx(AT_FDCWD, "file", 0, STATX_ALL, (void *)8));
}

CASE(an_empty_path_means_the_descriptor) {
    struct stat stat;
    put("file", "123");
    int fd = DO(open("file", O_RDONLY));
    CHECK(fstatat(fd, "", &stat, AT_EMPTY_PATH) == 0 && stat.st_size == 3);
    FAILS(ENOENT, fstatat(fd, "", &stat, 0));
}

CASE(access_tells_what_may_be_done) {
    put("file", "x");
    CHECK(access("file", F_OK) == 0 && access("file", R_OK) == 0);
    FAILS(EACCES, access("file", X_OK));
    FAILS(ENOENT, access("nothing", F_OK));
    FAILS(EINVAL, access("file", 99));
    CHECK(faccessat(AT_FDCWD, "file", R_OK, AT_EACCESS) == 0);
    FAILS(EINVAL, syscall(SYS_faccessat2, AT_FDCWD, "file", R_OK, 0x4000));
}

CASE(the_mode_of_a_file_is_changed) {
    struct stat stat;
    put("file", "x");
    CHECK(chmod("file", 0640) == 0 && lstat("file", &stat) == 0 && (stat.st_mode & 07777) == 0640);
    int fd = DO(open("file", O_RDONLY));
    CHECK(fchmod(fd, 0600) == 0 && fstat(fd, &stat) == 0 && (stat.st_mode & 07777) == 0600);
    CHECK(fchmodat(AT_FDCWD, "file", 0755, 0) == 0);
    FAILS(ENOENT, chmod("nothing", 0600));
}

CASE(fchmodat2_is_there_or_not_at_all) {
    put("file", "x");
    errno = 0;
    long result = syscall(452, AT_FDCWD, "file", 0600, 0);
    CHECK(result == 0);
    FAILS(EINVAL, syscall(452, AT_FDCWD, "file", 0600, 0x4000));
}

CASE(the_mask_of_modes_is_kept) {
    struct stat stat;
    mode_t before = umask(077);
    CHECK(umask(077) == 077);
    DO(open("file", O_RDWR | O_CREAT, 0666));
    CHECK(lstat("file", &stat) == 0 && (stat.st_mode & 07777) == 0600);
    umask(before);
}

CASE(times_are_set_exactly) {
    struct timespec times[2] = {{1000, 123456789}, {2000, 987654321}};
    struct stat stat;
    put("file", "x");
    CHECK(utimensat(AT_FDCWD, "file", times, 0) == 0);
    CHECK(lstat("file", &stat) == 0);
    CHECK(stat.st_atim.tv_sec == 1000 && stat.st_atim.tv_nsec == 123456789);
    CHECK(stat.st_mtim.tv_sec == 2000 && stat.st_mtim.tv_nsec == 987654321);
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_nsec = UTIME_NOW;
    CHECK(utimensat(AT_FDCWD, "file", times, 0) == 0);
    CHECK(lstat("file", &stat) == 0 && stat.st_atim.tv_sec == 1000 && stat.st_mtim.tv_sec > 1000000);
    times[0].tv_nsec = 2000000000;
    FAILS(EINVAL, utimensat(AT_FDCWD, "file", times, 0));
}

CASE(sendfile_copies_and_moves_the_position) {
    char buffer[16] = "";
    put("from", "abcdefgh");
    int from = DO(open("from", O_RDONLY)), to = DO(open("to", O_RDWR | O_CREAT, 0600));
    off_t at = 2;
    CHECK(sendfile(to, from, &at, 3) == 3 && at == 5);
    CHECK(lseek(from, 0, SEEK_CUR) == 0);
    CHECK(sendfile(to, from, NULL, 100) == 8);
    CHECK(pread(to, buffer, 16, 0) == 11 && memcmp(buffer, "cdeabcdefgh", 11) == 0);
}

CASE(copy_file_range_copies_within_files) {
    char buffer[16] = "";
    loff_t in = 1, out = 4;
    put("from", "abcdefgh");
    int from = DO(open("from", O_RDONLY)), to = DO(open("to", O_RDWR | O_CREAT, 0600));
    CHECK(copy_file_range(from, &in, to, &out, 3, 0) == 3);
    CHECK(in == 4 && out == 7);
    CHECK(pread(to, buffer, 16, 0) == 7 && memcmp(buffer, "\0\0\0\0bcd", 7) == 0);
    FAILS(EINVAL, copy_file_range(from, NULL, to, NULL, 1, 7));
    FAILS(EBADF, copy_file_range(to, NULL, from, NULL, 1, 0));
}

CASE(extended_attributes_are_absent_or_kept) {
    char room[64];
    put("file", "x");
    FAILS(ENODATA, getxattr("file", "user.none", room, sizeof room));
    FAILS(ENOENT, getxattr("nothing", "user.none", room, sizeof room));
    FAILS(ENODATA, lgetxattr("file", "security.capability", room, sizeof room));
}

CASE(a_file_system_tells_of_itself) {
    struct statfs system;
    CHECK(statfs(".", &system) == 0 && system.f_bsize > 0 && system.f_namelen == 255);
    FAILS(ENOENT, statfs("nothing", &system));
    CHECK(fstatfs(DO(open(".", O_RDONLY)), &system) == 0);
}

CASE(syncing_is_for_files) {
    int ends[2];
    put("file", "x");
    int fd = DO(open("file", O_RDWR));
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && syncfs(fd) == 0);
    CHECK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) == 0);
    DO(pipe(ends));
    FAILS(EINVAL, fsync(ends[0]));
    FAILS(EBADF, fsync(999));
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0);
    CHECK(posix_fadvise(fd, 0, 0, 99) == EINVAL);
    CHECK(posix_fadvise(ends[0], 0, 0, 0) == ESPIPE);
}

CASE(dev_full_is_full_and_dev_null_takes_all) {
    char byte = 1;
    int full = DO(open("/dev/full", O_RDWR)), null = DO(open("/dev/null", O_RDWR));
    FAILS(ENOSPC, write(full, "x", 1));
    CHECK(read(full, &byte, 1) == 1 && byte == 0);
    CHECK(write(null, "x", 1) == 1 && read(null, &byte, 1) == 0);
    CHECK(read(DO(open("/dev/urandom", O_RDONLY)), &byte, 1) == 1);
}

CASE(without_a_terminal_dev_tty_is_enxio) { FAILS(ENXIO, open("/dev/tty", O_RDWR)); }

CASE(zero_bytes_are_written_without_looking) {
    int fd = DO(open("file", O_RDWR | O_CREAT, 0600));
    CHECK(write(fd, (void *)8, 0) == 0);
    CHECK(read(fd, (void *)8, 0) == 0);
    FAILS(EBADF, write(999, (void *)8, 0));
}
