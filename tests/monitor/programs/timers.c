// Timers of a process, of all kinds, and what their signals say.
#include "show.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

#define SECOND 1000000000l
#define NUMBER(timer) ((int)(long)(timer))

static long told(int clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? -1 : t.tv_sec * SECOND + t.tv_nsec;
}
static struct itimerspec setting(long value, long interval) {
    return (struct itimerspec){{interval / SECOND, interval % SECOND}, {value / SECOND, value % SECOND}};
}

static volatile int signals, bad_code, bad_value, bad_number;
static volatile long wanted_value;
static volatile int wanted_number;
static volatile pid_t told_thread;

static void on_timer(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    signals++;
    bad_code += info->si_code != SI_TIMER;
    bad_value += (long)info->si_value.sival_ptr != wanted_value;
    bad_number += info->si_timerid != wanted_number;
    told_thread = gettid();
}

static void listen_to(int signal) {
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
    sigaction(signal, &action, NULL);
}

static void wait_for(int count) {
    for (int i = 0; signals < count && i < 20000; i++) usleep(1000);
    TEXT("%d signals at least: %d; bad: %d %d %d", count, signals >= count, bad_code, bad_value, bad_number);
    signals = bad_code = bad_value = bad_number = 0;
}

// The kernel's own calls: the C library keeps numbers of its own for some.
static int make(int clock, struct sigevent *event, int *number) { return syscall(SYS_timer_create, clock, event, number); }
static int set(int number, int flags, struct itimerspec *new, struct itimerspec *old) { return syscall(SYS_timer_settime, number, flags, new, old); }

static void process_timers(void) {
    int one = -1, other = -1;
    struct itimerspec soon = setting(5000000, 0), often = setting(5000000, 3000000), never = setting(0, 0), left, before;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_ptr = (void *)0x1234567812345678};
    listen_to(SIGALRM);
    listen_to(SIGUSR1);
    SHOW(make(CLOCK_MONOTONIC, NULL, &one));
    TEXT("%d", one);
    SHOW(make(CLOCK_REALTIME, &event, &other));
    TEXT("%d", other);
    wanted_number = wanted_value = one;
    SHOW(set(one, 0, &soon, &before));
    TEXT("%ld %ld", before.it_value.tv_sec, before.it_value.tv_nsec);
    wait_for(1);
    SHOW(syscall(SYS_timer_gettime, one, &left));
    TEXT("%ld %ld", left.it_value.tv_sec, left.it_value.tv_nsec);
    wanted_number = other;
    wanted_value = 0x1234567812345678;
    SHOW(set(other, 0, &often, NULL));
    wait_for(3);
    SHOW(syscall(SYS_timer_gettime, other, &left));
    TEXT("%ld %d", left.it_interval.tv_nsec, left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 5000000);
    SHOW(set(other, 0, &never, &before));
    TEXT("%ld", before.it_interval.tv_nsec);
    signals = bad_number = bad_value = bad_code = 0;
    struct itimerspec moment = setting(told(CLOCK_REALTIME) + 5000000, 0), past = setting(1, 0);
    SHOW(set(other, TIMER_ABSTIME, &moment, NULL));
    wait_for(1);
    TEXT("%d", told(CLOCK_REALTIME) >= moment.it_value.tv_sec * SECOND + moment.it_value.tv_nsec);
    SHOW(set(other, TIMER_ABSTIME, &past, NULL));
    wait_for(1);
    struct itimerspec hour = setting(3600 * SECOND, 0);
    SHOW(set(one, 0, &hour, NULL));
    SHOW(set(one, 0, &never, &before));
    TEXT("%d", before.it_value.tv_sec >= 3590 && before.it_value.tv_sec < 3600);
    // Missed while it was blocked: one signal, the others are counted.
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    SHOW(set(other, 0, &often, NULL));
    for (long end = told(CLOCK_MONOTONIC) + 50000000; told(CLOCK_MONOTONIC) < end;) usleep(1000);
    siginfo_t info;
    SHOW(sigwaitinfo(&usr1, &info));
    TEXT("%d %d %d", info.si_code, info.si_timerid == other, info.si_overrun > 3);
    SHOW(syscall(SYS_timer_getoverrun, other) > 3);
    SHOW(set(other, 0, &never, NULL));
    sigprocmask(SIG_UNBLOCK, &usr1, NULL);
    signals = bad_code = bad_value = bad_number = 0;
    SHOW(syscall(SYS_timer_delete, one));
    SHOW(syscall(SYS_timer_delete, one));
    SHOW(syscall(SYS_timer_gettime, one, &left));
    SHOW(syscall(SYS_timer_getoverrun, one));
    SHOW(syscall(SYS_timer_delete, other));
}

static void mistakes(void) {
    int number;
    struct itimerspec bad = {{0, 0}, {0, -1}}, good = setting(SECOND, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 99};
    SHOW(make(77, NULL, &number));
    SHOW(make(CLOCK_MONOTONIC_RAW, NULL, &number));
    SHOW(make(CLOCK_MONOTONIC, &event, &number));
    event.sigev_signo = SIGUSR1;
    event.sigev_notify = 99;
    SHOW(make(CLOCK_MONOTONIC, &event, &number));
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = 1;
    SHOW(make(CLOCK_MONOTONIC, &event, &number));
    SHOW(make(CLOCK_MONOTONIC, (void *)8, &number));
    SHOW(make(CLOCK_MONOTONIC, NULL, (void *)8));
    SHOW(make(CLOCK_MONOTONIC, NULL, &number));
    SHOW(set(number, 0, &bad, NULL));
    SHOW(set(number, 0, NULL, NULL));
    SHOW(set(number, 0, (void *)8, NULL));
    SHOW(set(number, 0, &good, (void *)8));
    SHOW(set(77, 0, &good, NULL));
    SHOW(set(-1, 0, &good, NULL));
    SHOW(syscall(SYS_timer_gettime, number, (void *)8));
    SHOW(syscall(SYS_timer_delete, number));
}

static volatile pid_t waiter;
static volatile int stop;

static void *wait_here(void *argument) {
    (void)argument;
    waiter = gettid();
    while (!stop) usleep(1000);
    return NULL;
}

static volatile int called;
static void call(union sigval value) { called = value.sival_int; }

static void threads(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, wait_here, NULL);
    while (!waiter) usleep(1000);
    int number;
    struct itimerspec soon = setting(5000000, 0);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = waiter;
    wanted_value = 0;
    SHOW(make(CLOCK_MONOTONIC, &event, &number));
    wanted_number = number;
    SHOW(set(number, 0, &soon, NULL));
    wait_for(1);
    TEXT("%d", told_thread == waiter);
    SHOW(syscall(SYS_timer_delete, number));
    stop = 1;
    pthread_join(thread, NULL);
    // What the C library makes of them.
    timer_t timer;
    struct sigevent function = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = call, .sigev_value.sival_int = 77};
    SHOW(timer_create(CLOCK_MONOTONIC, &function, &timer));
    SHOW(timer_settime(timer, 0, &soon, NULL));
    for (int i = 0; !called && i < 20000; i++) usleep(1000);
    TEXT("%d", called);
    SHOW(timer_delete(timer));
    struct sigevent nothing = {.sigev_notify = SIGEV_NONE};
    struct itimerspec left;
    SHOW(timer_create(CLOCK_BOOTTIME, &nothing, &timer));
    SHOW(timer_settime(timer, 0, &soon, NULL));
    usleep(10000);
    SHOW(timer_gettime(timer, &left));
    TEXT("%ld", left.it_value.tv_nsec);
    SHOW(timer_delete(timer));
}

static void processor_time(void) {
    int number;
    clockid_t clock;
    struct itimerspec soon = setting(20000000, 0);
    wanted_value = 0;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    for (int kind = 0; kind < 3; kind++) {
        pthread_getcpuclockid(pthread_self(), &clock);
        SHOW(make(kind == 0 ? CLOCK_PROCESS_CPUTIME_ID : kind == 1 ? CLOCK_THREAD_CPUTIME_ID : clock, &event, &number));
        wanted_number = number;
        SHOW(set(number, 0, &soon, NULL));
        for (long i = 0; !signals && i < 20000000000l; i++) __asm__ volatile("");
        wait_for(1);
        SHOW(syscall(SYS_timer_delete, number));
    }
}

static void intervals(void) {
    struct itimerval soon = {{0, 0}, {0, 5000}}, left, hour = {{0, 0}, {3600, 0}}, never = {{0, 0}, {0, 0}}, bad = {{0, 0}, {0, 1000000}};
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
    sigaction(SIGALRM, &action, NULL);
    SHOW(setitimer(ITIMER_REAL, &soon, NULL));
    for (int i = 0; !signals && i < 20000; i++) usleep(1000);
    TEXT("%d", signals);
    SHOW(setitimer(ITIMER_REAL, &hour, NULL));
    SHOW(getitimer(ITIMER_REAL, &left));
    TEXT("%d", left.it_value.tv_sec >= 3590);
    SHOW(alarm(100) >= 3590);
    SHOW(alarm(0) <= 100);
    SHOW(setitimer(ITIMER_PROF, &hour, NULL));
    SHOW(setitimer(ITIMER_PROF, &never, &left));
    TEXT("%d", left.it_value.tv_sec >= 3500);
    SHOW(setitimer(7, &soon, NULL));
    SHOW(setitimer(ITIMER_REAL, &bad, NULL));
    SHOW(setitimer(ITIMER_REAL, (void *)8, NULL));
    SHOW(getitimer(ITIMER_REAL, (void *)8));
}

static void descriptors(void) {
    unsigned long value = 0;
    int fd = DO(timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC)), other = DO(dup(fd));
    struct itimerspec moment = setting(told(CLOCK_REALTIME) + 5000000, 2000000), left;
    SHOW(timerfd_settime(other, TFD_TIMER_ABSTIME, &moment, NULL));
    SHOW(read(fd, &value, 8));
    TEXT("%d %d", value >= 1, told(CLOCK_REALTIME) >= moment.it_value.tv_sec * SECOND + moment.it_value.tv_nsec);
    SHOW(timerfd_gettime(other, &left));
    TEXT("%ld", left.it_interval.tv_nsec);
    DO(close(fd)), DO(close(other));
    for (int i = 0; i < 2; i++) {
        fd = DO(timerfd_create(i ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, 0));
        moment = setting(told(i ? CLOCK_BOOTTIME : CLOCK_MONOTONIC) + 5000000, 0);
        SHOW(timerfd_settime(fd, TFD_TIMER_ABSTIME, &moment, NULL));
        SHOW(read(fd, &value, 8));
        TEXT("%ld", value);
        DO(close(fd));
    }
}

static void sleeps(void) {
    static const int CLOCKS[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_THREAD_CPUTIME_ID, 77};
    struct timespec bad = {0, SECOND}, negative = {-1, 0}, past = {1, 0};
    for (unsigned i = 0; i < sizeof CLOCKS / sizeof *CLOCKS; i++) {
        long start = told(CLOCKS[i]);
        struct timespec t = {0, 3000000}, end = {(start + 6000000) / SECOND, (start + 6000000) % SECOND};
        if (CLOCKS[i] == CLOCK_PROCESS_CPUTIME_ID) {
            SHOW(clock_nanosleep(CLOCKS[i], TIMER_ABSTIME, &(struct timespec){0, 1}, NULL));
            continue;
        }
        int result = clock_nanosleep(CLOCKS[i], 0, &t, NULL);
        TEXT("%d %d", result, result || told(CLOCKS[i]) >= start + 3000000);
        result = clock_nanosleep(CLOCKS[i], TIMER_ABSTIME, &end, NULL);
        TEXT("%d %d", result, result || told(CLOCKS[i]) >= start + 6000000);
    }
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, 0, &bad, NULL));
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, 0, &negative, NULL));
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &negative, NULL));
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &past, NULL));
}

int main(void) {
    process_timers();
    mistakes();
    threads();
    processor_time();
    signals = 0;
    intervals();
    descriptors();
    sleeps();
    return 0;
}
