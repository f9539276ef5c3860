// A server that tells a call what its clocks say, and how its waits and timers fared that began before it was ready.
// The first argument is what it begins before it is ready.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000l

static char body[8192];
static int length;

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(body + length, sizeof body - length, format, arguments);
    va_end(arguments);
}

static struct timespec spec(long ns) { return (struct timespec){ns / SECOND, ns % SECOND}; }

static long told(int clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? -1 : t.tv_sec * SECOND + t.tv_nsec;
}

static long asked(int clock) {
    struct timespec t;
    return syscall(SYS_clock_gettime, clock, &t) ? -1 : t.tv_sec * SECOND + t.tv_nsec;
}

// ---------------------------------------------------------------------- waits

// Each waits for so long, from before the program is ready.
#define LONG (5 * SECOND)

static void wait_nanosleep(void) {
    struct timespec t = spec(LONG);
    nanosleep(&t, NULL);
}
static void wait_absolute(void) {
    struct timespec t = spec(told(CLOCK_MONOTONIC) + LONG);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static void wait_boottime(void) {
    struct timespec t = spec(told(CLOCK_BOOTTIME) + LONG);
    clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL);
}
static void wait_futex(void) {
    int word = 0;
    struct timespec t = spec(LONG);
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
}
static void wait_condition(void) {
    pthread_condattr_t kind;
    pthread_cond_t condition;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_init(&kind);
    pthread_condattr_setclock(&kind, CLOCK_MONOTONIC);
    pthread_cond_init(&condition, &kind);
    struct timespec t = spec(told(CLOCK_MONOTONIC) + LONG);
    pthread_mutex_lock(&mutex);
    while (pthread_cond_timedwait(&condition, &mutex, &t) != ETIMEDOUT) {}
    pthread_mutex_unlock(&mutex);
}
static void wait_poll(void) { poll(NULL, 0, LONG / 1000000); }
static void wait_select(void) {
    struct timeval t = {LONG / SECOND, 0};
    select(0, NULL, NULL, NULL, &t);
}
static void wait_epoll(void) {
    struct epoll_event event;
    epoll_wait(epoll_create1(EPOLL_CLOEXEC), &event, 1, LONG / 1000000);
}
static void wait_signal(void) {
    sigset_t set;
    struct timespec t = spec(LONG);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigtimedwait(&set, NULL, &t);
}

static struct wait {
    const char *name;
    void (*run)(void);
    long took;
    pthread_t thread;
} waits[] = {
    {"nanosleep", wait_nanosleep, 0, 0}, {"absolute", wait_absolute, 0, 0},   {"boottime", wait_boottime, 0, 0},
    {"futex", wait_futex, 0, 0},         {"condition", wait_condition, 0, 0}, {"poll", wait_poll, 0, 0},
    {"select", wait_select, 0, 0},       {"epoll", wait_epoll, 0, 0},         {"signal", wait_signal, 0, 0},
};
enum { WAITS = sizeof waits / sizeof *waits };

static void *run_wait(void *argument) {
    struct wait *wait = argument;
    long start = told(CLOCK_MONOTONIC);
    wait->run();
    wait->took = told(CLOCK_MONOTONIC) - start;
    return NULL;
}

static void show_waits(void) {
    for (int i = 0; i < WAITS; i++) {
        pthread_join(waits[i].thread, NULL);
        say("%s %ld\n", waits[i].name, waits[i].took);
    }
}

// ---------------------------------------------------------------------- clocks

// What the clocks said last before the program was ready.
static const int CLOCKS[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME};
static const char *NAMES[] = {"monotonic", "raw", "coarse", "boottime", "cpu", "realtime"};
enum { COUNT = sizeof CLOCKS / sizeof *CLOCKS };
static long last[COUNT];
static long last_uptime, last_ticks;

static long uptime(void) {
    double value = -1;
    FILE *file = fopen("/proc/uptime", "r");
    if (!file || fscanf(file, "%lf", &value) != 1) value = -1;
    if (file) fclose(file);
    return value * 1000;
}

static void note_clocks(void) {
    struct tms ignored;
    for (int i = 0; i < COUNT; i++) last[i] = told(CLOCKS[i]);
    last_uptime = uptime();
    last_ticks = times(&ignored);
}

static void show_clocks(void) {
    struct tms ignored;
    struct sysinfo info;
    long realtime = told(CLOCK_REALTIME);
    say("now %ld\nasked %ld\n", realtime, asked(CLOCK_REALTIME));
    for (int i = 0; i < COUNT; i++) say("%s %ld\n", NAMES[i], told(CLOCKS[i]) - last[i]);
    for (int i = 0; i < COUNT; i++) say("asked-%s %ld\n", NAMES[i], asked(CLOCKS[i]) - last[i]);
    sysinfo(&info);
    say("uptime %ld\nticks %ld\n", uptime() - last_uptime, (long)times(&ignored) - last_ticks);
    say("sysinfo %ld\n", info.uptime * 1000 - last_uptime);
}

// ---------------------------------------------------------------------- the server

static void serve(int connection) {
    char request[4096], path[256] = "", head[128];
    long got = read(connection, request, sizeof request - 1);
    if (got <= 0) return;
    request[got] = 0;
    sscanf(request, "%*s %255s", path);
    length = 0;
    if (!strcmp(path, "/clocks")) show_clocks();
    if (!strcmp(path, "/waits")) show_waits();
    int headed = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", length);
    if (write(connection, head, headed) != headed || write(connection, body, length) != length) _exit(9);
    close(connection);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    if (!strcmp(mode, "waits")) {
        for (int i = 0; i < WAITS; i++) pthread_create(&waits[i].thread, NULL, run_wait, &waits[i]);
        // Part of their time passes before the snapshot.
        struct timespec part = spec(2 * SECOND);
        nanosleep(&part, NULL);
    }
    note_clocks();
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) return 10;
        serve(connection);
    }
}
