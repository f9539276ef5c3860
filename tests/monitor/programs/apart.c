// Memory of which each call writes every second page, and then does something to: what a path names, or an argument without a server.
// Every answer is "ok", or the line that saw something else.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 64
#define SIZE (PAGES * PAGE)
#define EXPECT(x) do { if (!(x)) return __LINE__; } while (0)

static char *ground;
static char copy[SIZE];
static int ends[2];

static char wanted(int page) { return page % 2 ? 100 + page : page; }

// Whether the first pages, so many, hold what they should, at their beginnings and ends.
static int holds(const char *at, int from, int to) {
    for (int page = from; page < to; page++)
        if (at[(page - from) * PAGE] != wanted(page) || at[(page - from) * PAGE + PAGE - 1] != wanted(page)) return 0;
    return 1;
}

static int zero(const char *at, int pages) {
    for (int byte = 0; byte < pages * PAGE; byte++) if (at[byte]) return 0;
    return 1;
}

static void fill(int from, int to) {
    for (int page = from; page < to; page++) memset(ground + page * PAGE, wanted(page), PAGE);
}

static int plain(void) { return 0; }

// More than one piece, each way.
static int pieces(void) {
    for (int half = 0; half < SIZE; half += SIZE / 8) {
        EXPECT(write(ends[1], ground + half + 7, SIZE / 8 - 7) == SIZE / 8 - 7);
        EXPECT(read(ends[0], copy + half + 7, SIZE / 8 - 7) == SIZE / 8 - 7);
        EXPECT(!memcmp(ground + half + 7, copy + half + 7, SIZE / 8 - 7));
        memset(ground + half, 0, SIZE / 8);
        struct iovec vector[] = {{copy + half, 3 * PAGE}, {copy + half + 3 * PAGE, SIZE / 8 - 3 * PAGE}};
        fill(half / PAGE, half / PAGE + 8);
        memcpy(copy + half, ground + half, SIZE / 8);
        EXPECT(writev(ends[1], vector, 2) == SIZE / 8);
        memset(ground + half, 0, SIZE / 8);
        struct iovec into[] = {{ground + half, PAGE + 1}, {ground + half + PAGE + 1, SIZE / 8 - PAGE - 1}};
        EXPECT(readv(ends[0], into, 2) == SIZE / 8);
    }
    EXPECT(getrandom(ground, 8 * PAGE, 0) == 8 * PAGE);
    for (int page = 0; page < 8; page++) EXPECT(memcmp(ground + page * PAGE, copy + page * PAGE, PAGE));
    fill(0, 8);
    return 0;
}

static int protects(void) {
    EXPECT(write(ends[1], "xxxx", 4) == 4);
    EXPECT(!mprotect(ground + PAGE, 8 * PAGE, PROT_READ));
    EXPECT(holds(ground, 0, PAGES));
    EXPECT(read(ends[0], ground + PAGE, 4) < 0 && errno == EFAULT);
    EXPECT(read(ends[0], ground + 2 * PAGE, 4) < 0 && errno == EFAULT);
    EXPECT(!mprotect(ground, SIZE, PROT_NONE));
    EXPECT(write(ends[1], ground + PAGE, 1) < 0 && errno == EFAULT);
    EXPECT(!mprotect(ground, SIZE, PROT_READ | PROT_WRITE));
    EXPECT(read(ends[0], copy, 4) == 4);
    EXPECT(holds(ground, 0, PAGES));
    memset(ground + PAGE, 1, 3 * PAGE);
    EXPECT(ground[PAGE] == 1 && ground[4 * PAGE - 1] == 1);
    fill(1, 4);
    return 0;
}

static int unmaps(void) {
    EXPECT(!munmap(ground + 8 * PAGE, 8 * PAGE));
    EXPECT(write(ends[1], ground + 9 * PAGE, 1) < 0 && errno == EFAULT);
    EXPECT(mmap(ground + 8 * PAGE, 16 * PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    EXPECT(zero(ground + 8 * PAGE, 16));
    fill(8, 24);
    return 0;
}

static int moves(void) {
    char *other = mmap(0, 4 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(other != MAP_FAILED);
    EXPECT(!mprotect(ground + 8 * PAGE, 8 * PAGE, PROT_READ));
    EXPECT(mremap(ground + 8 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other);
    EXPECT(holds(other, 8, 16));
    EXPECT(!mprotect(other, 8 * PAGE, PROT_READ | PROT_WRITE));
    other[PAGE] = 1;
    EXPECT(other[PAGE] == 1);
    char *grown = mremap(ground + 32 * PAGE, 32 * PAGE, 96 * PAGE, MREMAP_MAYMOVE);
    EXPECT(grown != MAP_FAILED && holds(grown, 32, 64) && zero(grown + 32 * PAGE, 64));
    memset(grown, 3, 96 * PAGE);
    EXPECT(holds(ground, 0, 8) && holds(ground + 16 * PAGE, 16, 32));
    ground = mmap(ground, SIZE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    fill(0, PAGES);
    return 0;
}

static int discards(void) {
    EXPECT(!madvise(ground, 16 * PAGE, MADV_DONTNEED));
    EXPECT(zero(ground, 16));
    ground[PAGE] = 5;
    EXPECT(ground[PAGE] == 5);
    fill(0, 16);
    return 0;
}

static int forks(void) {
    pid_t child = fork();
    if (!child) {
        int held = holds(ground, 0, PAGES);
        memset(ground, 9, SIZE);
        if (mprotect(ground, SIZE / 2, PROT_READ) || ground[1] != 9 || ground[SIZE - 1] != 9) _exit(2);
        _exit(held ? 0 : 1);
    }
    int status;
    EXPECT(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

static int *word(void) { return (int *)(ground + 5 * PAGE); }

static void *sleeper(void *unused) {
    while (__atomic_load_n(word(), __ATOMIC_SEQ_CST) == 1) syscall(SYS_futex, word(), FUTEX_WAIT_PRIVATE, 1, 0, 0, 0);
    return unused;
}

static int wakes(void) {
    pthread_t thread;
    *word() = 1;
    EXPECT(!pthread_create(&thread, 0, sleeper, 0));
    // Waits until it sleeps: then there is one to wake.
    while (syscall(SYS_futex, word(), FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) != 1) sched_yield();
    EXPECT(!mprotect(ground + 4 * PAGE, 3 * PAGE, PROT_READ));
    EXPECT(!mprotect(ground + 4 * PAGE, 3 * PAGE, PROT_READ | PROT_WRITE));
    __atomic_store_n(word(), 2, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word(), FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    EXPECT(!pthread_join(thread, 0));
    fill(5, 6);
    return 0;
}

static const struct { const char *name; int (*does)(void); } deeds[] = {
    {"plain", plain}, {"pieces", pieces}, {"protects", protects}, {"unmaps", unmaps}, {"moves", moves},
    {"discards", discards}, {"forks", forks}, {"wakes", wakes},
};

static int one(const char *name) {
    for (int page = 0; page < PAGES; page += 2) memset(ground + page * PAGE, wanted(page), PAGE);
    EXPECT(holds(ground, 0, PAGES));
    for (unsigned i = 0; i < sizeof deeds / sizeof *deeds; i++)
        if (!strncmp(name, deeds[i].name, strlen(deeds[i].name))) {
            int line = deeds[i].does();
            if (line) return line;
        }
    EXPECT(holds(ground, 0, PAGES));
    return 0;
}

int main(int argc, char **argv) {
    ground = mmap(0, SIZE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(ground, -1, SIZE);
    for (int page = 1; page < PAGES; page += 2) memset(ground + page * PAGE, wanted(page), PAGE);
    if (pipe(ends)) return 4;
    if (argc > 1) {
        for (int argument = 1; argument < argc; argument++) {
            int line = one(argv[argument]);
            if (line) return printf("%s: line %d\n", argv[argument], line), 1;
        }
        return puts("ok"), 0;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        char request[4096] = "", text[256], body[64] = "ok";
        if (read(connection, request, sizeof request - 1) <= 0) return 6;
        const char *path = strchr(request, '/');
        int line = one(path ? path + 1 : "");
        if (line) snprintf(body, sizeof body, "line %d", line);
        int length = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
        if (write(connection, text, length) != length) return 7;
        close(connection);
    }
}
