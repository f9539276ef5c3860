// For programs whose output is compared between a native run and one in the virtual machine: every call is shown with its
// result and the name of its error.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SHOW(call)                                                                                         \
    do {                                                                                                   \
        errno = 0;                                                                                         \
        long result_ = (long)(call);                                                                       \
        printf("%4d %s = %ld %s\n", __LINE__, #call, result_, result_ == -1 ? strerrorname_np(errno) : ""); \
        fflush(stdout);                                                                                    \
    } while (0)

// A setting up that must succeed.
#define DO(call)                                                                          \
    ({                                                                                    \
        long result_ = (long)(call);                                                      \
        if (result_ == -1) {                                                              \
            printf("%4d %s: %s\n", __LINE__, #call, strerrorname_np(errno));              \
            exit(99);                                                                     \
        }                                                                                 \
        result_;                                                                          \
    })

#define TEXT(...)             \
    do {                      \
        printf("%4d ", __LINE__); \
        printf(__VA_ARGS__);  \
        printf("\n");         \
        fflush(stdout);       \
    } while (0)

static inline void put(const char *name, const char *content) {
    int fd = DO(open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    DO(write(fd, content, strlen(content)));
    close(fd);
}

static inline void show_file(const char *name) {
    char buffer[4096];
    int fd = open(name, O_RDONLY);
    long length = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
    printf("     %s: %.*s\n", name, length < 0 ? 0 : (int)length, buffer);
    if (fd >= 0) close(fd);
}
