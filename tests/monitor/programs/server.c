// A server with one behaviour a path, for the tests of `serve`. Static, no libc start-up beyond what is needed.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int counter, quiet;

static void answer(int connection, const char *body) {
    char text[8192];
    int length = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
    if (write(connection, text, length) != length) _exit(9);
}

// Gives the errors that hostile system calls get.
static void hostile(char *out, size_t room) {
    long number[] = {-10, 400, 1000000000, 9999};
    int at = 0;
    for (int i = 0; i < 4; i++) {
        errno = 0;
        syscall(number[i], 0, 0, 0);
        at += snprintf(out + at, room - at, "%d ", errno);
    }
    int pipes[2];
    if (pipe(pipes)) _exit(8);
    // The monitor's low area, its own addresses, the end of the window, an overflow.
    unsigned long bad[] = {0x20000, 0x23000, 0x100000, 0x100000000000ul, 0x100000020000ul, (64ul << 30) - 1, 0x7ffffffff000ul, ~0ul};
    for (int i = 0; i < 8; i++) {
        errno = 0;
        if (syscall(SYS_write, pipes[1], bad[i], 16) >= 0) errno = -1;
        at += snprintf(out + at, room - at, "%d ", errno);
    }
    // Descriptors of the monitor.
    int closed = 0;
    for (int fd = 2048; fd < 2300; fd++) closed += close(fd) == 0 || dup2(1, fd) == fd;
    at += snprintf(out + at, room - at, "closed %d ", closed);
    errno = 0;
    munmap((void *)0x23000, 4096);
    at += snprintf(out + at, room - at, "munmap %d ", errno);
    errno = 0;
    mmap((void *)0x23000, 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    at += snprintf(out + at, room - at, "mmap %d ", errno);
    errno = 0;
    syscall(SYS_ptrace, 0, 0, 0, 0);
    at += snprintf(out + at, room - at, "ptrace %d ", errno);
    errno = 0;
    open("/proc/self/mem", O_RDWR);
    at += snprintf(out + at, room - at, "mem %d ", errno);
    errno = 0;
    open("/etc/shadow", O_RDONLY);
    at += snprintf(out + at, room - at, "shadow %d ", errno);
    errno = 0;
    open("/new-file", O_WRONLY | O_CREAT, 0600);
    at += snprintf(out + at, room - at, "write %d", errno);
}

static void serve(int connection) {
    char request[65536], body[8192];
    ssize_t length = 0;
    while (length < (ssize_t)sizeof request - 1) {
        ssize_t step = read(connection, request + length, sizeof request - 1 - length);
        if (step <= 0) break;
        length += step;
        request[length] = 0;
        if (strstr(request, "\r\n\r\n")) break;
    }
    char path[256] = "";
    sscanf(request, "%*s %255s", path);
    counter++;
    if (quiet) return;
    if (!strcmp(path, "/")) {
        snprintf(body, sizeof body, "%d", counter);
        answer(connection, body);
    } else if (!strcmp(path, "/crash")) {
        *(volatile int *)0x1234 = 1;
    } else if (!strcmp(path, "/low")) {
        *(volatile long *)0x20000 = 1;  // the descriptor table
    } else if (!strcmp(path, "/stub")) {
        *(volatile long *)0x23000 = 1;  // the system call stub
    } else if (!strcmp(path, "/tables")) {
        *(volatile long *)(128ul << 30) = 1;  // where the page tables are, physically
    } else if (!strcmp(path, "/jump")) {
        ((void (*)(void))0x23002)();  // the stub's iretq
    } else if (!strcmp(path, "/port")) {
        __asm__ volatile("outb %al, $0x99");
    } else if (!strcmp(path, "/exit")) {
        _exit(3);
    } else if (!strcmp(path, "/raise")) {
        raise(SIGSEGV);
    } else if (!strcmp(path, "/abort")) {
        abort();
    } else if (!strcmp(path, "/spin")) {
        for (;;) __asm__ volatile("");
    } else if (!strcmp(path, "/sleep")) {
        sleep(1000000);
    } else if (!strcmp(path, "/silent")) {
    } else if (!strcmp(path, "/half")) {
        const char *half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
        if (write(connection, half, strlen(half)) < 0) _exit(9);
    } else if (!strcmp(path, "/linger")) {
        answer(connection, "done");
        sleep(1000000);
    } else if (!strcmp(path, "/noise")) {
        memset(request, 'x', sizeof request);
        request[sizeof request - 1] = '\n';
        for (long i = 0; i < (1l << 30) / (long)sizeof request; i++)
            if (write(2, request, sizeof request) < 0) _exit(9);
        answer(connection, "quiet");
    } else if (!strcmp(path, "/memory")) {
        long got = 0;
        for (char *at; (at = mmap(0, 16 << 20, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED; got += 16)
            for (long i = 0; i < 16 << 20; i += 4096) at[i] = 1;
        snprintf(body, sizeof body, "%ld %d", got, errno);
        answer(connection, body);
    } else if (!strcmp(path, "/hostile")) {
        hostile(body, sizeof body);
        answer(connection, body);
    } else if (!strcmp(path, "/random")) {
        unsigned long value;
        if (getrandom(&value, sizeof value, 0) != sizeof value) _exit(9);
        snprintf(body, sizeof body, "%lx", value);
        answer(connection, body);
    } else if (!strcmp(path, "/files")) {
        // A private /tmp: nobody else's file, room for one's own.
        int there = access("/tmp/mark", F_OK) == 0;
        int fd = open("/tmp/mark", O_WRONLY | O_CREAT, 0600);
        snprintf(body, sizeof body, "%d %d", there, fd >= 0 && write(fd, "x", 1) == 1);
        answer(connection, body);
    } else {
        answer(connection, "?");
    }
    close(connection);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "accept";
    quiet = !strcmp(mode, "silent");
    if (!strcmp(mode, "exit")) {
        fprintf(stderr, "cannot start: no configuration\n");
        return 4;
    }
    if (!strcmp(mode, "never")) {
        fprintf(stderr, "still thinking\n");
        for (;;) pause();
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    if (!strcmp(mode, "elsewhere")) address.sin_port = htons(9999);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    if (!strcmp(mode, "tmp")) {
        int fd = open("/tmp/left", O_WRONLY | O_CREAT, 0600);
        if (fd < 0) return 6;
        close(fd);
    }
    if (!strcmp(mode, "alarm")) alarm(1000);
    if (!strcmp(mode, "open") && open("/data", O_RDONLY) < 0) return 6;
    if (!strcmp(mode, "poll")) {
        struct pollfd wait = {listener, POLLIN, 0};
        while (poll(&wait, 1, 500) <= 0) {}
    }
    if (!strcmp(mode, "epoll")) {
        int set = epoll_create1(0);
        struct epoll_event event = {EPOLLIN, {.fd = listener}};
        epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
        fcntl(listener, F_SETFL, O_NONBLOCK);
        if (accept(listener, 0, 0) != -1 || errno != EAGAIN) return 7;
        while (epoll_wait(set, &event, 1, 1000) <= 0) {}
    }
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) return 10;
        serve(connection);
    }
}
