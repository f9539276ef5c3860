// Waiting: poll(2), select(2), epoll(7), timerfd(2), pidfd_open(2).
#include "case.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

static void ring(int fd) {
    uint64_t one = 1;
    DO(write(fd, &one, 8));
}

CASE(poll_of_nothing_waits_for_its_timeout) {
    long before = milliseconds();
    CHECK(poll(NULL, 0, 20) == 0);
    CHECK(milliseconds() - before >= 19);
}

CASE(poll_tells_of_closed_descriptors) {
    struct pollfd two[2] = {{-1, POLLIN, 7}, {999, POLLIN, 0}};
    CHECK(poll(two, 2, 1000) == 1);
    CHECK(two[0].revents == 0 && two[1].revents == POLLNVAL);
}

CASE(poll_sees_what_is_ready) {
    struct pollfd one = {DO(eventfd(0, 0)), POLLIN | POLLOUT, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLOUT);
    ring(one.fd);
    CHECK(poll(&one, 1, 0) == 1 && one.revents == (POLLIN | POLLOUT));
}

CASE(files_are_always_ready) {
    put("file", "");
    struct pollfd one = {DO(open("file", O_RDONLY)), POLLIN | POLLOUT, 0};
    CHECK(poll(&one, 1, 1000) == 1 && one.revents == (POLLIN | POLLOUT));
}

CASE(ppoll_refuses_a_bad_time) {
    struct timespec wrong = {0, 1000000000};
    FAILS(EINVAL, ppoll(NULL, 0, &wrong, NULL));
    FAILS(EFAULT, syscall(SYS_ppoll, (void *)8, 1, NULL, NULL, 8));
}

static volatile int called;
static void note(int signal) { called++; }

CASE(ppoll_lets_a_signal_in_while_it_waits) {
    sigset_t set, none;
    signal(SIGUSR1, note);
    called = 0;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    CHECK(called == 0);
    FAILS(EINTR, ppoll(NULL, 0, NULL, &none));
    CHECK(called == 1);
}

CASE(select_marks_what_is_ready) {
    int ends[2];
    fd_set read, write;
    struct timeval time = {1, 0};
    DO(pipe(ends));
    FD_ZERO(&read);
    FD_ZERO(&write);
    FD_SET(ends[0], &read);
    FD_SET(ends[1], &write);
    CHECK(select(ends[1] + 1, &read, &write, NULL, &time) == 1);
    CHECK(!FD_ISSET(ends[0], &read) && FD_ISSET(ends[1], &write));
}

CASE(select_leaves_no_time_when_it_waited) {
    struct timeval time = {0, 10000};
    CHECK(select(0, NULL, NULL, NULL, &time) == 0);
    CHECK(time.tv_sec == 0 && time.tv_usec == 0);
    time.tv_sec = -1;
    FAILS(EINVAL, select(0, NULL, NULL, NULL, &time));
    FAILS(EINVAL, select(-1, NULL, NULL, NULL, NULL));
}

CASE(select_of_a_closed_descriptor_is_ebadf) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(700, &set);
    DO(dup2(0, 701));
    FAILS(EBADF, select(702, &set, NULL, NULL, NULL));
    close(701);
}

CASE(pselect_lets_a_signal_in_while_it_waits) {
    sigset_t set, none;
    signal(SIGUSR2, note);
    called = 0;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR2);
    FAILS(EINTR, pselect(0, NULL, NULL, NULL, NULL, &none));
    CHECK(called == 1);
}

CASE(a_level_is_told_again_and_again) {
    struct epoll_event event = {EPOLLIN, {.u64 = 0x123456789abcdef0}}, got;
    int set = DO(epoll_create1(0)), fd = DO(eventfd(1, 0));
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    for (int i = 0; i < 3; i++) CHECK(epoll_wait(set, &got, 1, 1000) == 1 && got.data.u64 == 0x123456789abcdef0);
}

CASE(an_edge_is_told_once) {
    struct epoll_event event = {EPOLLIN | EPOLLET, {0}}, got;
    int set = DO(epoll_create1(0)), fd = DO(eventfd(1, 0));
    DO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK(epoll_wait(set, &got, 1, 1000) == 1);
    CHECK(epoll_wait(set, &got, 1, 0) == 0);
    ring(fd);
    CHECK(epoll_wait(set, &got, 1, 1000) == 1);
}

CASE(one_shot_is_told_until_it_is_armed_again) {
    struct epoll_event event = {EPOLLIN | EPOLLONESHOT, {0}}, got;
    int set = DO(epoll_create1(0)), fd = DO(eventfd(1, 0));
    DO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK(epoll_wait(set, &got, 1, 1000) == 1);
    CHECK(epoll_wait(set, &got, 1, 0) == 0);
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event) == 0);
    CHECK(epoll_wait(set, &got, 1, 1000) == 1);
}

CASE(an_exclusive_watch_cannot_be_changed) {
    struct epoll_event event = {EPOLLIN | EPOLLEXCLUSIVE, {0}};
    int set = DO(epoll_create1(0)), fd = DO(eventfd(0, 0));
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    FAILS(EINVAL, epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    event.events |= EPOLLONESHOT;
    FAILS(EINVAL, epoll_ctl(set, EPOLL_CTL_ADD, DO(eventfd(0, 0)), &event));
}

CASE(a_set_knows_its_members) {
    struct epoll_event event = {EPOLLIN, {0}};
    int set = DO(epoll_create1(0)), fd = DO(eventfd(0, 0));
    FAILS(ENOENT, epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    FAILS(ENOENT, epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    FAILS(EEXIST, epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) == 0);
    FAILS(EBADF, epoll_ctl(set, EPOLL_CTL_ADD, 999, &event));
    FAILS(EINVAL, epoll_ctl(set, EPOLL_CTL_ADD, set, &event));
    FAILS(EINVAL, epoll_ctl(fd, EPOLL_CTL_ADD, set, &event));
    FAILS(EINVAL, epoll_ctl(set, 77, fd, &event));
    FAILS(EFAULT, epoll_ctl(set, EPOLL_CTL_ADD, fd, (void *)8));
}

CASE(files_cannot_be_watched) {
    struct epoll_event event = {EPOLLIN, {0}};
    put("file", "x");
    FAILS(EPERM, epoll_ctl(DO(epoll_create1(0)), EPOLL_CTL_ADD, DO(open("file", O_RDONLY)), &event));
}

CASE(epoll_wait_refuses_no_room) {
    struct epoll_event got;
    int set = DO(epoll_create1(0));
    FAILS(EINVAL, epoll_wait(set, &got, 0, 0));
    FAILS(EINVAL, epoll_wait(set, &got, -1, 0));
    FAILS(EINVAL, epoll_wait(DO(eventfd(0, 0)), &got, 1, 0));
    FAILS(EINVAL, epoll_create1(77));
    FAILS(EINVAL, epoll_create(0));
}

CASE(a_closed_member_leaves_the_set) {
    struct epoll_event event = {EPOLLIN, {0}}, got;
    int set = DO(epoll_create1(0)), fd = DO(eventfd(1, 0));
    DO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    close(fd);
    CHECK(epoll_wait(set, &got, 1, 0) == 0);
}

CASE(a_set_in_a_set_is_ready_when_its_member_is) {
    struct epoll_event event = {EPOLLIN, {.u32 = 5}}, got;
    int outer = DO(epoll_create1(0)), inner = DO(epoll_create1(0)), fd = DO(eventfd(0, 0));
    DO(epoll_ctl(inner, EPOLL_CTL_ADD, fd, &event));
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event) == 0);
    FAILS(ELOOP, epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event));
    CHECK(epoll_wait(outer, &got, 1, 0) == 0);
    ring(fd);
    CHECK(epoll_wait(outer, &got, 1, 1000) == 1 && got.data.u32 == 5);
}

CASE(epoll_pwait2_waits_by_nanoseconds) {
    struct epoll_event got;
    struct timespec time = {0, 3000000}, wrong = {0, -1};
    int set = DO(epoll_create1(0));
    CHECK(syscall(SYS_epoll_pwait2, set, &got, 1, &time, NULL, 8) == 0);
    FAILS(EINVAL, syscall(SYS_epoll_pwait2, set, &got, 1, &wrong, NULL, 8));
}

static void *ring_later(void *fd) {
    nap(10);
    ring((int)(long)fd);
    return NULL;
}

CASE(another_thread_ends_the_wait) {
    struct epoll_event event = {EPOLLIN, {0}}, got;
    pthread_t thread;
    int set = DO(epoll_create1(0)), fd = DO(eventfd(0, 0));
    DO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    pthread_create(&thread, NULL, ring_later, (void *)(long)fd);
    CHECK(epoll_wait(set, &got, 1, 5000) == 1);
    pthread_join(thread, NULL);
}

CASE(a_timerfd_counts_its_expirations) {
    struct itimerspec often = {{0, 1000000}, {0, 1000000}}, now;
    uint64_t times = 0;
    int fd = DO(timerfd_create(CLOCK_MONOTONIC, 0));
    CHECK(timerfd_settime(fd, 0, &often, NULL) == 0);
    nap(12);
    CHECK(read(fd, &times, 8) == 8 && times >= 10);
    CHECK(timerfd_gettime(fd, &now) == 0 && now.it_interval.tv_nsec == 1000000);
    often = (struct itimerspec){{0, 0}, {0, 0}};
    CHECK(timerfd_settime(fd, 0, &often, &now) == 0);
    DO(fcntl(fd, F_SETFL, O_NONBLOCK));
    FAILS(EAGAIN, read(fd, &times, 8));
}

CASE(a_pidfd_of_oneself_is_not_ready) {
    int fd = DO(syscall(SYS_pidfd_open, getpid(), 0));
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    FAILS(EINVAL, syscall(SYS_pidfd_open, -1, 0));
    FAILS(EINVAL, syscall(SYS_pidfd_open, getpid(), 0x100));
}
