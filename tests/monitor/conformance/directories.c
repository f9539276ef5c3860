// Directories and names: mkdir(2), rename(2), link(2), unlink(2), getdents64(2), chdir(2), inotify(7).
#include "case.h"
#include <sys/uio.h>
#include <dirent.h>
#include <sys/inotify.h>

struct entry64 {
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

CASE(a_directory_is_made_once) {
    CHECK(mkdir("d", 0700) == 0);
    FAILS(EEXIST, mkdir("d", 0700));
    FAILS(EEXIST, mkdir(".", 0700));
    FAILS(EEXIST, mkdir("/", 0700));
    FAILS(ENOENT, mkdir("x/y", 0700));
    CHECK(mkdir("e/", 0700) == 0);
}

CASE(only_an_empty_directory_is_removed) {
    DO(mkdir("d", 0700));
    put("d/file", "x");
    FAILS(ENOTEMPTY, rmdir("d"));
    FAILS(ENOTDIR, rmdir("d/file"));
    FAILS(EISDIR, unlink("d"));
    DO(unlink("d/file"));
    CHECK(rmdir("d") == 0);
    FAILS(ENOENT, rmdir("d"));
    FAILS(EINVAL, rmdir("."));
}

CASE(unlinkat_removes_directories_by_a_flag) {
    DO(mkdir("d", 0700));
    FAILS(EISDIR, unlinkat(AT_FDCWD, "d", 0));
    CHECK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR) == 0);
    FAILS(EINVAL, unlinkat(AT_FDCWD, "d", 0x8000));
}

CASE(a_removed_file_lives_while_it_is_open) {
    char buffer[4];
    struct stat stat;
    put("file", "here");
    int fd = DO(open("file", O_RDONLY));
    CHECK(unlink("file") == 0);
    CHECK(read(fd, buffer, 4) == 4);
    CHECK(fstat(fd, &stat) == 0 && stat.st_nlink == 0);
}

CASE(a_rename_replaces_a_file) {
    put("a", "new");
    put("b", "old");
    CHECK(rename("a", "b") == 0);
    FAILS(ENOENT, open("a", O_RDONLY));
    show_file("b");
}

CASE(a_rename_knows_its_errors) {
    put("file", "x");
    DO(mkdir("d", 0700));
    DO(mkdir("full", 0700));
    put("full/file", "x");
    FAILS(EISDIR, rename("file", "d"));
    FAILS(ENOTDIR, rename("d", "file"));
    FAILS(ENOTEMPTY, rename("d", "full"));
    FAILS(EINVAL, rename("d", "d/below"));
    FAILS(ENOENT, rename("nothing", "else"));
    FAILS(EBUSY, rename(".", "else"));
    CHECK(rename("file", "file") == 0);
}

CASE(renameat2_exchanges_and_does_not_replace) {
    put("a", "from a");
    put("b", "from b");
    FAILS(EEXIST, renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE));
    CHECK(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE) == 0);
    show_file("a");
    FAILS(EINVAL, renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE | RENAME_NOREPLACE));
    FAILS(ENOENT, renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_EXCHANGE));
    CHECK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE) == 0);
}

CASE(two_names_are_one_file) {
    struct stat stat;
    put("a", "x");
    CHECK(link("a", "b") == 0);
    CHECK(lstat("b", &stat) == 0 && stat.st_nlink == 2);
    FAILS(EEXIST, link("a", "b"));
    FAILS(ENOENT, link("nothing", "c"));
    FAILS(EPERM, link(".", "c"));
}

CASE(a_link_to_a_link_is_that_link) {
    struct stat stat;
    put("file", "x");
    DO(symlink("file", "soft"));
    CHECK(link("soft", "hard") == 0);
    CHECK(lstat("hard", &stat) == 0 && S_ISLNK(stat.st_mode));
    CHECK(linkat(AT_FDCWD, "soft", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW) == 0);
    CHECK(lstat("followed", &stat) == 0 && S_ISREG(stat.st_mode));
}

CASE(a_link_holds_any_text) {
    char buffer[64] = "";
    CHECK(symlink("any text/at all", "link") == 0);
    CHECK(readlink("link", buffer, sizeof buffer) == 15 && memcmp(buffer, "any text/at all", 15) == 0);
    CHECK(readlink("link", buffer, 3) == 3);
    FAILS(EINVAL, readlink("link", buffer, 0));
    FAILS(EINVAL, readlink(".", buffer, 10));
    FAILS(ENOENT, symlink("", "empty"));
    FAILS(EEXIST, symlink("x", "link"));
}

CASE(the_working_directory_moves) {
    char where[4096], *name;
    DO(mkdir("d", 0700));
    CHECK(chdir("d") == 0);
    CHECK(getcwd(where, sizeof where) && (name = strrchr(where, '/')) && strcmp(name, "/d") == 0);
    FAILS(ERANGE, syscall(SYS_getcwd, where, 3));
    CHECK(chdir("..") == 0);
    FAILS(ENOENT, chdir("nothing"));
    put("file", "x");
    FAILS(ENOTDIR, chdir("file"));
    int fd = DO(open("d", O_PATH));
    CHECK(fchdir(fd) == 0);
    FAILS(ENOTDIR, fchdir(DO(open("../file", O_RDONLY))));
}

CASE(a_removed_working_directory_is_enoent) {
    char where[4096];
    DO(mkdir("d", 0700));
    DO(chdir("d"));
    CHECK(rmdir("../d") == 0);
    FAILS(ENOENT, syscall(SYS_getcwd, where, sizeof where));
    FAILS(ENOENT, open("file", O_RDWR | O_CREAT, 0600));
}

CASE(names_of_a_directory_are_listed_once) {
    int seen = 0, dots = 0;
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "file-%d", i);
        put(name, "");
    }
    DIR *directory = opendir(".");
    for (struct dirent *one; (one = readdir(directory));) {
        seen += strncmp(one->d_name, "file-", 5) == 0 && one->d_type == DT_REG;
        dots += strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0;
    }
    CHECK(seen == 300 && dots == 2);
    rewinddir(directory);
    CHECK(readdir(directory) != NULL);
    closedir(directory);
}

CASE(getdents_in_small_pieces_gives_all) {
    char buffer[64];
    int fd = DO(open(".", O_RDONLY | O_DIRECTORY)), seen = 0, files = 0;
    put("a", "");
    put("b", "");
    put("c", "");
    for (long length; (length = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;)
        for (long at = 0; at < length; at += ((struct entry64 *)(buffer + at))->length) {
            seen++;
            files += ((struct entry64 *)(buffer + at))->type == DT_REG;
        }
    CHECK(seen == 5 && files == 3);
    CHECK(syscall(SYS_getdents64, fd, buffer, sizeof buffer) == 0);
}

CASE(getdents_knows_its_errors) {
    char buffer[64];
    put("file", "x");
    int file = DO(open("file", O_RDONLY)), directory = DO(open(".", O_RDONLY));
    FAILS(ENOTDIR, syscall(SYS_getdents64, file, buffer, sizeof buffer));
    FAILS(EINVAL, syscall(SYS_getdents64, directory, buffer, 10));
    FAILS(EFAULT, syscall(SYS_getdents64, directory, (void *)8, 4096));
    FAILS(EBADF, syscall(SYS_getdents64, 999, buffer, sizeof buffer));
}

CASE(a_directory_of_proc_is_not_read_as_a_file) {
    char bytes[64];
    struct iovec part = {bytes, sizeof bytes};
    int fd = DO(open("/proc/self", O_RDONLY | O_DIRECTORY));
    FAILS(EISDIR, read(fd, bytes, sizeof bytes));
    FAILS(EISDIR, pread(fd, bytes, sizeof bytes, 0));
    FAILS(EISDIR, readv(fd, &part, 1));
    CHECK(syscall(SYS_getdents64, fd, bytes, sizeof bytes) > 0);
}

CASE(a_removed_directory_lists_nothing) {
    char buffer[256];
    DO(mkdir("d", 0700));
    int fd = DO(open("d", O_RDONLY));
    DO(rmdir("d"));
    errno = 0;
    long length = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
    SHOW(length);
}

CASE(proc_and_sys_are_directories_too) {
    int names = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    while (readdir(directory)) names++;
    CHECK(names >= 5);
    closedir(directory);
    CHECK((directory = opendir("/sys/devices/system/cpu")) != NULL);
    closedir(directory);
}

CASE(inotify_tells_of_changes) {
    char buffer[4096] __attribute__((aligned(8)));
    int fd = DO(inotify_init1(IN_NONBLOCK));
    int watch = inotify_add_watch(fd, ".", IN_CREATE | IN_DELETE | IN_MOVED_TO);
    CHECK(watch > 0);
    put("file", "x");
    DO(rename("file", "other"));
    DO(unlink("other"));
    long length = read(fd, buffer, sizeof buffer);
    for (long at = 0; at < length;) {
        struct inotify_event *event = (void *)(buffer + at);
        TEXT("%x %s", event->mask, event->name);
        at += sizeof *event + event->len;
    }
    CHECK(inotify_rm_watch(fd, watch) == 0);
    FAILS(EINVAL, inotify_rm_watch(fd, 77));
    FAILS(ENOENT, inotify_add_watch(fd, "nothing", IN_CREATE));
}

CASE(nodes_are_files_fifos_and_sockets) {
    struct stat stat;
    CHECK(mknod("file", S_IFREG | 0600, 0) == 0);
    CHECK(mknod("fifo", S_IFIFO | 0600, 0) == 0);
    CHECK(mknod("socket", S_IFSOCK | 0600, 0) == 0);
    CHECK(lstat("fifo", &stat) == 0 && S_ISFIFO(stat.st_mode));
    FAILS(EEXIST, mknod("file", S_IFREG | 0600, 0));
    FAILS(EINVAL, mknod("what", S_IFLNK | 0600, 0));
}
