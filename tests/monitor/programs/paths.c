// Names: opening, attributes, links, directories, the working directory, /proc/self and /dev.
#include "show.h"
#include <dirent.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <utime.h>

static char buffer[8192];

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void show_directory(const char *name) {
    DIR *directory = opendir(name);
    char *names[1000];
    int count = 0;
    struct dirent *entry;
    if (!directory) {
        TEXT("%s: %s", name, strerrorname_np(errno));
        return;
    }
    while ((entry = readdir(directory))) asprintf(&names[count++], "%s/%d", entry->d_name, entry->d_type);
    closedir(directory);
    qsort(names, count, sizeof *names, compare);
    printf("     %s:", name);
    for (int i = 0; i < count; i++) printf(" %s", names[i]);
    printf("\n");
}

static void show_stat(const char *name, int flags) {
    struct stat s;
    if (fstatat(AT_FDCWD, name, &s, flags) < 0) {
        TEXT("%s: %s", name, strerrorname_np(errno));
        return;
    }
    TEXT("%s: %o %ld links %ld", name, s.st_mode, S_ISREG(s.st_mode) ? (long)s.st_size : -1L, S_ISDIR(s.st_mode) ? -1L : (long)s.st_nlink);
}

static void opening(void) {
    int fd, directory;
    put("plain", "plain");
    DO(mkdir("dir", 0755));
    put("dir/inside", "inside");
    DO(symlink("plain", "link"));
    DO(symlink("nothing", "dangling"));
    DO(symlink("loop2", "loop1"));
    DO(symlink("loop1", "loop2"));
    DO(symlink("dir", "dirlink"));
    SHOW(open("plain", O_RDONLY | O_CREAT | O_EXCL, 0600));
    SHOW(open("dangling", O_RDONLY | O_CREAT | O_EXCL, 0600));
    SHOW(open("link", O_RDONLY | O_NOFOLLOW));
    SHOW(open("loop1", O_RDONLY));
    SHOW(open("dir", O_WRONLY));
    SHOW(open("dir", O_RDONLY | O_CREAT, 0600));
    SHOW(open("plain", O_RDONLY | O_DIRECTORY));
    SHOW(open("plain/", O_RDONLY));
    SHOW(open("plain/x", O_RDONLY));
    SHOW(open("", O_RDONLY));
    SHOW(open("nothing/x", O_RDONLY | O_CREAT, 0600));
    SHOW(open("new/", O_RDONLY | O_CREAT, 0600));
    SHOW(open(NULL, O_RDONLY));
    SHOW(open("plain", O_TMPFILE | O_RDWR, 0600));
    SHOW(open(".", O_TMPFILE | O_RDONLY, 0600));
    SHOW(fd = open("dangling", O_WRONLY | O_CREAT, 0604));
    SHOW(close(fd));
    show_stat("nothing", 0);
    SHOW(unlink("nothing"));
    SHOW(fd = open(".", O_TMPFILE | O_RDWR, 0600));
    SHOW(write(fd, "tmp", 3));
    sprintf(buffer, "/proc/self/fd/%d", fd);
    SHOW(linkat(AT_FDCWD, buffer, AT_FDCWD, "linked", AT_SYMLINK_FOLLOW));
    show_file("linked");
    SHOW(close(fd));
    SHOW(fd = open("link", O_PATH | O_NOFOLLOW));
    SHOW(readlinkat(fd, "", buffer, 100));
    SHOW(read(fd, buffer, 1));
    SHOW(fchmod(fd, 0600));
    SHOW(close(fd));
    SHOW(directory = open("dir", O_RDONLY | O_DIRECTORY));
    SHOW(read(directory, buffer, 10));
    SHOW(fd = openat(directory, "inside", O_RDONLY));
    SHOW(close(fd));
    SHOW(fd = openat(directory, "../plain", O_RDONLY));
    SHOW(openat(fd, "x", O_RDONLY));
    SHOW(openat(99, "x", O_RDONLY));
    SHOW(close(fd));
    SHOW(fd = openat(99, "/dev/null", O_RDWR));
    SHOW(close(fd));
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    SHOW(syscall(SYS_openat2, directory, "../plain", &how, sizeof how));
    SHOW(syscall(SYS_openat2, directory, "/etc/passwd", &how, sizeof how));
    SHOW(fd = syscall(SYS_openat2, directory, "inside", &how, sizeof how));
    SHOW(close(fd));
    how.resolve = RESOLVE_IN_ROOT;
    SHOW(fd = syscall(SYS_openat2, directory, "/../inside", &how, sizeof how));
    SHOW(close(fd));
    SHOW(syscall(SYS_openat2, directory, "/plain", &how, sizeof how));
    how.resolve = RESOLVE_NO_SYMLINKS;
    SHOW(syscall(SYS_openat2, AT_FDCWD, "dirlink/inside", &how, sizeof how));
    how.resolve = RESOLVE_NO_MAGICLINKS;
    SHOW(syscall(SYS_openat2, AT_FDCWD, "/proc/self/fd/0", &how, sizeof how));
    how.resolve = 0x1000;
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", &how, sizeof how));
    how = (struct open_how){.flags = O_RDONLY, .mode = 0600};
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", &how, sizeof how));
    how = (struct open_how){.flags = 1ull << 40};
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", &how, sizeof how));
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", &how, 8));
    memset(buffer, 0, sizeof buffer);
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", buffer, 48) > 0);
    buffer[47] = 1;
    SHOW(syscall(SYS_openat2, AT_FDCWD, "plain", buffer, 48));
    SHOW(close(directory));
    SHOW(mkfifo("fifo", 0600));
    SHOW(open("fifo", O_WRONLY | O_NONBLOCK));
    SHOW(fd = open("fifo", O_RDWR));
    SHOW(write(fd, "x", 1));
    SHOW(close(fd));
    SHOW(mknod("socket", S_IFSOCK | 0600, 0));
    SHOW(open("socket", O_RDONLY));
    SHOW(mknod("weird", 0170000, 0));
    SHOW(creat("created", 0666));
    SHOW(close(4));
    memset(buffer, 'a', 5000);
    buffer[255] = 0;
    SHOW(open(buffer, O_RDONLY));
    buffer[255] = 'a', buffer[256] = 0;
    SHOW(open(buffer, O_RDONLY));
    buffer[256] = 'a', buffer[4095] = 0;
    SHOW(open(buffer, O_RDONLY));
    buffer[4095] = 'a', buffer[4096] = 0;
    SHOW(open(buffer, O_RDONLY));
    for (int i = 0; i < 4095; i++) buffer[i] = "./"[i & 1];
    buffer[4094] = 0;
    SHOW(fd = open(buffer, O_RDONLY));
    SHOW(close(fd));
}

static void names(void) {
    SHOW(mkdir("dir", 0700));
    SHOW(mkdir("two/", 0777));
    show_stat("two", 0);
    SHOW(mkdir("no/such", 0700));
    SHOW(mkdir("plain/x", 0700));
    SHOW(mkdir("/", 0700));
    SHOW(mkdir(".", 0700));
    SHOW(rmdir("dir"));
    SHOW(rmdir("plain"));
    SHOW(rmdir("two/."));
    SHOW(rmdir("two/.."));
    SHOW(rmdir("/"));
    SHOW(unlink("dir"));
    SHOW(unlink("plain/"));
    SHOW(unlink("none"));
    SHOW(unlinkat(AT_FDCWD, "none", 0x10));
    SHOW(link("plain", "hard"));
    show_stat("hard", 0);
    SHOW(link("plain", "hard"));
    SHOW(link("dir", "hardir"));
    SHOW(link("link", "hardlink"));
    show_stat("hardlink", AT_SYMLINK_NOFOLLOW);
    SHOW(linkat(AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
    show_stat("followed", AT_SYMLINK_NOFOLLOW);
    SHOW(symlink("", "empty"));
    SHOW(symlink("x", "plain"));
    SHOW(symlink("any thing", "new/"));
    SHOW(readlink("link", buffer, 3));
    TEXT("%.3s", buffer);
    SHOW(readlink("link", buffer, 0));
    SHOW(readlink("plain", buffer, 100));
    SHOW(readlink("dirlink/", buffer, 100));
    SHOW(readlink("", buffer, 100));
    SHOW(rename("hard", "moved"));
    SHOW(rename("none", "moved"));
    SHOW(rename("plain", "dir"));
    SHOW(rename("two", "plain"));
    SHOW(rename("dir", "dir/below"));
    SHOW(rename("two", "dir"));
    SHOW(rename("two", "three/"));
    SHOW(rename("plain", "moved/"));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "plain", AT_FDCWD, "moved", 1));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "plain", AT_FDCWD, "dir", 2));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "plain", AT_FDCWD, "dir", 2));
    SHOW(syscall(SYS_renameat2, AT_FDCWD, "plain", AT_FDCWD, "x", 3));
    SHOW(rename(".", "x"));
    SHOW(rename("plain", ".."));
    SHOW(rmdir("three"));
    show_directory(".");
}

static void attributes(void) {
    SHOW(chmod("plain", 0604));
    show_stat("plain", 0);
    SHOW(chmod("link", 0640));
    show_stat("link", 0);
    SHOW(chmod("none", 0640));
    SHOW(fchmodat(AT_FDCWD, "link", 0600, AT_SYMLINK_NOFOLLOW));
    SHOW(chown("plain", -1, -1));
    SHOW(lchown("dangling", -1, -1));
    SHOW(chown("dangling", -1, -1));
    SHOW(access("plain", F_OK));
    SHOW(access("plain", X_OK));
    SHOW(access("plain", 8));
    SHOW(access("dangling", F_OK));
    SHOW(faccessat(AT_FDCWD, "dangling", F_OK, AT_SYMLINK_NOFOLLOW));
    SHOW(truncate("plain", 3));
    SHOW(truncate("plain", -3));
    SHOW(truncate("dir", 3));
    SHOW(truncate("fifo", 3));
    SHOW(truncate("none", 3));
    show_file("plain");
    struct timespec times[2] = {{1000, 5}, {0, UTIME_OMIT}};
    SHOW(utimensat(AT_FDCWD, "plain", times, 0));
    struct stat s;
    DO(stat("plain", &s));
    TEXT("%ld %ld", s.st_atim.tv_sec, s.st_atim.tv_nsec);
    struct utimbuf u = {77, 78};
    SHOW(utime("plain", &u));
    DO(stat("plain", &s));
    TEXT("%ld %ld", s.st_atim.tv_sec, s.st_mtim.tv_sec);
    struct timeval tv[2] = {{1, 2}, {3, 1000000}};
    SHOW(utimes("plain", tv));
    tv[1].tv_usec = 7;
    SHOW(utimes("plain", tv));
    DO(stat("plain", &s));
    TEXT("%ld %ld", s.st_atim.tv_nsec, s.st_mtim.tv_nsec);
    times[1].tv_nsec = 2000000000;
    SHOW(utimensat(AT_FDCWD, "plain", times, 0));
    times[1].tv_nsec = UTIME_NOW;
    SHOW(utimensat(AT_FDCWD, "link", times, AT_SYMLINK_NOFOLLOW));
    DO(lstat("link", &s));
    TEXT("%ld", s.st_atim.tv_sec);
    int fd = DO(open("plain", O_RDONLY));
    SHOW(futimens(fd, times));
    SHOW(fchmod(fd, 0666));
    SHOW(fchown(fd, -1, -1));
    SHOW(syscall(SYS_utimensat, 99, NULL, times, 0));
    struct statx x;
    SHOW(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x));
    TEXT("%o %ld", x.stx_mode, (long)x.stx_size);
    SHOW(statx(fd, "", 0, STATX_BASIC_STATS, &x));
    SHOW(statx(AT_FDCWD, "plain", 0, 0x80000000u, &x));
    SHOW(statx(AT_FDCWD, "dangling", AT_SYMLINK_NOFOLLOW, STATX_MODE, &x));
    SHOW(fstatat(AT_FDCWD, "plain", &s, 0x8000));
    SHOW(fstatat(AT_FDCWD, "", &s, AT_EMPTY_PATH));
    SHOW(S_ISDIR(s.st_mode));
    SHOW(fstatat(99, "plain", &s, 0));
    SHOW(fstat(99, &s));
    SHOW(stat("plain", (void *)8));
    struct statfs f;
    SHOW(statfs(".", &f));
    TEXT("%d", f.f_namelen == 255);
    SHOW(fstatfs(fd, &f));
    SHOW(statfs("none", &f));
    SHOW(statfs("/proc", &f));
    TEXT("%lx", (long)f.f_type);
    SHOW(close(fd));
    SHOW(umask(027));
    SHOW(umask(022));
}

static void directories(void) {
    char here[PATH_MAX], *base;
    DO((long)getcwd(here, sizeof here));
    base = strrchr(here, '/') + 1;
    SHOW(chdir("dirlink"));
    DO((long)getcwd(buffer, sizeof buffer));
    TEXT("%s", strstr(buffer, base) + strlen(base));
    SHOW(syscall(SYS_getcwd, buffer, 3));
    SHOW(access("../plain", F_OK));
    SHOW(chdir(".."));
    SHOW(chdir("plain"));
    SHOW(chdir("none"));
    int fd = DO(open("dir", O_RDONLY));
    SHOW(fchdir(fd));
    DO((long)getcwd(buffer, sizeof buffer));
    TEXT("%s", strstr(buffer, base) + strlen(base));
    SHOW(close(fd));
    SHOW(fchdir(fd));
    SHOW(fchdir(0));
    SHOW(chdir(here));
    SHOW(mkdir("gone", 0700));
    SHOW(chdir("gone"));
    SHOW(rmdir("../gone"));
    SHOW(syscall(SYS_getcwd, buffer, sizeof buffer));
    SHOW(open("x", O_CREAT | O_RDONLY, 0600));
    SHOW(chdir(here));
    DO(mkdir("many", 0700));
    for (int i = 0; i < 700; i++) {
        sprintf(buffer, "many/%d-a-name-that-fills-the-buffer-sooner-than-a-short-one-would", i);
        close(DO(open(buffer, O_CREAT | O_WRONLY, 0600)));
    }
    DIR *directory = opendir("many");
    int count = 0;
    while (readdir(directory)) count++;
    TEXT("%d", count);
    rewinddir(directory);
    while (readdir(directory)) count++;
    TEXT("%d", count);
    closedir(directory);
    fd = DO(open("many", O_RDONLY));
    SHOW(syscall(SYS_getdents64, fd, buffer, 10));
    SHOW(syscall(SYS_getdents64, fd, buffer, 200) > 0);
    SHOW(syscall(SYS_getdents64, fd, (void *)8, 200));
    SHOW(close(fd));
    fd = DO(open("plain", O_RDONLY));
    SHOW(syscall(SYS_getdents64, fd, buffer, 200));
    SHOW(close(fd));
    SHOW(syscall(SYS_getdents64, 99, buffer, 200));
    fd = DO(open("dir", O_RDONLY));
    long length = DO(syscall(SYS_getdents, fd, buffer, sizeof buffer));
    for (long at = 0; at < length; at += *(unsigned short *)(buffer + at + 16)) count += buffer[at + *(unsigned short *)(buffer + at + 16) - 1];
    TEXT("%d", count);
    SHOW(close(fd));
}

static void devices(void) {
    int fd;
    SHOW(fd = open("/dev/null", O_RDWR | O_TRUNC));
    SHOW(write(fd, "x", 1));
    SHOW(read(fd, buffer, 1));
    memset(buffer, 0, 200);
    SHOW(readlink("/proc/self/fd/3", buffer, 199) > 0);
    TEXT("%s", strrchr(buffer, '/'));
    struct stat s;
    SHOW(fstat(fd, &s));
    TEXT("%o %lx", s.st_mode & S_IFMT, (long)s.st_rdev);
    SHOW(close(fd));
    SHOW(fd = open("/dev/zero", O_RDONLY));
    SHOW(read(fd, buffer, 100));
    TEXT("%d", buffer[0] | buffer[99]);
    SHOW(close(fd));
    SHOW(fd = open("/dev/full", O_WRONLY));
    SHOW(write(fd, "x", 1));
    SHOW(close(fd));
    SHOW(fd = open("/dev/urandom", O_RDONLY));
    SHOW(read(fd, buffer, 100));
    SHOW(close(fd));
    SHOW(fd = open("/dev/stdout", O_WRONLY));
    SHOW(write(fd, "to stdout\n", 10));
    SHOW(close(fd));
    SHOW(open("/dev/fd/99", O_RDONLY));
    SHOW(open("/dev/null/x", O_RDONLY));
    SHOW(open("/dev/null", O_RDONLY | O_DIRECTORY));
    SHOW(open("/dev/null", O_RDONLY | O_CREAT | O_EXCL, 0600));
    put("again", "again and again");
    fd = DO(open("again", O_RDONLY));
    SHOW(read(fd, buffer, 6));
    sprintf(buffer, "/dev/fd/%d", fd);
    int second;
    SHOW(second = open(buffer, O_RDWR));
    SHOW(read(second, buffer, 5));
    TEXT("%.5s", buffer);
    SHOW(close(second));
    unlink("again");
    sprintf(buffer, "/proc/self/fd/%d", fd);
    SHOW(second = open(buffer, O_RDONLY));
    SHOW(read(second, buffer, 5));
    SHOW(close(second));
    SHOW(close(fd));
    fd = DO(open("dir", O_RDONLY));
    sprintf(buffer, "/proc/self/fd/%d/inside", fd);
    SHOW(access(buffer, F_OK));
    SHOW(access("/proc/self/cwd/plain", F_OK));
    SHOW(access("/proc/self/root/etc/passwd", F_OK));
    SHOW(close(fd));
    SHOW(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));
    show_directory("/proc/self/fd");
    SHOW(openat(3, "0", O_RDONLY | O_NOFOLLOW));
    SHOW(fstat(3, &s));
    TEXT("%o", s.st_mode);
    SHOW(chdir("/proc/self"));
    SHOW(access("status", R_OK));
    SHOW(close(3));
    SHOW(open("/proc/self/status", O_WRONLY | O_CREAT | O_EXCL));
    SHOW(unlink("/proc/self/status") == 0);
    SHOW(mkdir("/proc/x", 0700) == 0);
    SHOW(readlink("/proc/self/exe", buffer, sizeof buffer) > 0);
    SHOW(open("/proc/self/cmdline", O_RDONLY));
    SHOW(read(3, buffer, 1000) > 0);
    SHOW(lseek(3, 0, SEEK_SET));
    SHOW(fstat(3, &s));
    TEXT("%o %ld", s.st_mode, (long)s.st_size);
    SHOW(close(3));
}

int main(void) {
    umask(022);
    opening();
    names();
    attributes();
    directories();
    devices();
    return 0;
}
