// Cases: each states one thing about the system calls by its name, and checks it. A case must hold natively; what it shows
// besides (SHOW, TEXT) is compared between the native run and the ones in the virtual machine.
//
// A program runs its cases one after the other, each in a fresh directory: all, or those that its arguments name. What is
// left open or mapped by a case stays, so a case counts on nothing but what it makes itself.
#pragma once
#include "show.h"
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

struct case_ {
    const char *name;
    void (*body)(void);
};

#define CASE(title)                                                                                                       \
    static void case_##title(void);                                                                                       \
    static struct case_ entry_##title __attribute__((used, aligned(8), section("cases"))) = {#title, case_##title};       \
    static void case_##title(void)

extern struct case_ __start_cases[], __stop_cases[];

#define CHECK(condition)                                                                                                  \
    do {                                                                                                                  \
        errno = 0;                                                                                                        \
        if (!(condition)) {                                                                                               \
            printf("FAILED %d %s (%s)\n", __LINE__, #condition, errno ? strerrorname_np(errno) : "no error");             \
            fflush(stdout);                                                                                               \
        }                                                                                                                 \
    } while (0)

// The call fails, and with this error.
#define FAILS(expected, call)                                                                                             \
    do {                                                                                                                  \
        errno = 0;                                                                                                        \
        long result_ = (long)(call);                                                                                      \
        if (result_ != -1 || errno != (expected)) {                                                                       \
            printf("FAILED %d %s = %ld (%s, not %s)\n", __LINE__, #call, result_, errno ? strerrorname_np(errno) : "no error", \
                   strerrorname_np(expected));                                                                            \
            fflush(stdout);                                                                                               \
        }                                                                                                                 \
    } while (0)

#define PAGE 4096l

// Anonymous memory, readable and writable.
static inline char *pages(long count) {
    return (char *)DO(mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static inline void nap(long milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {
    }
}

static inline long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// The content of a file, ended by a NUL; NULL if it cannot be opened.
static inline char *content(const char *path) {
    static char buffer[1 << 17];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return NULL;
    long length = 0, step;
    while ((step = read(fd, buffer + length, sizeof buffer - 1 - length)) > 0) length += step;
    close(fd);
    buffer[length] = 0;
    return buffer;
}

int main(int count, char **names) {
    int top = DO(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (struct case_ *one = __start_cases; one < __stop_cases; one++) {
        int wanted = count == 1;
        for (int i = 1; i < count; i++) wanted |= strcmp(names[i], one->name) == 0;
        if (!wanted) continue;
        printf("== %s\n", one->name);
        fflush(stdout);
        DO(fchdir(top));
        DO(mkdir(one->name, 0755));
        DO(chdir(one->name));
        for (int number = 1; number < 64; number++) signal(number, SIG_DFL);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        alarm(10);
        one->body();
        alarm(0);
    }
    printf("== \n");
    fflush(stdout);
    _exit(0);
}
