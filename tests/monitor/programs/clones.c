// A server that says in a call whether it is still who it was before the snapshot: what runtimes remember of themselves.
// Built with GENERATOR it holds the mark of OpenSSL's generator. With the argument `threads` one thread waits in an epoll set, to which
// the main thread adds the listener through another descriptor, and then waits for something else.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef GENERATOR
static const char *volatile mark = "OpenSSL NIST SP 800-90A DRBG";
#endif
static pid_t pid, tid;
static volatile pid_t sender;
static int listener, set, calls;

static void noted(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    sender = info->si_pid;
}

static const char *say(int good) { return good ? "same" : "DIFFERENT"; }

static void answer(int connection) {
    char request[4096], link[64] = "", number[16], text[1024], reply[2048];
    if (read(connection, request, sizeof request) <= 0) return;
    calls++;
    ssize_t length = readlink("/proc/self", link, sizeof link - 1);
    if (length < 0) link[0] = 0;
    snprintf(number, sizeof number, "%d", pid);
    sender = -1;
    raise(SIGUSR1);
    int raised = sender == pid;
    sender = -1;
    kill(pid, SIGUSR1);
    int killed = sender == pid;
    char status[64];
    snprintf(status, sizeof status, "/proc/self/task/%d/status", tid);
    length = snprintf(text, sizeof text, "getpid %s, gettid %s, raise %s, kill %s, tgkill %s, /proc/self %s, task %s, calls %d\n",
                      say(getpid() == pid), say(syscall(SYS_gettid) == tid), say(raised), say(killed),
                      say(syscall(SYS_tgkill, pid, tid, 0) == 0), say(strcmp(link, number) == 0), say(access(status, R_OK) == 0), calls);
    length = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zd\r\n\r\n%s", length, text);
    if (write(connection, reply, (size_t)length) != length) abort();
    close(connection);
}

static void *waits(void *nothing) {
    struct epoll_event event;
    while (epoll_wait(set, &event, 1, -1) != 1 || event.data.fd != listener) {
    }
    answer(accept(listener, NULL, NULL));
    return nothing;
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    pid = getpid();
    tid = (pid_t)syscall(SYS_gettid);
    struct sigaction action = {.sa_sigaction = noted, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(getenv("PORT")))};
    if (bind(listener, (struct sockaddr *)&address, sizeof address)) return 1;
    if (strcmp(mode, "threads") == 0) {
        set = epoll_create1(0);
        int other = dup(set), wakes = eventfd(0, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = wakes};
        epoll_ctl(set, EPOLL_CTL_ADD, wakes, &event);
        pthread_t thread;
        pthread_create(&thread, NULL, waits, NULL);
        sigset_t others;
        sigfillset(&others);
        pthread_sigmask(SIG_BLOCK, &others, NULL);
        listen(listener, 8);
        event.data.fd = listener;
        epoll_ctl(other, EPOLL_CTL_ADD, listener, &event);
        pthread_join(thread, NULL);
        return 0;
    }
    listen(listener, 8);
    for (;;) answer(accept(listener, NULL, NULL));
}
