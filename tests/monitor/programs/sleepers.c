// A server with threads that wait in every way there is, when the snapshot is taken; each path wakes some of them and says what it saw.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLEEPERS 3

static atomic_int plain[SLEEPERS], timed, moved, target, both, woken, requeued, timed_out, handled_by, answered;
static atomic_int served_word;
static atomic_int plain_tid[SLEEPERS], set_tid, ending;
static pthread_t plain_thread[SLEEPERS], set_thread;
static int set, event;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int tickets, served;

static long futex(atomic_int *word, int operation, int value, const struct timespec *limit, atomic_int *second, int value3) {
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, limit, second, value3);
}

static void raise_to(atomic_int *word, int value) {
    atomic_fetch_add(word, value);
    futex(word, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

static void until(atomic_int *word, int value) {
    int now;
    while ((now = atomic_load(word)) < value) futex(word, FUTEX_WAIT, now, 0, 0, 0);
}

static void handler(int signal) {
    (void)signal;
    atomic_store(&handled_by, syscall(SYS_gettid));
    futex(&handled_by, FUTEX_WAKE, INT_MAX, 0, 0, 0);
}

// Waits until its word is 1, adds to `woken`, and so on until it is to end.
static void *plain_sleeper(void *argument) {
    int number = (int)(long)argument;
    atomic_store(&plain_tid[number], syscall(SYS_gettid));
    for (;;) {
        while (atomic_load(&plain[number]) == 0) syscall(SYS_futex, &plain[number], FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, 0, 0, 1u << number);
        atomic_store(&plain[number], 0);
        raise_to(&woken, 1);
        if (atomic_load(&ending)) return (void *)(long)(100 + number);
    }
}

static void *timed_sleeper(void *argument) {
    struct timespec second = {1, 0};
    (void)argument;
    for (;;)
        if (futex(&timed, FUTEX_WAIT, 0, &second, 0, 0) < 0 && errno == ETIMEDOUT) raise_to(&timed_out, 1);
}

static void *moved_sleeper(void *argument) {
    (void)argument;
    while (atomic_load(&target) == 0) futex(&moved, FUTEX_WAIT, 0, 0, 0, 0);
    raise_to(&requeued, 1);
    for (;;) pause();
}

static void *both_sleeper(void *argument) {
    (void)argument;
    while (atomic_load(&both) == 0) futex(&both, FUTEX_WAIT, 0, 0, 0, 0);
    raise_to(&requeued, 1);
    for (;;) pause();
}

static void *set_sleeper(void *argument) {
    sigset_t signals;
    (void)argument;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_UNBLOCK, &signals, 0);
    atomic_store(&set_tid, syscall(SYS_gettid));
    for (;;) {
        struct epoll_event ready;
        int count = epoll_wait(set, &ready, 1, -1);
        // The signal came first.
        if (count < 0 && (errno != EINTR || !atomic_load(&handled_by))) abort();
        if (count == 1) {
            uint64_t value;
            if (read(event, &value, 8) == 8) raise_to(&answered, (int)value);
        }
    }
}

static void *condition_sleeper(void *argument) {
    (void)argument;
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (!tickets) pthread_cond_wait(&condition, &mutex);
        tickets--;
        served++;
        pthread_cond_broadcast(&condition);
    }
}

static void *napper(void *argument) {
    struct timespec nap = {0, 20000000};
    (void)argument;
    for (;;) nanosleep(&nap, 0);
}

static int tasks(void) {
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) count += entry->d_name[0] != '.';
    return count;
}

static void act(const char *path, char *out, size_t room) {
    if (!strcmp(path, "/nothing")) {
        snprintf(out, room, "tasks %d", tasks());
    } else if (!strcmp(path, "/wake")) {
        atomic_store(&plain[1], 1);
        futex(&plain[1], FUTEX_WAKE_BITSET, 5, 0, 0, 2);
        until(&woken, 1);
        snprintf(out, room, "woken %d", atomic_load(&woken));
    } else if (!strcmp(path, "/counts")) {
        // A thread that was just made again may not wait yet: only of records it is sure how many are woken.
        atomic_store(&plain[1], 1);
        long wrong = futex(&plain[1], FUTEX_WAKE_BITSET, 5, 0, 0, 1);
        long right = futex(&plain[1], FUTEX_WAKE_BITSET, 5, 0, 0, 2);
        until(&woken, 1);
        long zero = futex(&moved, FUTEX_WAKE, 0, 0, 0, 0), nobody = futex(&served_word, FUTEX_WAKE, 9, 0, 0, 0);
        snprintf(out, room, "wrong %ld right %ld zero %ld nobody %ld", wrong, right, zero, nobody);
    } else if (!strcmp(path, "/all")) {
        for (int number = 0; number < SLEEPERS; number++) {
            atomic_store(&plain[number], 1);
            futex(&plain[number], FUTEX_WAKE, 1, 0, 0, 0);
        }
        until(&woken, SLEEPERS);
        snprintf(out, room, "woken %d", atomic_load(&woken));
    } else if (!strcmp(path, "/join")) {
        long sum = 0;
        atomic_store(&ending, 1);
        for (int number = 0; number < SLEEPERS; number++) {
            void *value;
            atomic_store(&plain[number], 1);
            futex(&plain[number], FUTEX_WAKE, 1, 0, 0, 0);
            pthread_join(plain_thread[number], &value);
            sum += (long)value;
        }
        snprintf(out, room, "sum %ld tasks %d", sum, tasks());
    } else if (!strcmp(path, "/set")) {
        for (uint64_t value = 3; value < 6; value++)
            if (write(event, &value, 8) != 8) abort();
        until(&answered, 12);
        snprintf(out, room, "answered %d", atomic_load(&answered));
    } else if (!strcmp(path, "/signal")) {
        int there = syscall(SYS_tgkill, getpid(), set_tid, 0), none = syscall(SYS_tgkill, getpid(), 99999, 0) < 0 ? errno : 0;
        if (syscall(SYS_tgkill, getpid(), set_tid, SIGUSR1)) abort();
        until(&handled_by, 1);
        int handled = atomic_load(&handled_by) == set_tid;
        // Blocked there, and another thread waits on.
        if (syscall(SYS_tgkill, getpid(), plain_tid[0], SIGUSR1)) abort();
        atomic_store(&plain[0], 1);
        futex(&plain[0], FUTEX_WAKE, 1, 0, 0, 0);
        until(&woken, 1);
        snprintf(out, room, "there %d none %d handled %d still %d", there, none, handled, atomic_load(&handled_by) == set_tid);
    } else if (!strcmp(path, "/process-signal")) {
        // Blocked by all but the thread that waits for the set.
        if (kill(getpid(), SIGUSR2)) abort();
        until(&handled_by, 1);
        snprintf(out, room, "handled %d", atomic_load(&handled_by) == set_tid);
    } else if (!strcmp(path, "/time")) {
        until(&timed_out, 1);
        snprintf(out, room, "timed out");
    } else if (!strcmp(path, "/requeue")) {
        atomic_store(&target, 1);
        long refused = futex(&moved, FUTEX_CMP_REQUEUE, 1, (void *)1, &target, 7) < 0 ? errno : 0;
        // Until the thread really waits: it may only be about to.
        while (!atomic_load(&requeued)) {
            futex(&moved, FUTEX_CMP_REQUEUE, 0, (void *)1, &target, 0);
            futex(&target, FUTEX_WAKE, 1, 0, 0, 0);
            sched_yield();
        }
        snprintf(out, room, "refused %ld requeued %d", refused, atomic_load(&requeued));
    } else if (!strcmp(path, "/wake-op")) {
        atomic_int other = 0;
        futex(&other, FUTEX_WAKE_OP, 1, (void *)1, &both, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0));
        until(&requeued, 1);
        snprintf(out, room, "both %d requeued %d", atomic_load(&both), atomic_load(&requeued));
    } else if (!strcmp(path, "/condition")) {
        pthread_mutex_lock(&mutex);
        tickets = 50;
        pthread_cond_broadcast(&condition);
        while (served < 50) pthread_cond_wait(&condition, &mutex);
        snprintf(out, room, "served %d", served);
        pthread_mutex_unlock(&mutex);
    } else if (!strcmp(path, "/new")) {
        // New threads beside those that sleep.
        pthread_t threads[4];
        for (int number = 0; number < 4; number++) pthread_create(&threads[number], 0, (void *(*)(void *))tasks, 0);
        for (int number = 0; number < 4; number++) pthread_join(threads[number], 0);
        act("/all", out, room);
    } else if (!strcmp(path, "/fork")) {
        // In the child only its caller lives: nobody is there to be woken.
        int status = -1;
        pid_t child = fork();
        if (!child) {
            atomic_store(&plain[0], 1);
            _exit(futex(&plain[0], FUTEX_WAKE, 1, 0, 0, 0) * 100 + tasks());
        }
        if (child < 0 || waitpid(child, &status, 0) != child) abort();
        char rest[64];
        act("/all", rest, sizeof rest);
        snprintf(out, room, "child %d, %s", WEXITSTATUS(status), rest);
    } else if (!strcmp(path, "/exit")) {
        exit(3);
    }
}

int main(int argc, char **argv) {
    sigset_t signals;
    pthread_t thread;
    struct sigaction action = {.sa_handler = handler};
    (void)argc, (void)argv;
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGUSR2, &action, 0);
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, 0);
    set = epoll_create1(0);
    event = eventfd(0, 0);
    struct epoll_event interest = {EPOLLIN, {.fd = event}};
    epoll_ctl(set, EPOLL_CTL_ADD, event, &interest);
    for (long number = 0; number < SLEEPERS; number++) pthread_create(&plain_thread[number], 0, plain_sleeper, (void *)number);
    pthread_create(&set_thread, 0, set_sleeper, 0);
    pthread_create(&thread, 0, timed_sleeper, 0);
    pthread_create(&thread, 0, moved_sleeper, 0);
    pthread_create(&thread, 0, both_sleeper, 0);
    pthread_create(&thread, 0, condition_sleeper, 0);
    pthread_create(&thread, 0, condition_sleeper, 0);
    pthread_create(&thread, 0, napper, 0);
    while (!set_tid || !plain_tid[0] || !plain_tid[1] || !plain_tid[2]) sched_yield();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 16)) return 5;
    for (;;) {
        int connection = accept(listener, 0, 0);
        char request[4096] = "", path[64] = "", body[256] = "", text[512];
        if (read(connection, request, sizeof request - 1) <= 0) return 6;
        sscanf(request, "%*s %63s", path);
        // The rehearsal's: wakes one of each kind, so that some stand by in the calls.
        if (!strcmp(path, "/")) act("/wake", body, sizeof body), act("/set", body, sizeof body);
        else act(path, body, sizeof body);
        int length = snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
        if (write(connection, text, length) != length) return 7;
        close(connection);
    }
}
