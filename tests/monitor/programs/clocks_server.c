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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
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

// ---------------------------------------------------------------------- timers

// When each timer told that it had expired: monotonic and realtime.
static struct timer {
    const char *name;
    int signal, fd;
    long set, target, fired, fired_realtime, count;
} timers[] = {
    {"alarm", SIGALRM, -1, 0, 0, 0, 0, 0},   {"posix", SIGUSR1, -1, 0, 0, 0, 0, 0},   {"thread", SIGUSR2, -1, 0, 0, 0, 0, 0},
    {"moment", SIGCHLD, -1, 0, 0, 0, 0, 0},  {"fd", 0, -1, 0, 0, 0, 0, 0},            {"fd-absolute", 0, -1, 0, 0, 0, 0, 0},
    {"fd-moment", 0, -1, 0, 0, 0, 0, 0},     {"fd-boottime", 0, -1, 0, 0, 0, 0, 0},
};
enum { TIMERS = sizeof timers / sizeof *timers };
static int expired_fd, numbers[3];
static volatile int wrong_number, wrong_thread;
static pthread_t told_thread;
static volatile pid_t told_thread_number;

static void fired(struct timer *timer) {
    if (timer->fired) return;
    timer->fired_realtime = told(CLOCK_REALTIME);
    timer->fired = told(CLOCK_MONOTONIC);
}

static void on_timer(int signal, siginfo_t *info, void *context) {
    (void)context;
    for (int i = 0; i < TIMERS; i++)
        if (timers[i].signal == signal) {
            timers[i].count++;
            fired(&timers[i]);
            if (i > 0) wrong_number += info->si_timerid != numbers[i - 1];
        }
    if (signal == SIGUSR2) wrong_thread += pthread_self() != told_thread;
}

static void *read_timer(void *argument) {
    struct timer *timer = argument;
    unsigned long count;
    if (read(timer->fd, &count, 8) != 8) _exit(9);
    timer->count = count;
    fired(timer);
    return NULL;
}

static struct itimerspec setting(long value, long interval) { return (struct itimerspec){spec(interval), spec(value)}; }

static void make_timer(int index, int clock, int flags, struct sigevent *event, struct itimerspec *when) {
    int unused;
    // A number that is free again, so that the host's numbers of a clone are others.
    if (index == 1) syscall(SYS_timer_create, clock, event, &unused);
    if (syscall(SYS_timer_create, clock, event, &numbers[index - 1])) _exit(8);
    if (index == 1) syscall(SYS_timer_delete, unused);
    if (syscall(SYS_timer_settime, numbers[index - 1], flags, when, NULL)) _exit(8);
}

static void *wait_for_ever(void *argument) {
    int word = 0;
    told_thread_number = gettid();
    for (;;) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return argument;
}

static void set_timers(void) {
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval after = {{1000, 0}, {LONG / SECOND, 0}};
    struct itimerspec relative = setting(LONG, 1000 * SECOND);
    pthread_create(&told_thread, NULL, wait_for_ever, NULL);
    while (!told_thread_number) usleep(1000);
    for (int i = 0; i < TIMERS; i++) {
        if (timers[i].signal) sigaction(timers[i].signal, &action, NULL);
        timers[i].set = told(CLOCK_MONOTONIC);
        timers[i].target = told(CLOCK_REALTIME) + LONG;
        struct itimerspec moment = setting(timers[i].target, 0), boottime = setting(told(CLOCK_BOOTTIME) + LONG, 0);
        struct itimerspec monotonic = setting(timers[i].set + LONG, 0);
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = timers[i].signal};
        if (i == 0) setitimer(ITIMER_REAL, &after, NULL);
        if (i == 1) make_timer(i, CLOCK_MONOTONIC, 0, &event, &relative);
        if (i == 2) {
            event.sigev_notify = SIGEV_THREAD_ID;
            event._sigev_un._tid = told_thread_number;
            make_timer(i, CLOCK_BOOTTIME, 0, &event, &relative);
        }
        if (i == 3) make_timer(i, CLOCK_REALTIME, TIMER_ABSTIME, &event, &moment);
        if (i < 4) continue;
        timers[i].fd = timerfd_create(i == 6 ? CLOCK_REALTIME : i == 7 ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, TFD_CLOEXEC);
        if (i == 4) timerfd_settime(timers[i].fd, 0, &relative, NULL);
        if (i == 5) timerfd_settime(timers[i].fd, TFD_TIMER_ABSTIME, &monotonic, NULL);
        if (i == 6) timerfd_settime(timers[i].fd, TFD_TIMER_ABSTIME, &moment, NULL);
        if (i == 7) timerfd_settime(timers[i].fd, TFD_TIMER_ABSTIME, &boottime, NULL);
    }
    // One that has expired, and nobody has looked yet.
    struct itimerspec past = setting(1, 0);
    struct pollfd expired = {expired_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), POLLIN, 0};
    timerfd_settime(expired_fd, 0, &past, NULL);
    poll(&expired, 1, -1);
}

static void show_timers(void) {
    unsigned long count = 0;
    pthread_t threads[TIMERS];
    if (read(expired_fd, &count, 8) != 8) _exit(9);
    say("expired %ld\n", (long)count);
    // A moment of the guest's own time, for a timer made before the snapshot and one made after.
    for (int i = 0; i < 2; i++) {
        int fd = i ? timerfd_create(CLOCK_MONOTONIC, 0) : dup(expired_fd);
        long start = told(CLOCK_MONOTONIC);
        struct itimerspec soon = setting(start + SECOND / 10, 0);
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &soon, NULL);
        if (read(fd, &count, 8) != 8) _exit(9);
        say("again%d %ld\n", i, told(CLOCK_MONOTONIC) - start);
    }
    for (int i = 4; i < TIMERS; i++) pthread_create(&threads[i], NULL, read_timer, &timers[i]);
    for (int i = 4; i < TIMERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++)
        while (!timers[i].count) poll(NULL, 0, 100);
    for (int i = 0; i < TIMERS; i++)
        say("%s %ld\n%s-late %ld\n%s-count %ld\n", timers[i].name, timers[i].fired - timers[i].set, timers[i].name,
            timers[i].fired_realtime - timers[i].target, timers[i].name, timers[i].count);
    struct itimerval alarm_left;
    struct itimerspec left;
    getitimer(ITIMER_REAL, &alarm_left);
    say("alarm-interval %ld\n", alarm_left.it_interval.tv_sec);
    syscall(SYS_timer_gettime, numbers[0], &left);
    say("posix-interval %ld\n", left.it_interval.tv_sec);
    timerfd_gettime(timers[4].fd, &left);
    say("fd-interval %ld\n", left.it_interval.tv_sec);
    say("wrong %d\n", wrong_number + wrong_thread);
}

// ---------------------------------------------------------------------- short timers

// Started before the program is ready, to be over when the snapshot is taken.
static volatile int slept, rung, read_once, beats;

static void *sleep_shortly(void *argument) {
    struct timespec t = spec(SECOND * 7 / 10);
    (void)argument;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
    slept = 1;
    return NULL;
}
static void *beat(void *argument) {
    for (;;) {
        usleep(100000);
        beats++;
    }
    return argument;
}
static void *read_shortly(void *argument) {
    unsigned long count;
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec soon = setting(SECOND * 6 / 10, 0);
    timerfd_settime(fd, 0, &soon, NULL);
    *(volatile int *)argument = 1;
    if (read(fd, &count, 8) == 8) read_once = 1;
    return NULL;
}
static void on_ring(int signal) { rung += signal == SIGALRM; }

static void begin_short(void) {
    volatile int armed = 0;
    pthread_t thread;
    struct itimerval soon = {{0, 0}, {0, 500000}};
    signal(SIGALRM, on_ring);
    pthread_create(&thread, NULL, beat, NULL);
    pthread_create(&thread, NULL, read_shortly, (void *)&armed);
    while (!armed) usleep(1000);
    pthread_create(&thread, NULL, sleep_shortly, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
}

static void show_short(void) { say("slept %d\nrung %d\nread %d\nbeats %d\n", slept, rung, read_once, beats); }

// What cannot be carried into a clone.
static void make_thread_time_timer(void) {
    int number;
    syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, NULL, &number);
}
static void make_pending_signal(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
}

// ---------------------------------------------------------------------- clocks

// What the clocks said last before the program was ready.
static const int CLOCKS[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_REALTIME};
static const char *NAMES[] = {"monotonic", "raw", "coarse", "boottime", "cpu", "realtime"};
enum { COUNT = sizeof CLOCKS / sizeof *CLOCKS };
static long last[COUNT];
static long last_uptime, last_ticks, last_used[2];

// User and system time, microseconds: of getrusage, and of /proc, which counts in hundredths of a second.
static void used(long *rusage, long *statistics) {
    struct rusage usage;
    unsigned long user = 0, system = 0;
    getrusage(RUSAGE_SELF, &usage);
    *rusage = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    FILE *file = fopen("/proc/self/stat", "r");
    if (!file || fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) *statistics = -1;
    else *statistics = (user + system) * 10000;
    if (file) fclose(file);
}

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
    used(&last_used[0], &last_used[1]);
}

static void show_clocks(void) {
    struct tms ignored;
    struct sysinfo info;
    long realtime = told(CLOCK_REALTIME);
    say("now %ld\nasked %ld\n", realtime, asked(CLOCK_REALTIME));
    for (int i = 0; i < COUNT; i++) say("%s %ld\n", NAMES[i], told(CLOCKS[i]) - last[i]);
    for (int i = 0; i < COUNT; i++) say("asked-%s %ld\n", NAMES[i], asked(CLOCKS[i]) - last[i]);
    long now_used[2];
    used(&now_used[0], &now_used[1]);
    say("used %ld\nstatistics %ld\n", now_used[0] - last_used[0], now_used[1] - last_used[1]);
    sysinfo(&info);
    say("uptime %ld\nticks %ld\n", uptime() - last_uptime, (long)times(&ignored) - last_ticks);
    say("sysinfo %ld\n", info.uptime * 1000 - last_uptime);
}

static void show_many(void) {
    long back = 0, before = 0;
    for (int i = 0; i < 20000; i++) {
        long now = told(i % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME);
        back += i % 2 && now < before;
        if (i % 2) before = now;
    }
    say("back %ld\n", back);
}

// ---------------------------------------------------------------------- children

// A child, and the program that it becomes, count the time as their parent does.
static void show_child(void) {
    char now[32], answer[64] = "";
    int ends[2];
    long before = told(CLOCK_MONOTONIC);
    if (pipe(ends)) _exit(9);
    pid_t child = fork();
    if (!child) {
        long here = told(CLOCK_MONOTONIC);
        dup2(ends[1], 1);
        snprintf(now, sizeof now, "%ld", here);
        dprintf(1, "%ld ", here - before);
        execl("/server", "server", "tell", now, NULL);
        _exit(9);
    }
    close(ends[1]);
    for (int got = 0, more; (more = read(ends[0], answer + got, sizeof answer - 1 - got)) > 0;) got += more;
    close(ends[0]);
    waitpid(child, NULL, 0);
    long forked = -1, executed = -1, asked_there = -1;
    sscanf(answer, "%ld %ld %ld", &forked, &executed, &asked_there);
    say("forked %ld\nexecuted %ld\nasked %ld\nall %ld\n", forked, executed, asked_there, told(CLOCK_MONOTONIC) - before);
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
    if (!strcmp(path, "/timers")) show_timers();
    if (!strcmp(path, "/short")) show_short();
    if (!strcmp(path, "/child")) show_child();
    if (!strcmp(path, "/many")) show_many();
    int headed = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", length);
    if (write(connection, head, headed) != headed || write(connection, body, length) != length) _exit(9);
    close(connection);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "tell")) {
        long before = atol(argv[2]), here = told(CLOCK_MONOTONIC);
        printf("%ld %ld", here - before, asked(CLOCK_MONOTONIC) - here);
        return 0;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    if (!strcmp(mode, "waits")) {
        for (int i = 0; i < WAITS; i++) pthread_create(&waits[i].thread, NULL, run_wait, &waits[i]);
        // Part of their time passes before the snapshot.
        struct timespec part = spec(2 * SECOND);
        nanosleep(&part, NULL);
    }
    if (!strcmp(mode, "timers")) set_timers();
    if (!strcmp(mode, "short")) begin_short();
    if (!strcmp(mode, "thread-time")) make_thread_time_timer();
    if (!strcmp(mode, "pending")) make_pending_signal();
    // Processor time that a clone has not used, but its program has.
    while (told(CLOCK_PROCESS_CPUTIME_ID) < SECOND / 20) {}
    note_clocks();
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) return 10;
        serve(connection);
    }
}
