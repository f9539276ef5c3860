// Waiting: poll, select, epoll, and the descriptors made to be waited for.
#include "show.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

static volatile int signals;
static void on_signal(int signal) { signals += signal; }

static long since(struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

#define TAKES(least, most, call)                                                  \
    do {                                                                          \
        struct timespec start_;                                                   \
        clock_gettime(CLOCK_MONOTONIC, &start_);                                  \
        SHOW(call);                                                               \
        long took_ = since(&start_);                                              \
        TEXT("in time: %d", took_ >= (least) && took_ <= (most));                 \
    } while (0)

static void *write_later(void *fd) {
    usleep(20000);
    write((int)(long)fd, "x", 1);
    return NULL;
}

static void *signal_later(void *thread) {
    usleep(100000);
    pthread_kill((pthread_t)thread, SIGUSR1);
    return NULL;
}

static pthread_t later(void *(*what)(void *), void *argument) {
    pthread_t thread;
    pthread_create(&thread, NULL, what, argument);
    return thread;
}

static void polls(void) {
    int ends[2];
    DO(pipe(ends));
    struct pollfd p[4] = {{ends[0], POLLIN}, {ends[1], POLLOUT}, {99, POLLIN}, {-1, POLLIN, 77}};
    SHOW(poll(p, 4, -1));
    TEXT("%x %x %x %x", p[0].revents, p[1].revents, p[2].revents, p[3].revents);
    TAKES(10, 2000, poll(p, 1, 10));
    SHOW(poll(p, 1, 0));
    SHOW(poll(NULL, 0, 0));
    SHOW(poll(NULL, 1, 0));
    SHOW(poll(p, 100000, 0));
    p[2].fd = 2050;
    p[3] = (struct pollfd){2047, POLLIN};
    SHOW(poll(p + 2, 2, 0));
    TEXT("%x %x %d", p[2].revents, p[3].revents, p[2].fd);
    pthread_t thread = later(write_later, (void *)(long)ends[1]);
    TAKES(0, 4000, poll(p, 1, 5000));
    TEXT("%x", p[0].revents);
    pthread_join(thread, NULL);
    DO(close(ends[1]));
    SHOW(poll(p, 1, 0));
    TEXT("%x", p[0].revents);
    struct pollfd many[300];
    for (int i = 0; i < 300; i++) many[i] = (struct pollfd){ends[0], POLLIN};
    SHOW(poll(many, 300, 0));
    TEXT("%x %x", many[0].revents, many[299].revents);
    DO(close(ends[0]));
}

static void signals_and_polls(void) {
    struct timespec long_time = {5, 0}, negative = {-1, 0}, none = {0, 0};
    sigset_t usr1, nothing;
    sigemptyset(&nothing);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    signal(SIGUSR1, on_signal);
    pthread_t thread = later(signal_later, (void *)pthread_self());
    TAKES(0, 4000, poll(NULL, 0, 5000));
    pthread_join(thread, NULL);
    TEXT("%d", signals);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    thread = later(signal_later, (void *)pthread_self());
    TAKES(150, 3000, poll(NULL, 0, 150));
    pthread_join(thread, NULL);
    TEXT("%d", signals);
    SHOW(ppoll(NULL, 0, &long_time, &nothing));
    TEXT("%d", signals);
    thread = later(signal_later, (void *)pthread_self());
    TAKES(0, 4000, ppoll(NULL, 0, NULL, &nothing));
    pthread_join(thread, NULL);
    TEXT("%d", signals);
    thread = later(signal_later, (void *)pthread_self());
    TAKES(0, 4000, pselect(0, NULL, NULL, NULL, NULL, &nothing));
    pthread_join(thread, NULL);
    TEXT("%d", signals);
    raise(SIGUSR1);
    int ep = DO(epoll_create1(0));
    struct epoll_event event;
    SHOW(epoll_pwait(ep, &event, 1, 5000, &nothing));
    TEXT("%d", signals);
    DO(close(ep));
    SHOW(ppoll(NULL, 0, &negative, NULL));
    SHOW(ppoll(NULL, 0, &none, NULL));
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    TEXT("%d", sigismember(&now, SIGUSR1));
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    SHOW(syscall(SYS_ppoll, NULL, 0, &none, &nothing, 7));
}

static void selects(void) {
    int ends[2];
    DO(pipe(ends));
    fd_set r, w, x;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
    FD_SET(ends[0], &r);
    FD_SET(ends[1], &w);
    FD_SET(ends[0], &x);
    struct timeval short_time = {0, 10000};
    SHOW(select(ends[1] + 1, &r, &w, &x, NULL));
    TEXT("%d %d %d", FD_ISSET(ends[0], &r), FD_ISSET(ends[1], &w), FD_ISSET(ends[0], &x));
    FD_SET(ends[0], &r);
    TAKES(10, 2000, select(ends[0] + 1, &r, NULL, NULL, &short_time));
    TEXT("%ld %ld %d", short_time.tv_sec, short_time.tv_usec, FD_ISSET(ends[0], &r));
    DO(write(ends[1], "x", 1));
    FD_SET(ends[0], &r);
    short_time = (struct timeval){2, 0};
    SHOW(select(ends[0] + 1, &r, NULL, NULL, &short_time));
    TEXT("%d %d", FD_ISSET(ends[0], &r), short_time.tv_sec >= 1);
    SHOW(select(-1, &r, NULL, NULL, NULL));
    short_time = (struct timeval){-1, 0};
    SHOW(select(0, NULL, NULL, NULL, &short_time));
    short_time = (struct timeval){0, 3000000};
    FD_ZERO(&w);
    FD_SET(ends[1], &w);
    SHOW(select(ends[1] + 1, NULL, &w, NULL, &short_time));
    SHOW(select(ends[0] + 1, (void *)8, NULL, NULL, NULL));
    DO(close(ends[0]));
    DO(close(ends[1]));
}

static void epolls(void) {
    int ep, ends[2];
    DO(pipe(ends));
    SHOW(epoll_create(0));
    SHOW(epoll_create1(77));
    SHOW(ep = epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event e = {EPOLLIN, {.u64 = 0x1122334455667788}}, got[10];
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ends[0], &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, ends[1], &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, 99, &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e));
    SHOW(epoll_ctl(ends[0], EPOLL_CTL_ADD, ends[1], &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ends[1], NULL));
    SHOW(epoll_ctl(ep, 9, ends[0], &e));
    int file = DO(open("file", O_RDWR | O_CREAT, 0600));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, file, &e));
    TAKES(10, 2000, epoll_wait(ep, got, 10, 10));
    SHOW(epoll_wait(ep, got, 0, 0));
    SHOW(epoll_wait(ep, got, -1, 0));
    SHOW(epoll_wait(file, got, 1, 0));
    SHOW(epoll_wait(99, got, 1, 0));
    DO(write(ends[1], "xy", 2));
    SHOW(epoll_wait(ep, got, 10, -1));
    TEXT("%x %lx", got[0].events, (long)got[0].data.u64);
    SHOW(epoll_wait(ep, (void *)8, 10, -1));
    e.events = EPOLLIN | EPOLLET;
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, ends[0], &e));
    SHOW(epoll_wait(ep, got, 10, 0));
    SHOW(epoll_wait(ep, got, 10, 0));
    DO(write(ends[1], "z", 1));
    SHOW(epoll_wait(ep, got, 10, 0));
    e.events = EPOLLIN | EPOLLONESHOT;
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, ends[0], &e));
    SHOW(epoll_wait(ep, got, 10, 0));
    SHOW(epoll_wait(ep, got, 10, 0));
    e.events = EPOLLOUT;
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ends[1], &e));
    int outer = DO(epoll_create1(0));
    e.events = EPOLLIN;
    SHOW(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &e));
    SHOW(epoll_wait(outer, got, 10, 100));
    SHOW(epoll_ctl(ep, EPOLL_CTL_DEL, ends[1], NULL));
    SHOW(epoll_ctl(ep, EPOLL_CTL_DEL, ends[1], NULL));
    SHOW(epoll_wait(outer, got, 10, 0));
    struct timespec short_time = {0, 10000000};
    TAKES(10, 2000, syscall(SYS_epoll_pwait2, ep, got, 10, &short_time, NULL, 0));
    DO(close(ends[1]));
    e.events = EPOLLIN;
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, ends[0], &e));
    SHOW(epoll_wait(ep, got, 10, 0));
    TEXT("%x", got[0].events);
    DO(close(outer)), DO(close(ep)), DO(close(ends[0])), DO(close(file));
}

static void events(void) {
    int fd;
    unsigned long value = 5;
    SHOW(fd = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC));
    SHOW(write(fd, &value, 8));
    SHOW(read(fd, &value, 8));
    TEXT("%lu", value);
    SHOW(read(fd, &value, 8));
    SHOW(read(fd, &value, 7));
    SHOW(close(fd));
    SHOW(fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    SHOW(read(fd, &value, 8));
    TEXT("%lu", value);
    SHOW(read(fd, &value, 8));
    SHOW(read(fd, &value, 8));
    SHOW(close(fd));
    SHOW(eventfd(0, 0x1000));

    SHOW(fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    struct itimerspec i = {{0, 5000000}, {0, 10000000}}, old;
    SHOW(timerfd_settime(fd, 0, &i, &old));
    TEXT("%ld", old.it_value.tv_nsec);
    struct pollfd p = {fd, POLLIN};
    TAKES(0, 4000, poll(&p, 1, 5000));
    SHOW(read(fd, &value, 8));
    TEXT("%d", value >= 1);
    SHOW(timerfd_gettime(fd, &i));
    TEXT("%ld", i.it_interval.tv_nsec);
    i = (struct itimerspec){0};
    SHOW(timerfd_settime(fd, 0, &i, &old));
    SHOW(fcntl(fd, F_SETFL, O_NONBLOCK));
    SHOW(read(fd, &value, 8));
    i.it_value.tv_nsec = -5;
    SHOW(timerfd_settime(fd, 0, &i, NULL));
    SHOW(timerfd_settime(fd, 0, (void *)8, NULL));
    SHOW(timerfd_settime(0, 0, &old, NULL));
    SHOW(close(fd));
    SHOW(timerfd_create(77, 0));

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    SHOW(fd = signalfd(-1, &set, SFD_NONBLOCK));
    struct signalfd_siginfo info;
    SHOW(read(fd, &info, sizeof info));
    DO(kill(getpid(), SIGUSR2));
    p.fd = fd;
    SHOW(poll(&p, 1, 1000));
    SHOW(read(fd, &info, sizeof info));
    TEXT("%d %d", info.ssi_signo == SIGUSR2, info.ssi_pid == getpid());
    sigaddset(&set, SIGUSR1);
    SHOW(signalfd(fd, &set, 0) == fd);
    SHOW(signalfd(0, &set, 0));
    SHOW(close(fd));
}

static void watches(void) {
    char buffer[4096];
    int fd, watch;
    SHOW(fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    DO(mkdir("watched", 0700));
    SHOW(watch = inotify_add_watch(fd, "watched", IN_CREATE | IN_DELETE));
    SHOW(read(fd, buffer, sizeof buffer));
    put("watched/new", "x");
    struct pollfd p = {fd, POLLIN};
    SHOW(poll(&p, 1, 1000));
    SHOW(read(fd, buffer, sizeof buffer));
    struct inotify_event *event = (void *)buffer;
    TEXT("%x %s", event->mask, event->name);
    SHOW(inotify_add_watch(fd, "file", IN_ONLYDIR | IN_CREATE));
    SHOW(inotify_add_watch(fd, "none", IN_CREATE));
    SHOW(inotify_add_watch(fd, "file", 0));
    SHOW(inotify_add_watch(0, "file", IN_CREATE));
    SHOW(inotify_rm_watch(fd, watch));
    SHOW(inotify_rm_watch(fd, 77));
    SHOW(close(fd));
}

static void processes(void) {
    int fd;
    SHOW(fd = syscall(SYS_pidfd_open, getpid(), 0));
    SHOW(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    SHOW(close(fd));
    SHOW(syscall(SYS_pidfd_open, -5, 0));
}

int main(void) {
    polls();
    signals_and_polls();
    selects();
    epolls();
    events();
    watches();
    processes();
    return 0;
}
