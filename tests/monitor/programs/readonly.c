// A read-only image with a private /tmp: `compare` is the same under chroot with real mounts, `explore` looks for what must
// not be there.
#include "show.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/time.h>

static char buffer[4096];

static void compare(void) {
    int fd;
    umask(022);
    SHOW(open("/etc/file", O_RDONLY | O_TRUNC));
    SHOW(open("/etc/file", O_WRONLY));
    SHOW(open("/etc/file", O_RDWR | O_CREAT, 0600));
    SHOW(open("/etc/file", O_RDONLY | O_CREAT | O_EXCL, 0600));
    SHOW(open("/etc/new", O_RDONLY | O_CREAT, 0600));
    SHOW(open("/etc/new/", O_RDONLY | O_CREAT, 0600));
    SHOW(open("/none/new", O_RDONLY | O_CREAT, 0600));
    SHOW(open("/etc", O_WRONLY));
    SHOW(open("/etc", O_TMPFILE | O_RDWR, 0600));
    SHOW(fd = open("/etc/file", O_RDONLY | O_CREAT, 0600));
    SHOW(read(fd, buffer, 100));
    SHOW(fchmod(fd, 0600));
    SHOW(fchown(fd, 0, 0));
    SHOW(futimes(fd, NULL));
    SHOW(ftruncate(fd, 0));
    SHOW(flock(fd, LOCK_EX));
    SHOW(flock(fd, LOCK_UN));
    sprintf(buffer, "/proc/self/fd/%d", fd);
    SHOW(open(buffer, O_RDWR));
    SHOW(linkat(AT_FDCWD, buffer, AT_FDCWD, "/tmp/linked", AT_SYMLINK_FOLLOW));
    SHOW(close(fd));
    SHOW(fd = open("/etc/fifo", O_RDONLY | O_NONBLOCK));
    SHOW(close(fd));
    SHOW(mkdir("/etc/new", 0700));
    SHOW(mkdir("/etc/file", 0700));
    SHOW(mkdir("/tmp", 0700));
    SHOW(mkdir("/proc", 0700));
    SHOW(rmdir("/empty"));
    SHOW(rmdir("/none"));
    SHOW(rmdir("/tmp") < 0);
    SHOW(unlink("/etc/file"));
    SHOW(unlink("/etc/none"));
    SHOW(symlink("x", "/etc/new"));
    SHOW(link("/etc/file", "/etc/new"));
    SHOW(link("/etc/file", "/tmp/new"));
    SHOW(rename("/etc/file", "/etc/new"));
    SHOW(rename("/etc/file", "/tmp/new"));
    SHOW(mkfifo("/etc/new", 0600));
    SHOW(chmod("/etc/file", 0600));
    SHOW(chmod("/etc/none", 0600));
    SHOW(chown("/etc/file", 0, 0));
    SHOW(utimes("/etc/file", NULL));
    SHOW(truncate("/etc/file", 0));
    SHOW(access("/etc/file", W_OK));
    SHOW(access("/etc/file", R_OK));
    SHOW(access("/etc", W_OK));
    SHOW(access("/etc/fifo", W_OK));
    struct statvfs v;
    SHOW(statvfs("/etc", &v));
    TEXT("%d", (v.f_flag & ST_RDONLY) != 0);
    SHOW(statvfs("/tmp", &v));
    TEXT("%d", (v.f_flag & ST_RDONLY) != 0);

    SHOW(access("/tmp/shadowed", F_OK));
    SHOW(access("/var/tmp/shadowed", F_OK));
    SHOW(fd = open("/var/tmp/one", O_RDWR | O_CREAT | O_EXCL, 0644));
    SHOW(write(fd, "one", 3));
    SHOW(close(fd));
    SHOW(rename("/tmp/one", "/var/tmp/two"));
    SHOW(access("/tmp/two", W_OK));
    SHOW(fd = open("/etc/temporary", O_RDWR | O_CREAT, 0600));
    SHOW(write(fd, "made", 4));
    SHOW(close(fd));
    SHOW(open("/etc/temporary", O_RDWR | O_CREAT | O_EXCL, 0600));
    SHOW(symlink("/etc/file", "/tmp/back"));
    SHOW(symlink("../lib/file", "/tmp/relative"));
    SHOW(readlink("/tmp/back", buffer, 100));
    show_file("/tmp/back");
    show_file("/tmp/relative");
    show_file("/tmp/../etc/file");
    show_file("/var/tmp/../etc/file");
    show_file("/var/run/../lib/file");
    show_file("/../../lib/../lib/file");
    SHOW(open("/tmp/back", O_WRONLY));
    SHOW(open("/etc/loop", O_RDONLY));
    SHOW(chdir("/var/tmp"));
    SHOW(syscall(SYS_getcwd, buffer, sizeof buffer));
    TEXT("%s", buffer);
    SHOW(access("two", F_OK));
    SHOW(access("../etc/file", F_OK));
    SHOW(mkdir("below", 0777));
    SHOW(chdir("below/.."));
    SHOW(syscall(SYS_getcwd, buffer, sizeof buffer));
    TEXT("%s", buffer);
    SHOW(chdir("below"));
    SHOW(mkdir("../../new", 0700));
    SHOW(chdir("../../lib"));
    SHOW(syscall(SYS_getcwd, buffer, sizeof buffer));
    TEXT("%s", buffer);
    SHOW(rmdir("/tmp/below"));
    SHOW(fd = open("/tmp", O_RDONLY));
    SHOW(openat(fd, "two", O_RDONLY | O_CREAT | O_EXCL, 0600));
    SHOW(unlinkat(fd, "../etc/file", 0));
    SHOW(unlinkat(fd, "two", 0));
    SHOW(close(fd));
    SHOW(link("/tmp/made", "/tmp/again"));
    SHOW(link("/tmp/made", "/etc/again"));
    struct stat s;
    SHOW(stat("/tmp", &s));
    TEXT("%o", s.st_mode);
    SHOW(stat("/etc/temporary", &s));
    TEXT("%o %ld", s.st_mode, (long)s.st_nlink);
}

static void must_fail(const char *path) {
    int flags[] = {O_RDONLY, O_RDWR, O_PATH, O_RDONLY | O_DIRECTORY};
    for (int i = 0; i < 4; i++) {
        int fd = open(path, flags[i]);
        if (fd >= 0) printf("LEAK: %s can be opened with %x\n", path, flags[i]);
    }
    struct stat s;
    if (stat(path, &s) == 0) printf("LEAK: %s has a stat\n", path);
}

static void value(const char *name, const char *path) {
    int fd = open(path, O_RDONLY);
    long length = fd < 0 ? 0 : read(fd, buffer, sizeof buffer - 1);
    buffer[length < 0 ? 0 : length] = 0;
    printf("%s: %s", name, buffer);
    if (fd >= 0) close(fd);
}

static void explore(void) {
    const char *paths[] = {
        "/proc/self/mem", "/proc/1/root", "/proc/1/mem", "/proc/self/map_files", "/proc/self/pagemap", "/proc/kcore", "/proc/kallsyms",
        "/proc/sysrq-trigger", "/proc/self/task/1/mem", "/proc/thread-self/mem", "/proc/self/ns", "/proc/self/ns/mnt", "/proc/keys",
        "/dev/kvm", "/dev/mem", "/dev/cuse", "/dev/fuse", "/dev/vda", "/dev/sda", "/dev/net/tun", "/dev/ptmx", "/dev/tty0", "/dev/loop0",
        "/sys/kernel/security", "/sys/fs/bpf", "/sys/devices/virtual", "/root", "/home", "/var/lib", "/etc/shadow", "/etc/passwd",
        "/../../../../etc/passwd", "/tmp/../../../etc/passwd", "/proc/self/cwd/../../../etc/passwd", "/proc/self/root/../etc/passwd",
        "/proc/self/fd/2048", "/proc/self/fd/2049", "/proc/self/fd/2050", "/proc/self/fd/2051/etc/passwd", "/dev/fd/2050", "/proc/self/fdinfo/2050",
        NULL,
    };
    for (int i = 0; paths[i]; i++) must_fail(paths[i]);
    for (int i = 3; i < 5000; i++) {
        struct stat s;
        if (fstat(i, &s) == 0) printf("LEAK: descriptor %d is open\n", i);
        if (openat(i, "etc/passwd", O_RDONLY) >= 0) printf("LEAK: descriptor %d is a directory\n", i);
        if (fchdir(i) == 0) printf("LEAK: descriptor %d can be entered\n", i);
        if (dup(i) >= 0) printf("LEAK: descriptor %d can be copied\n", i);
    }
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    while ((entry = readdir(directory)))
        if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid()) printf("LEAK: process %s is seen\n", entry->d_name);
    closedir(directory);
    directory = opendir("/proc/self/fd");
    while ((entry = readdir(directory)))
        if (atoi(entry->d_name) > 3) printf("LEAK: descriptor %s is seen\n", entry->d_name);
    closedir(directory);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(buffer, sizeof buffer, maps)) {
        char *name = strchr(buffer, '/');
        if (name && strncmp(name, "/readonly\n", 10)) printf("LEAK: mapping %s", buffer);
        if (strtoul(buffer, NULL, 16) > 1ul << 44) printf("LEAK: the monitor's mapping %s", buffer);
    }
    fclose(maps);
    value("memory", "/sys/fs/cgroup/memory.max");
    int processors = sysconf(_SC_NPROCESSORS_ONLN);
    printf("processors: %d\nmounts:", processors);
    FILE *mounts = fopen("/proc/self/mounts", "r");
    while (fgets(buffer, sizeof buffer, mounts)) {
        strtok(buffer, " ");
        printf(" %s", strtok(NULL, " "));
    }
    printf("\n");
    fclose(mounts);
    if (mknod("/tmp/null", S_IFCHR | 0666, 0x103) == 0) printf("LEAK: a device can be made\n");
    if (syscall(SYS_chroot, "/tmp") == 0) printf("LEAK: chroot\n");
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1 && !strcmp(words[1], "compare")) compare();
    else explore();
    return 0;
}
