// /proc, /sys, /dev: what runtimes read.
#include "case.h"
#include <pthread.h>
#include <sys/resource.h>

// The number behind a name in a file of lines, -1 if it is not there.
static long number(const char *path, const char *name) {
    char *text = content(path), *at = text ? strstr(text, name) : NULL;
    return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static int has(const char *path, const char *text) {
    char *whole = content(path);
    return whole && strstr(whole, text) != NULL;
}

CASE(status_tells_of_the_process) {
    CHECK(number("/proc/self/status", "\nPid:\t") == getpid());
    CHECK(number("/proc/self/status", "\nPPid:\t") == getppid());
    CHECK(number("/proc/self/status", "\nUid:\t") == getuid());
    CHECK(number("/proc/self/status", "\nThreads:\t") == 1);
    CHECK(number("/proc/self/status", "\nVmSize:\t") > 0 && number("/proc/self/status", "\nVmRSS:\t") > 0);
}

CASE(stat_tells_of_the_process) {
    long pid = -1, threads = -1;
    char name[64], state;
    char *text = content("/proc/self/stat");
    CHECK(text && sscanf(text, "%ld (%63[^)]) %c", &pid, name, &state) == 3);
    CHECK(pid == getpid() && state == 'R' && strcmp(name, "program") == 0);
    char *rest = strrchr(text, ')') + 2;
    for (int field = 3; field < 20; field++) rest = strchr(rest, ' ') + 1;
    threads = strtol(rest, NULL, 10);
    CHECK(threads == 1);
}

CASE(statm_counts_pages) {
    long size = 0, resident = 0;
    char *text = content("/proc/self/statm");
    CHECK(text && sscanf(text, "%ld %ld", &size, &resident) == 2 && size > 0 && resident > 0);
}

CASE(maps_lists_what_is_mapped) {
    char line[64], *at = pages(3);
    DO(mprotect(at + PAGE, PAGE, PROT_READ));
    DO(mprotect(at + 2 * PAGE, PAGE, PROT_NONE));
    snprintf(line, sizeof line, "%lx-%lx r--p 00000000 00:00 0", (long)at + PAGE, (long)at + 2 * PAGE);
    CHECK(has("/proc/self/maps", line));
    CHECK(has("/proc/self/maps", "[stack]") && has("/proc/self/maps", "[heap]"));
}

CASE(maps_names_files_with_offset_and_inode) {
    char line[200], where[4096];
    struct stat stat;
    int fd = DO(open("mapped file", O_RDWR | O_CREAT, 0600));
    DO(ftruncate(fd, 4 * PAGE));
    DO(fstat(fd, &stat));
    char *at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    DO(mprotect(at + PAGE, PAGE, PROT_READ | PROT_WRITE));
    DO((long)getcwd(where, sizeof where));
    snprintf(line, sizeof line, "%lx-%lx r--s 00001000", (long)at, (long)at + PAGE);
    CHECK(has("/proc/self/maps", line));
    snprintf(line, sizeof line, "%lx-%lx rw-s 00002000", (long)at + PAGE, (long)at + 2 * PAGE);
    CHECK(has("/proc/self/maps", line));
    snprintf(line, sizeof line, " %lu ", (unsigned long)stat.st_ino);
    CHECK(has("/proc/self/maps", line));
    strcat(where, "/mapped file\n");
    CHECK(has("/proc/self/maps", where));
}

CASE(maps_names_the_program) {
    char program[4096] = "";
    DO(readlink("/proc/self/exe", program, sizeof program - 2));
    CHECK(has("/proc/self/maps", strcat(program, "\n")));
}

CASE(maps_calls_shared_memory_by_its_name) {
    DO(mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CHECK(has("/proc/self/maps", "/dev/zero (deleted)"));
    int fd = DO(memfd_create("by its name", 0));
    DO(ftruncate(fd, PAGE));
    DO(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0));
    CHECK(has("/proc/self/maps", "/memfd:by its name (deleted)"));
}

CASE(smaps_has_the_same_mappings) {
    CHECK(has("/proc/self/smaps", "[stack]") && number("/proc/self/smaps", "\nSize:") > 0);
    CHECK(number("/proc/self/smaps_rollup", "\nRss:") > 0);
}

CASE(the_command_line_and_the_environment_are_there) {
    char *text = content("/proc/self/cmdline");
    CHECK(text && strstr(text, "program"));
    CHECK(content("/proc/self/environ") != NULL);
}

CASE(the_program_can_be_opened_again) {
    char magic[4];
    int fd = open("/proc/self/exe", O_RDONLY);
    CHECK(fd >= 0 && read(fd, magic, 4) == 4 && memcmp(magic, "\177ELF", 4) == 0);
}

CASE(descriptors_are_links_to_files) {
    char path[64], shown[4096] = "", where[4096];
    put("file", "x");
    int fd = DO(open("file", O_RDONLY));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DO((long)getcwd(where, sizeof where));
    CHECK(readlink(path, shown, sizeof shown) > 0 && strcmp(shown, strcat(where, "/file")) == 0);
    CHECK(content(path) && strcmp(content(path), "x") == 0);
    unlink("file");
    memset(shown, 0, sizeof shown);
    CHECK(readlink(path, shown, sizeof shown) > 0 && strstr(shown, "/file (deleted)"));
    FAILS(ENOENT, readlink("/proc/self/fd/999", shown, sizeof shown));
}

CASE(fdinfo_tells_position_and_flags) {
    char path[64];
    put("file", "abcdef");
    int fd = DO(open("file", O_RDONLY | O_CLOEXEC));
    DO(lseek(fd, 4, SEEK_SET));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    CHECK(number(path, "pos:\t") == 4);
    CHECK(has(path, "flags:\t02") && has(path, "mnt_id:"));
}

CASE(limits_are_those_of_getrlimit) {
    struct rlimit limit;
    char line[100];
    DO(getrlimit(RLIMIT_NOFILE, &limit));
    snprintf(line, sizeof line, "Max open files            %-20lu %-20lu files", limit.rlim_cur, limit.rlim_max);
    CHECK(has("/proc/self/limits", line));
    DO(getrlimit(RLIMIT_STACK, &limit));
    snprintf(line, sizeof line, "Max stack size            %-20lu ", limit.rlim_cur);
    CHECK(has("/proc/self/limits", line));
}

CASE(threads_are_listed) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", gettid());
    CHECK(number(path, "\nPid:\t") == gettid());
    CHECK(has("/proc/thread-self/stat", "(program)"));
}

CASE(mounts_are_told_in_both_forms) {
    CHECK(has("/proc/self/mounts", " / ") && has("/proc/mounts", " /proc proc "));
    CHECK(has("/proc/self/mountinfo", " / / ") && has("/proc/self/mountinfo", " - proc "));
}

CASE(the_group_and_its_score_are_told) {
    CHECK(has("/proc/self/cgroup", "::/"));
    CHECK(has("/proc/self/oom_score_adj", "0\n"));
    CHECK(has("/proc/self/comm", "program\n"));
}

CASE(processors_are_listed) {
    CHECK(has("/proc/cpuinfo", "processor\t: 0\n") && has("/proc/cpuinfo", "flags\t\t:") && has("/proc/cpuinfo", "model name\t:"));
    CHECK(has("/proc/stat", "cpu0 ") && has("/proc/stat", "\nbtime ") && has("/proc/stat", "\nctxt "));
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1 && sysconf(_SC_NPROCESSORS_CONF) >= 1);
    CHECK(content("/sys/devices/system/cpu/online")[0] == '0');
    CHECK(content("/sys/devices/system/cpu/possible")[0] == '0');
    CHECK(content("/sys/devices/system/cpu/present")[0] == '0');
}

CASE(memory_is_told) {
    CHECK(number("/proc/meminfo", "MemTotal:") > 0);
    CHECK(number("/proc/meminfo", "\nMemFree:") > 0 && number("/proc/meminfo", "\nMemAvailable:") > 0);
    CHECK(sysconf(_SC_PHYS_PAGES) > 0 && sysconf(_SC_PAGESIZE) == 4096);
}

CASE(times_and_loads_are_told) {
    double a = 0, b = 0;
    CHECK(sscanf(content("/proc/uptime"), "%lf %lf", &a, &b) == 2 && a > 0);
    CHECK(sscanf(content("/proc/loadavg"), "%lf %lf", &a, &b) == 2);
    CHECK(has("/proc/version", "Linux version "));
    CHECK(has("/proc/filesystems", "nodev\tproc\n") && has("/proc/filesystems", "nodev\ttmpfs\n"));
}

CASE(kernel_settings_are_told) {
    CHECK(strcmp(content("/proc/sys/kernel/ostype"), "Linux\n") == 0);
    CHECK(content("/proc/sys/kernel/osrelease") && content("/proc/sys/kernel/hostname") && content("/proc/sys/kernel/pid_max"));
    CHECK(content("/proc/sys/vm/overcommit_memory") && content("/proc/sys/vm/max_map_count") && content("/proc/sys/fs/file-max"));
    CHECK(content("/proc/sys/kernel/random/boot_id") && strlen(content("/proc/sys/kernel/random/uuid")) == 37);
    CHECK(content("/proc/sys/kernel/cap_last_cap") && content("/proc/sys/fs/pipe-max-size") && content("/proc/sys/kernel/threads-max"));
}

CASE(proc_cannot_be_written) {
    FAILS(ENOENT, open("/proc/nothing", O_RDONLY));
    FAILS(ENOTDIR, open("/proc/version/x", O_RDONLY));
    CHECK(mkdir("/proc/new", 0700) == -1 && unlink("/proc/version") == -1);
}

CASE(a_file_of_proc_can_be_read_in_pieces) {
    char whole[4096], piece[4096];
    int fd = DO(open("/proc/version", O_RDONLY));
    long length = DO(read(fd, whole, sizeof whole)), at = 0;
    DO(lseek(fd, 0, SEEK_SET));
    while (at < length) at += DO(read(fd, piece + at, 7));
    CHECK(memcmp(whole, piece, length) == 0);
    CHECK(pread(fd, piece, 5, 3) == 5 && memcmp(whole + 3, piece, 5) == 0);
}

CASE(the_own_numbers_are_links) {
    char shown[64] = "", wanted[64];
    snprintf(wanted, sizeof wanted, "%d", getpid());
    CHECK(readlink("/proc/self", shown, sizeof shown) > 0 && strcmp(shown, wanted) == 0);
    snprintf(wanted, sizeof wanted, "%d/task/%d", getpid(), gettid());
    CHECK(readlink("/proc/thread-self", shown, sizeof shown) > 0 && strcmp(shown, wanted) == 0);
}
