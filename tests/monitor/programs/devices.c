// Tries to change the attributes of every descriptor and device that a function has; prints what each try gave.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

static void told(const char *what, int place, long result) {
    printf("%s %d %s\n", what, place, result < 0 ? strerrorname_np(errno) : "CHANGED");
}

int main(void) {
    const char *paths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/proc/self/fd/0", "/dev/fd/0", "/dev/stdin", "/proc/self/exe"};
    struct timespec times[2] = {{1, 0}, {1, 0}};
    struct timeval old[2] = {{1, 0}, {1, 0}};
    int fds[8] = {0};
    fds[1] = open("/dev/null", O_RDWR);
    fds[2] = open("/dev/zero", O_RDWR);
    fds[3] = open("/dev/null", O_PATH);
    fds[4] = open("/dev", O_RDONLY | O_DIRECTORY);
    fds[5] = open("/proc/self/exe", O_RDONLY);
    fds[6] = open("/", O_RDONLY | O_DIRECTORY);
    fds[7] = dup(0);
    for (int i = 0; i < 8; i++) {
        int fd = fds[i];
        told("fchmod", i, fchmod(fd, 0600));
        told("fchown", i, fchown(fd, 1, 1));
        told("futimens", i, futimens(fd, times));
        told("fsetxattr", i, fsetxattr(fd, "user.x", "y", 1, 0));
        told("fremovexattr", i, fremovexattr(fd, "user.x"));
        told("utimensat-null", i, syscall(SYS_utimensat, fd, NULL, times, 0));
        told("fchownat-empty", i, fchownat(fd, "", 1, 1, AT_EMPTY_PATH));
        told("utimensat-empty", i, syscall(SYS_utimensat, fd, "", times, AT_EMPTY_PATH));
        told("fchmodat2-empty", i, syscall(452, fd, "", 0600, AT_EMPTY_PATH));
        told("futimesat", i, syscall(SYS_futimesat, fd, NULL, old));
        told("linkat-empty", i, linkat(fd, "", AT_FDCWD, "/tmp/link", AT_EMPTY_PATH));
        told("ftruncate", i, ftruncate(fd, 0));
    }
    for (int i = 0; i < 8; i++) {
        const char *path = paths[i];
        told("chmod", i, chmod(path, 0600));
        told("chown", i, chown(path, 1, 1));
        told("lchown", i, lchown(path, 1, 1));
        told("utimensat", i, utimensat(AT_FDCWD, path, times, 0));
        told("utimes", i, utimes(path, old));
        told("setxattr", i, setxattr(path, "user.x", "y", 1, 0));
        told("unlink", i, unlink(path));
        told("rename", i, rename(path, "/tmp/moved"));
        told("link", i, link(path, "/tmp/linked"));
        told("truncate", i, truncate(path, 0));
    }
    return 0;
}
