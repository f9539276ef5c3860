// A second thread changes an argument in memory while the first makes calls with it: `flips CALLS FORBIDDEN SOCKET`, where
// FORBIDDEN is the path of a file of the host and SOCKET of one of its sockets, neither of which the guest has.
//
// Shows for each kind how many calls there were and how many of them did what none may.
#include "show.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

static long calls;
static _Atomic int over;
static char good[4096], bad[4096];

// Two states of a block of memory, written in turn without end.
struct flip {
    volatile char *at;
    const char *one, *other;
    long size;
};

// By words where it can be, so that a pointer is one or the other.
static void write_over(struct flip *flip, const char *content) {
    long i = 0;
    if ((long)flip->at % 8 == 0 && flip->size % 8 == 0)
        for (; i < flip->size; i += 8) *(volatile long *)(flip->at + i) = *(const long *)(content + i);
    for (; i < flip->size; i++) flip->at[i] = content[i];
}

static void *flip(void *argument) {
    struct flip *flip = argument;
    while (!over) {
        write_over(flip, flip->one);
        write_over(flip, flip->other);
    }
    return NULL;
}

#define WHILE_FLIPPING(memory, first, second, length, ...)                         \
    do {                                                                           \
        struct flip flip_ = {(char *)(memory), (char *)(first), (char *)(second), length}; \
        pthread_t thread_;                                                         \
        over = 0;                                                                  \
        pthread_create(&thread_, NULL, flip, &flip_);                              \
        for (long i = 0; i < calls; i++) { __VA_ARGS__; }                          \
        over = 1;                                                                  \
        pthread_join(thread_, NULL);                                               \
    } while (0)

static void paths(const char *forbidden) {
    static char path[4096];
    long wrong = 0, opened = 0;
    snprintf(good, sizeof good, "/tmp/own");
    put(good, "own");
    // Also by way of the guest's own root, and up from it.
    const char *const ways[] = {"%s", "/proc/self/root%s", "/../../../../../..%s", "/tmp/../../../../../..%s"};
    long all = calls;
    calls /= 4;
    for (int way = 0; way < 4; way++) {
        snprintf(bad, sizeof bad, ways[way], forbidden);
        long size = strlen(bad) > strlen(good) ? strlen(bad) + 1 : strlen(good) + 1;
        WHILE_FLIPPING(path, good, bad, size, {
            char text[16] = "";
            struct stat about;
            int fd = open(path, O_RDONLY);
            if (fd < 0) {
                // The host's file has eleven bytes.
                if (stat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_size == 11) wrong++;
                continue;
            }
            opened++;
            // What is half one path and half the other may be a directory.
            if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && (read(fd, text, sizeof text) != 3 || memcmp(text, "own", 3) != 0)) wrong++;
            close(fd);
        });
    }
    calls = all;
    printf("paths: %ld calls, %ld wrong\n", all, wrong);
    printf("%s\n", opened > 0 ? "some were opened" : "none was opened");
}

static void vectors(void) {
    static struct iovec vector __attribute__((aligned(16))), right = {good, 64}, forbidden[] = {{(void *)0x20000, 64}, {(void *)0x100000020000, 64}, {(void *)(64l << 30), 64}, {good, ~0ul}, {(void *)0x1fffe0, 64}};
    long wrong = 0, all = calls;
    int ends[2];
    DO(pipe2(ends, O_NONBLOCK));
    memset(good, 'v', 64);
    calls /= 5;
    for (int i = 0; i < 5; i++)
        WHILE_FLIPPING(&vector, &right, forbidden + i, sizeof vector, {
            char text[4096];
            long written = writev(ends[1], &vector, 1);
            if (written <= 0) continue;
            long there = read(ends[0], text, sizeof text);
            for (long at = 0; at < there; at++)
                // Around the buffer is memory of the program's own, all zero.
                if (text[at] != 'v' && text[at] != 0) wrong++;
        });
    calls = all;
    printf("vectors: %ld calls, %ld wrong\n", all, wrong);
}

static void addresses(const char *forbidden) {
    static struct sockaddr_un address, own = {.sun_family = AF_UNIX, .sun_path = "/tmp/nobody"}, other = {.sun_family = AF_UNIX};
    static struct sockaddr_in target, loopback = {.sin_family = AF_INET}, metadata = {.sin_family = AF_INET};
    long wrong = 0, all = calls;
    snprintf(other.sun_path, sizeof other.sun_path, "%s", forbidden);
    calls /= 2;
    WHILE_FLIPPING(&address, &own, &other, sizeof address, {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) wrong++;
        close(fd);
    });
    loopback.sin_port = htons(9);
    loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    metadata.sin_port = htons(80);
    inet_pton(AF_INET, "169.254.169.254", &metadata.sin_addr);
    WHILE_FLIPPING(&target, &loopback, &metadata, sizeof target, {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fd, (struct sockaddr *)&target, sizeof target) == 0 || errno == EINPROGRESS) wrong++;
        close(fd);
    });
    calls = all;
    printf("addresses: %ld calls, %ld wrong\n", all, wrong);
}

int main(int count, char **words) {
    calls = strtol(words[1], NULL, 10);
    paths(words[2]);
    vectors();
    addresses(words[3]);
    return 0;
}
