// Calls of many kinds, for the trace; the marks are what the test reads between.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void handler(int signal)
{
    (void)signal;
}

// Plain system calls: what a C library makes of its functions differs.
#define CALL(name, ...) syscall(SYS_##name, ##__VA_ARGS__)

static void waits(pid_t child)
{
    int status;
    while (CALL(wait4, child, &status, 0, NULL) < 0 && errno == EINTR)
        ;
}

int main(int count, char **words)
{
    char buffer[64];
    if (count > 1 && strcmp(words[1], "again") == 0)
        CALL(exit_group, 7);
    CALL(write, -1, "begin", 5);
    int fd = (int)CALL(openat, AT_FDCWD, "words.txt", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    CALL(write, fd, "one\t\"two\"\n and more than are ever shown", 39);
    CALL(lseek, fd, 0, SEEK_SET);
    CALL(read, fd, buffer, 9);
    CALL(pread64, fd, buffer, 64, 3);
    CALL(fcntl, fd, F_GETFL);
    CALL(fcntl, fd, F_SETFD, FD_CLOEXEC);
    CALL(openat, AT_FDCWD, "no/such", O_RDONLY | O_DIRECTORY);
    CALL(faccessat, fd, "words.txt", R_OK | W_OK);
    CALL(umask, 077);
    CALL(mkdirat, AT_FDCWD, "made", 0700);
    CALL(unlinkat, AT_FDCWD, "made", AT_REMOVEDIR);
    void *map = (void *)CALL(mmap, NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CALL(mprotect, map, 4096, PROT_NONE);
    CALL(madvise, map, 4096, MADV_DONTNEED);
    CALL(munmap, map, 8192);
    struct iovec list[2] = {{"ab", 2}, {"c\0001", 3}};
    CALL(writev, fd, list, 2);
    int ends[2];
    CALL(pipe2, ends, O_CLOEXEC | O_NONBLOCK);
    CALL(read, ends[0], buffer, 1);
    CALL(close, ends[1]);
    int outside = (int)CALL(socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in host = {AF_INET, htons(4321), {htonl(INADDR_LOOPBACK)}, {0}};
    CALL(bind, outside, &host, sizeof host);
    socklen_t length = sizeof host;
    CALL(getsockname, outside, &host, &length);
    int inside = (int)CALL(socket, AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un file = {AF_UNIX, "no/socket"};
    CALL(connect, inside, &file, sizeof file);
    int set = (int)CALL(epoll_create1, EPOLL_CLOEXEC);
    struct epoll_event event = {EPOLLIN | EPOLLET, {.u64 = 5}};
    CALL(epoll_ctl, set, EPOLL_CTL_ADD, ends[0], &event);
    struct timespec brief = {0, 1000};
    CALL(clock_nanosleep, CLOCK_MONOTONIC, 0, &brief, NULL);
    int word = 1;
    CALL(futex, &word, FUTEX_WAIT_PRIVATE, 2, &brief);
    CALL(futex, &word, FUTEX_WAKE_PRIVATE, 1);
    unsigned long mask = 1UL << (SIGUSR2 - 1);
    CALL(rt_sigprocmask, SIG_BLOCK, &mask, NULL, 8);
    signal(SIGUSR1, handler);
    CALL(kill, getpid(), SIGUSR1);
    CALL(rt_sigprocmask, SIG_UNBLOCK, &mask, NULL, 8);
    CALL(io_uring_setup, 1, NULL);
    CALL(close, -1);
    pid_t child = (pid_t)CALL(fork);
    if (child == 0) {
        char *again[] = {words[0], "again", NULL}, *none[] = {"A=1", NULL};
        CALL(execve, "/no/program", again, none);
        CALL(execve, words[0], again, none);
    }
    waits(child);
    child = (pid_t)CALL(fork);
    if (child == 0)
        *(volatile int *)0x10 = 1;
    waits(child);
    child = (pid_t)CALL(fork);
    if (child == 0)
        for (;;)
            CALL(pause);
    CALL(kill, child, SIGTERM);
    waits(child);
    CALL(exit_group, 3);
}
